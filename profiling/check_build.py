# SPDX-License-Identifier: Apache-2.0
"""The build stage of gpu_check: one CMake folder for the GPU present, re-used by the next call."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import check_golden
from check_item import Item, Setting
from check_report import Result
from check_runner import Ended

# Device query, and the check kernel on every device.
IMPORT = "from via_ext._build import describe_installation as d; print(*d(), sep='\\n')"
MODULE = ("module", "import")  # what a stage needs that calls the operations


def build(setting: Setting) -> Iterator[Item]:
    """Library, Python module and kernel mains, re-using the folder of the last call."""
    folder, jobs = setting.build, str(os.cpu_count() or 2)
    for tool in ("cmake", "nvcc"):
        if shutil.which(tool) is None:
            yield Item("configure", [], 0, 0, skip=f"{tool} is not on PATH")
            return
    configure = ["cmake", "-S", str(setting.root), "-B", str(folder), "-DVIA_EXT_CUDA=ON"]
    if shutil.which("ninja") and not (folder / "Makefile").exists():
        configure.append("-GNinja")
    if moved(folder, setting.root):
        configure.append("--fresh")
    configure += [
        f"-DCMAKE_CUDA_ARCHITECTURES={setting.architectures}",
        "-DVIA_EXT_PYTHON=AUTO",  # without pybind11 the kernel mains can still run
        f"-DPython_EXECUTABLE={sys.executable}",
        f"-DVIA_EXT_OUTPUT_DIR={setting.root / 'via_ext'}",
        "-DVIA_GPU_MAINS=ON",
    ]
    make = ["cmake", "--build", str(folder), "--parallel", jobs, "--target"]
    yield Item("configure", configure, 5, 180, judge=configured)
    yield Item("module", [*make, "place"], 5, 1e9, needs=("configure",))
    if setting.runs:
        command = [sys.executable, "-c", IMPORT]
        yield Item("import", command, 5, 90, needs=("module",), judge=imported)
    if setting.mains() or check_golden.sources(setting.root):
        go_on = ["--", "-k0"] if "-GNinja" in configure else ["--", "-k"]
        command = [*make, "via_gpu_mains", *go_on]
        # What is there afterwards has been linked by this call.
        start = partial(shutil.rmtree, setting.programs, ignore_errors=True)
        judge = partial(built, setting)
        yield Item("mains", command, 5, 1e9, needs=("configure",), prepare=start, judge=judge)


def moved(folder: Path, root: Path) -> bool:
    """Whether a build folder belongs to another place of the sources."""
    cache = folder / "CMakeCache.txt"
    if not cache.exists():
        return False
    home = re.search(r"^CMAKE_HOME_DIRECTORY:\w+=(.*)$", cache.read_text(), re.MULTILINE)
    return home is None or Path(home.group(1)) != root


def configured(ended: Ended) -> Iterator[Result]:
    """What CMake says about the targets and about the module."""
    said = re.findall(r"^-- via: (.*)$", ended.output, re.MULTILINE)
    detail = ended.reason() if ended.returncode else "; ".join(said)
    yield Result("configure", "failed" if ended.returncode else "passed", detail, ended.seconds)


def imported(ended: Ended) -> Iterator[Result]:
    """The module loads, and its check kernel ran from an image of this build."""
    ran = [line for line in ended.output.splitlines() if "cuda:0" in line]
    good = ended.returncode == 0 and bool(ran) and "runs the sm_" in ran[0]
    detail = ran[0].strip() if ran else ended.reason()
    yield Result("import", "passed" if good else "failed", detail, ended.seconds)


def built(setting: Setting, ended: Ended) -> Iterator[Result]:
    """One row per kernel main: it is there, or not; then the first error that names it."""
    names = setting.mains()
    if check_golden.sources(setting.root):
        names = [*check_golden.PROGRAMS, *names]
    for name in names:
        there = (setting.programs / name).exists()
        failed = re.search(rf"^FAILED: .*\b{name}\b.*\n(?:.*\n)*?(.*error.*)$", ended.output, re.M)
        reason = failed.group(1) if failed else ended.reason()
        outcome = "passed" if there else "failed"
        yield Result(f"main {name}", outcome, "" if there else reason, ended.seconds)
