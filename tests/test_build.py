# SPDX-License-Identifier: Apache-2.0
"""The build: CMake's choices, what an import loads, and what it says when something is missing."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import via_ext

ROOT = Path(__file__).resolve().parent.parent
CMAKE = shutil.which("cmake", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
DEFAULT = "80-real;90a-real;100-real;120-real;80-virtual"
needs_cmake = pytest.mark.skipif(CMAKE is None, reason="cmake is not installed")


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs `code` in a fresh interpreter from outside the source folder."""
    path = os.pathsep.join(filter(None, [environment.pop("PYTHONPATH", ""), str(ROOT)]))
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment, "PYTHONPATH": path},
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def choose(tmp_path: Path):
    """Runs the architecture rules as a CMake script with stand-ins for nvcc and nvidia-smi."""
    nvcc = tmp_path / "nvcc"
    nvcc.write_text('#!/bin/sh\nfor a in 75 80 86 90 100 120; do echo "compute_$a"; done\n')
    nvcc.chmod(0o755)

    def run(*definitions: str, gpu: str = "", known: str = "", **environment: str):
        if known:
            nvcc.write_text(f'#!/bin/sh\nfor a in {known}; do echo "compute_$a"; done\n')
        smi = tmp_path / "nvidia-smi"
        smi.write_text(f"#!/bin/sh\n[ -n '{gpu}' ] || exit 9\nprintf '{gpu}\\n'\n")
        smi.chmod(0o755)
        inherited = {k: v for k, v in os.environ.items() if k not in ("CUDAARCHS",)}
        inherited.pop("TORCH_CUDA_ARCH_LIST", None)
        script = ROOT / "cmake" / "via_cuda_architectures.cmake"
        result = subprocess.run(
            [str(CMAKE), f"-DVIA_NVCC={nvcc}", *definitions, "-P", str(script)],
            env={**inherited, **environment, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            check=False,
        )
        found = re.search(r"CUDA architectures: (.*)", result.stdout)
        return found.group(1) if found else None, result.stderr

    return run


@needs_cmake
def test_architecture_precedence(choose):
    torch_list = {"TORCH_CUDA_ARCH_LIST": "8.0;8.6 9.0a+PTX"}
    assert choose()[0] == DEFAULT
    assert choose(gpu="9.0\\n8.0\\n8.0")[0] == "90a-real;80-real"
    assert choose(gpu="9.0", **torch_list)[0] == "80-real;86-real;90a-real;90a-virtual"
    assert choose(CUDAARCHS="86-real", **torch_list)[0] == "86-real"
    assert choose("-DCMAKE_CUDA_ARCHITECTURES=75", CUDAARCHS="86-real", **torch_list)[0] == "75"


@needs_cmake
def test_torch_architecture_names(choose):
    assert choose(TORCH_CUDA_ARCH_LIST="Ampere Hopper")[0] == (
        "80-real;86-real;86-virtual;90-real;90-virtual"
    )
    chosen, errors = choose(TORCH_CUDA_ARCH_LIST="Voltaire")
    assert chosen is None
    assert "TORCH_CUDA_ARCH_LIST must name versions" in errors
    assert "Voltaire" in errors


@needs_cmake
def test_default_leaves_out_what_nvcc_does_not_know(choose):
    assert choose(known="70 80 90")[0] == "80-real;90a-real;80-virtual"


@needs_cmake
@pytest.mark.parametrize("word", ["native", "all", "all-major"])
def test_words_are_resolved(choose, word):
    chosen, errors = choose(CUDAARCHS=word)
    expected = {
        "native": DEFAULT,
        "all": "75-real;80-real;86-real;90-real;100-real;120-real;120-virtual",
        "all-major": "80-real;90-real;100-real;120-real;120-virtual",
    }
    assert chosen == expected[word]
    assert ("needs a visible GPU" in errors) == (word == "native")
    assert choose(CUDAARCHS="native", gpu="8.9")[0] == "89-real"


def configure(tmp_path: Path, *definitions: str, **environment: str):
    return subprocess.run(
        [str(CMAKE), "-S", str(ROOT), "-B", str(tmp_path), "-DVIA_EXT_PYTHON=OFF", *definitions],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@needs_cmake
def test_cuda_on_without_nvcc_is_an_error(tmp_path):
    nowhere = {"CUDACXX": "/nonexistent/nvcc", "CUDA_HOME": ""}
    result = configure(tmp_path / "on", "-DVIA_EXT_CUDA=ON", **nowhere)
    assert result.returncode != 0
    assert "VIA_EXT_CUDA=ON needs a working nvcc" in result.stderr
    result = configure(tmp_path / "auto", "-DVIA_EXT_CUDA=AUTO", **nowhere)
    assert result.returncode == 0, result.stderr
    assert "without CUDA" in result.stdout


@needs_cmake
def test_unknown_switch_is_an_error(tmp_path):
    result = configure(tmp_path, "-DVIA_EXT_CUDA=maybe")
    assert result.returncode != 0
    assert "VIA_EXT_CUDA must be AUTO, ON or OFF, got maybe" in result.stderr


@pytest.mark.parametrize("broken", ["ensurepip", "wheels"])
def test_python_that_cannot_create_environments(tmp_path, broken):
    """Debian without python3-venv: one line says what to install."""
    code = (
        "import importlib.util, runpy, sys\n"
        "find = importlib.util.find_spec\n"
        "if sys.argv.pop(1) == 'ensurepip':\n"
        "    importlib.util.find_spec = lambda name: None if name == 'ensurepip' else find(name)\n"
        "else:\n"
        "    sys.executable = '/bin/false'\n"
        "sys.argv.pop(0)\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    script = ROOT / "tools" / "make_venv.py"
    done = subprocess.run(
        [sys.executable, "-c", code, broken, str(script), str(tmp_path / "venv"), "torch"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1 and not (tmp_path / "venv").exists()
    assert done.stderr.count("\n") == 1 and "install python3-venv" in done.stderr


def test_build_info():
    info = via_ext.build_info()
    assert info["version"] == (ROOT / "VERSION").read_text().strip()
    assert isinstance(info["git_commit"], str)
    assert isinstance(info["cuda"], bool)
    assert (info["cuda_version"] is None) == (not info["cuda"])
    assert bool(info["cuda_architectures"]) == info["cuda"]
    assert info["cpu_isa"] in info["cpu_isas"]
    assert info["compiler"]


def test_info_command():
    result = subprocess.run(
        [sys.executable, "-m", "via_ext", "info"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert via_ext.build_info()["version"] in result.stdout


def test_info_with_core_dependencies_only():
    code = (
        "import sys; sys.modules['typer'] = None\n"
        "import importlib.util as u; find = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'typer' else find(name, *a)\n"
        "import runpy; sys.argv = ['via-ext', {!r}]\n"
        "runpy.run_module('via_ext', run_name='__main__')\n"
    )
    good = run_python(code.format("info"))
    assert good.returncode == 0, good.stderr
    assert "cpu_isa" in good.stdout
    assert run_python(code.format("nonsense")).returncode == 2


def test_import_loads_neither_transformers_nor_cuda():
    code = (
        "import sys, via_ext\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)\n"
        "from via_ext import ops\n"
        "import torch\n"
        "assert not torch.cuda.is_initialized()\n"
        "assert 'transformers' not in sys.modules\n"
        "assert 'via_ext.torch_ops' not in sys.modules\n"
        "import ctypes\n"
        "maps = open('/proc/self/maps').read()\n"
        "assert 'libcuda.so' not in maps, 'a driver was loaded'\n"
    )
    result = run_python(code)
    assert result.returncode == 0, result.stderr


def test_native_module_needs_no_cuda_library():
    module = next((ROOT / "via_ext").glob("_C.*.so"))
    if shutil.which("ldd") is None:
        pytest.skip("ldd is not installed")
    listing = subprocess.run(["ldd", str(module)], capture_output=True, text=True, check=True)
    assert not re.search(r"libcuda|libcudart|libtorch", listing.stdout)


def test_old_torch_names_the_floor(tmp_path):
    (tmp_path / "torch.py").write_text("__version__ = '2.9.1'\n")
    facts = tmp_path / "torch-2.9.1.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 2.9.1\n")
    for first in ("", "import torch; "):
        result = run_python(first + "import via_ext", PYTHONPATH=str(tmp_path))
        last = result.stderr.strip().splitlines()[-1]
        assert last.startswith("ImportError: via_ext needs torch >= 2.10"), result.stderr
        assert "2.9.1" in last


def test_missing_native_module_says_how_to_build():
    code = "import sys; sys.modules['via_ext._C'] = None; from via_ext import ops"
    last = run_python(code).stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: via_ext._C, the native module, cannot be loaded")
    assert "make ext" in last


@pytest.mark.skipif(shutil.which("nm") is None, reason="nm is not installed")
def test_instruction_sets_share_no_symbols():
    """One inline function compiled for AVX-512 and kept for all would crash older CPUs."""
    objects = list((ROOT / "build" / "ext").glob("CMakeFiles/via_cpu_v*.dir/**/*.o"))
    if not objects:
        pytest.skip("not built in build/ext")
    for path in objects:
        isa = "isa_" + re.search(r"via_cpu_(v\d)", str(path)).group(1)
        listing = subprocess.run(
            ["nm", "-C", str(path)], capture_output=True, text=True, check=True
        )
        for line in listing.stdout.splitlines():
            kind, name = line[17:18], line[19:]
            if kind in "TWVuiB":
                assert isa in name, f"{path.name}: {name} is not in namespace {isa}"
