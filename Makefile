# SPDX-License-Identifier: Apache-2.0
# Every target does its own set-up in .venv and build/; a second run finds it done.
SHELL := /bin/bash
PYTHON ?= python3
TORCH ?= torch==2.13.0
JOBS ?= $(shell nproc 2>/dev/null || echo 2)
# nvcc takes minutes: worth it only where a GPU can run the result.
VIA_EXT_CUDA ?= $(if $(shell nvidia-smi -L 2>/dev/null),AUTO,OFF)
PYTEST_ARGS ?=
MUTATE_ARGS ?=
export VIA_EXT_CUDA

# Where cmake/via_simulate.cmake looks for them.
CUDA_HEADERS := $(wildcard $(CUDA_HOME)/include/cuda_bf16.h $(CUDA_PATH)/include/cuda_bf16.h \
  /usr/local/cuda/include/cuda_bf16.h)

VENV := .venv
# Quoted wherever it is used: the folder's name may hold spaces.
BIN := $(CURDIR)/$(VENV)/bin
BUILD := build/ext
# Re-used packages keep their programs in their own folder; tools_path names it.
TOOLS = PATH="$(BIN):$$(cat $(VENV)/tools_path):$$PATH"
PIP := "$(BIN)/python" -m pip --disable-pip-version-check install -q -c $(VENV)/constraints.txt
# The editable install and `make ext` share one CMake folder, so nothing is compiled twice.
EDITABLE = $(TOOLS) VIA_EXT_BUILD_DIR=$(BUILD) MAX_JOBS=$(JOBS) $(PIP) --no-build-isolation -e
CXX_FILES = $(shell find csrc tests/simt -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh')

.PHONY: help demo test mutate lint format ext simt bench gpu-check clean stubs
.DEFAULT_GOAL := help

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' Makefile | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 10

demo: $(VENV)/.hf ext  ## decode real text with the embedded pair
	@"$(BIN)/via-ext" demo

test: $(VENV)/.dev ext $(if $(CUDA_HEADERS),simt)  ## all tests (PYTEST_ARGS="-k verify" for some)
	"$(BIN)/python" -m pytest $(PYTEST_ARGS)

mutate: $(VENV)/.dev  ## leave out one kernel barrier at a time: a test must notice (MUTATE_ARGS)
	$(TOOLS) "$(BIN)/python" tests/simt/mutate.py $(MUTATE_ARGS)

lint: $(VENV)/.dev  ## ruff, mypy, clang-format, and whether _C.pyi is current
	$(TOOLS) ruff check .
	$(TOOLS) ruff format --check .
	"$(BIN)/python" -m mypy
	$(TOOLS) clang-format --dry-run -Werror $(CXX_FILES)
	@$(MAKE) --no-print-directory stubs STUBS=build/stubs
	diff -u via_ext/_C.pyi build/stubs/via_ext/_C.pyi

format: $(VENV)/.dev  ## rewrite Python and C++ files in the house style
	$(TOOLS) ruff check --fix .
	$(TOOLS) ruff format .
	$(TOOLS) clang-format -i $(CXX_FILES)

STUBS := .
stubs: $(VENV)/.dev ext  ## regenerate via_ext/_C.pyi
	@mkdir -p build && "$(BIN)/python" -m pybind11_stubgen via_ext._C -o $(STUBS) \
	  > build/stubgen.log 2>&1 || { cat build/stubgen.log; exit 1; }
	@sed -i '1i # SPDX-License-Identifier: Apache-2.0' $(STUBS)/via_ext/_C.pyi

ext: $(VENV)/.hf  ## compile via_ext._C (incremental)
	@$(TOOLS) cmake -S . -B $(BUILD) -GNinja --log-level=WARNING -DVIA_EXT_CUDA=$(VIA_EXT_CUDA) \
	  -DVIA_EXT_PYTHON=ON -DPython_EXECUTABLE="$(BIN)/python" -DVIA_EXT_OUTPUT_DIR="$(CURDIR)/via_ext" > /dev/null
	@$(TOOLS) cmake --build $(BUILD) --parallel $(JOBS) -- --quiet

# Needs the CUDA headers, no nvcc and no GPU; `make test` builds it where they are.
simt: $(VENV)/.hf  ## compile the module whose operations run the CUDA kernels on the CPU
	@$(TOOLS) cmake -S . -B build/simt -GNinja --log-level=WARNING -DVIA_SIMULATE=ON \
	  -DVIA_EXT_CUDA=OFF -DVIA_EXT_PYTHON=ON -DPython_EXECUTABLE="$(BIN)/python" > /dev/null
	@$(TOOLS) cmake --build build/simt --parallel $(JOBS) -- --quiet

bench: $(VENV)/.dev ext  ## time the operations against plain PyTorch
	"$(BIN)/python" profiling/bench_ops.py

# Without .venv: the machine's own Python, which has torch and pybind11, and build/gpu.
STAGES ?= build,golden,tests,persistent,bench,sanitize
BUDGET_S ?= 540
OUT ?= profiling/results
gpu-check:  ## build, check and time everything on the GPU here (STAGES=, BUDGET_S=, OUT=)
	$(PYTHON) profiling/gpu_check.py --stages $(STAGES) --budget-s $(BUDGET_S) --out $(OUT)

clean:  ## remove everything that make created
	rm -rf build $(VENV) via_ext/_C*.so *.egg-info

$(VENV)/.created: tools/make_venv.py
	@$(PYTHON) tools/make_venv.py $(VENV) $(TORCH)
	@touch $@

$(VENV)/.hf: $(VENV)/.created pyproject.toml constraints.txt setup.py
	@echo "installing into $(VENV) (once)"
	@$(PIP) 'setuptools>=77' 'pybind11>=3.0' 'cmake>=3.24' ninja
	@$(EDITABLE) '.[hf]'
	@touch $@

$(VENV)/.dev: $(VENV)/.hf
	@$(EDITABLE) '.[hf,dev]'
	@touch $@
