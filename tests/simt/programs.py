# SPDX-License-Identifier: Apache-2.0
"""Builds and runs the kernel mains of this folder; used by tests/test_simt*.py and mutate.py."""

from __future__ import annotations

import fcntl
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
BUILDS = ("plain", "asan", "race")
WORDS = sorted(path.name.removesuffix("_main.cpp") for path in HERE.glob("*_main.cpp"))
# Exit statuses of the mains.
OK, WRONG, LAYER_ERROR, SANITIZER = 0, 1, 86, 99
HANG = -1  # killed at the time limit


class NotPossible(Exception):
    """This machine cannot run the simulation; the text says why."""


@dataclass(frozen=True)
class Result:
    status: int
    output: str


def find_program(name: str) -> str | None:
    return shutil.which(name, path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")


def build(
    folder: Path, *definitions: str, targets: tuple[str, ...] = (), jobs: int | None = None
) -> None:
    """Configures and compiles `targets` (all programs by default) in `folder`.

    Raises NotPossible, or RuntimeError with the compiler's messages.
    """
    cmake, ninja = find_program("cmake"), find_program("ninja")
    if cmake is None or ninja is None:
        raise NotPossible("cmake and ninja are not installed")
    if platform.machine() not in ("x86_64", "AMD64"):
        raise NotPossible(f"no context switch for {platform.machine()}")
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        configure = [cmake, "-S", str(HERE), "-B", str(folder), "-G", "Ninja"]
        configure += [f"-DCMAKE_MAKE_PROGRAM={ninja}", *definitions]
        result = subprocess.run(configure, capture_output=True, text=True, check=False)
        if "needs the CUDA headers" in result.stderr:
            raise NotPossible("no CUDA headers: set CUDA_HOME to a toolkit, nvcc is not needed")
        if result.returncode == 0:
            command = [cmake, "--build", str(folder), "--parallel", str(jobs or os.cpu_count())]
            if targets:
                command += ["--target", *targets]
            result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise RuntimeError(f"{result.stdout[-4000:]}{result.stderr[-4000:]}")


def run(
    program: Path,
    *arguments: str,
    schedule: str = "pct",
    seed: int = 1,
    limit_s: float = 120,
    **environment: str,
) -> Result:
    """Runs a main under a schedule (fifo, lifo, random, pct) and a seed."""
    settings = {
        "VIA_SIMT_SCHED": schedule,
        "VIA_SIMT_SEED": str(seed),
        "ASAN_OPTIONS": f"exitcode={SANITIZER}",
        "UBSAN_OPTIONS": f"exitcode={SANITIZER}:print_stacktrace=1",
    }
    try:
        result = subprocess.run(
            [str(program), *arguments],
            env={**os.environ, **settings, **environment},
            capture_output=True,
            text=True,
            errors="replace",
            timeout=limit_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Result(HANG, f"not finished after {limit_s} s")
    return Result(result.returncode, result.stdout + result.stderr)
