# SPDX-License-Identifier: Apache-2.0
"""Compiles the .cu files of this folder with plain nvcc calls; finished binaries are kept."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
CACHE = ROOT / "build" / "s0"


def find_nvcc() -> str | None:
    """Nvcc from CUDACXX, CUDA_HOME, PATH or the usual folder."""
    home = os.environ.get("CUDA_HOME", "/usr/local/cuda")
    for candidate in (os.environ.get("CUDACXX"), f"{home}/bin/nvcc", "nvcc"):
        found = shutil.which(candidate) if candidate else None
        if found:
            return found
    return None


def architecture(compute_capability: str) -> str:
    """'9.0' -> '90a': from 9.0 on, the variant that has the architecture's own instructions."""
    major, minor = compute_capability.split(".")
    return f"{major}{minor}" + ("a" if int(major) >= 9 else "")


def command_line(nvcc: str, source: Path, target: Path, arch: str) -> list[str]:
    """The whole build of one benchmark."""
    include = [f"-I{ROOT / 'csrc'}", f"-I{HERE}"]
    code = f"-gencode=arch=compute_{arch},code=sm_{arch}"
    flags = ["-std=c++17", "-O3", "-lineinfo", "-Xptxas=-warn-spills", code]
    return [nvcc, *flags, *include, str(source), "-o", str(target)]


def source_hash(source: Path, nvcc: str, arch: str) -> str:
    """Changes with the source, any header that it can include, the architecture and nvcc."""
    digest = hashlib.sha256(f"{nvcc} {arch}".encode())
    headers = [*sorted(HERE.glob("*.cuh")), *sorted((ROOT / "csrc" / "device").glob("*.cuh"))]
    for path in [source, *headers]:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def build(name: str, nvcc: str, arch: str, timeout_s: float, cache: Path = CACHE) -> Path | str:
    """The binary of a benchmark, or what went wrong."""
    source = HERE / f"{name}.cu"
    target = cache / f"{name}-{source_hash(source, nvcc, arch)}"
    if target.exists():
        return target
    cache.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_suffix(f".{os.getpid()}")
    try:
        done = subprocess.run(
            command_line(nvcc, source, unfinished, arch),
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
    except (OSError, subprocess.SubprocessError) as error:
        return f"nvcc: {error}"
    if done.returncode != 0:
        lines = [line for line in (done.stderr + done.stdout).splitlines() if "error" in line]
        return lines[0] if lines else f"nvcc exits with {done.returncode}"
    unfinished.rename(target)
    return target


def build_all(
    names: list[str], nvcc: str, arch: str, timeout_s: float, cache: Path = CACHE
) -> dict[str, Path | str]:
    """Every benchmark, in parallel."""
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 2) as pool:
        jobs = {name: pool.submit(build, name, nvcc, arch, timeout_s, cache) for name in names}
        return {name: job.result() for name, job in jobs.items()}
