# SPDX-License-Identifier: Apache-2.0
"""The kernel mains on a GPU, where there is one, and under compute-sanitizer if installed."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import torch

from tests.simt import programs
from tests.simt.programs import HERE, OK, ROOT, WORDS, find_program

# The other mains test the simulation itself.
GPU_WORDS = [w for w in WORDS if "Host compilers only" not in (HERE / f"{w}_main.cpp").read_text()]
NVCC = find_program("nvcc")
SANITIZER = find_program("compute-sanitizer")

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available() or NVCC is None, reason="needs a GPU and nvcc"
)


@pytest.fixture(scope="session")
def gpu_program(tmp_path_factory):
    """Compiles a main, once, for the GPU at hand."""
    folder = tmp_path_factory.mktemp("gpu")
    try:
        programs.build(ROOT / "build" / "simt-tests", targets=("via_cpu_plain",))
    except programs.NotPossible as reason:
        pytest.skip(str(reason))

    def compile_main(word: str) -> Path:
        program = folder / word
        if not program.exists():
            major, minor = torch.cuda.get_device_capability()
            architecture = f"sm_{major}{minor}{'a' if major == 9 else ''}"
            programs.compile_for_gpu(str(NVCC), word, architecture, program)
        return program

    return compile_main


@pytest.mark.parametrize("word", GPU_WORDS)
def test_main_on_the_gpu(gpu_program, word):
    result = programs.run(gpu_program(word))
    assert result.status == OK, result.output


@pytest.mark.skipif(SANITIZER is None, reason="compute-sanitizer is not installed")
@pytest.mark.parametrize("tool", ["memcheck", "racecheck", "synccheck"])
@pytest.mark.parametrize("word", GPU_WORDS)
def test_main_under_compute_sanitizer(gpu_program, word, tool):
    command = [str(SANITIZER), f"--tool={tool}", "--error-exitcode=99", str(gpu_program(word))]
    result = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert result.returncode == OK, result.stdout[-4000:]
