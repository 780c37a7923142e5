# SPDX-License-Identifier: Apache-2.0
"""The stages of gpu_check, as lists of items: what runs, how long it may take, how it is judged."""

from __future__ import annotations

import importlib.util
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import check_golden
import check_tests
from check_build import MODULE, build
from check_item import MAINS, Item, Setting
from check_report import Result
from check_runner import Ended
from machine import ROOT

BENCH_OPS_SHARE = 0.55  # of the stage's time; decoding has the rest
# A sanitizer slows kernels down by orders of magnitude: their wait loops must not give up.
RELAXED = {"VIA_EXT_WATCHDOG_MS": "600000"}


def golden(setting: Setting) -> Iterator[Item]:
    """Every primitive on the device against its host body, byte by byte."""
    if not check_golden.sources(setting.root):
        yield Item("primitives", [], 0, 0, skip=f"{MAINS}/golden_main.cpp is not there")
        return
    device, host = (setting.build / "golden" / side for side in ("device", "host"))
    for program, folder in zip(check_golden.PROGRAMS, (device, host), strict=True):
        path = setting.programs / program
        missing = "" if path.exists() else f"{program} was not built"
        start = partial(emptied, folder)
        yield Item(program, [str(path), str(folder)], 3, 60, skip=missing, prepare=start)
    yield Item(
        "primitives",
        [sys.executable, "-c", ""],
        1,
        60,
        needs=check_golden.PROGRAMS,
        judge=lambda _: check_golden.compare(device, host),
    )


def emptied(folder: Path) -> None:
    """Leaves an empty folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def removed(file: Path) -> None:
    """Leaves a folder without this file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.unlink(missing_ok=True)


def tests(setting: Setting) -> Iterator[Item]:
    """The operations' tests on cuda, one run per file."""
    for file in check_tests.files(setting.root):
        missing = check_tests.missing_modules(file, setting.root)
        report = setting.build / "tests" / f"{file.stem}.xml"
        yield Item(
            file.stem,
            check_tests.command(file, report),
            20,
            180,
            {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},  # other packages' plugins are none of ours
            skip=f"not installed: {', '.join(missing)}" if missing else "",
            needs=MODULE,
            prepare=partial(removed, report),
            judge=partial(check_tests.judge, file.stem, report),
        )


def bench(setting: Setting) -> Iterator[Item]:
    """The operations beside their peers, then decoding beside transformers'."""
    missing = "" if importlib.util.find_spec("transformers") else "not installed: transformers"
    for name, estimate, limit, share, skip in (
        ("bench_ops", 30, 400, 1.0 if missing else BENCH_OPS_SHARE, ""),
        ("bench_decode", 40, 300, 1.0, missing),
    ):
        script = ROOT / "profiling" / f"{name}.py"
        command = [sys.executable, str(script), "--device", "cuda", "--append"]
        command += ["--budget-s", "{budget}", "--out", str(setting.out / f"{name}_cuda.csv")]
        yield Item(name, command, estimate, limit, skip=skip, needs=MODULE, share=share)


def s0(setting: Setting) -> Iterator[Item]:
    """The micro-benchmarks, where they are."""
    script = ROOT / "profiling" / "s0" / "run.py"
    missing = "" if script.exists() else "profiling/s0/run.py is not there"
    command = [sys.executable, str(script), "--out", str(setting.out), "--budget-s", "{budget}"]
    yield Item("s0", command, 60, 590, skip=missing)


def persistent(setting: Setting) -> Iterator[Item]:
    """The persistent engine's mains twice, result against result, then its benchmark."""
    for name in (name for name in setting.mains() if name.startswith("persistent")):
        path = setting.programs / name
        missing = "" if path.exists() else f"{name} was not built"
        files = [setting.build / "persistent" / f"{name}.{run}" for run in ("first", "second")]
        for run, file in zip(("first", "second"), files, strict=True):
            env, start = {"VIA_MAIN_OUTPUT": str(file)}, partial(removed, file)
            yield Item(f"{name} {run}", [str(path)], 3, 90, env, skip=missing, prepare=start)
        yield Item(
            f"{name} repeats",
            [sys.executable, "-c", ""],
            1,
            60,
            skip=missing,
            needs=tuple(f"{name} {run}" for run in ("first", "second")),
            judge=partial(check_golden.repeats, name, *files),
        )
    needed = [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]
    script = ROOT / "profiling" / "bench_persistent.py"
    command = [sys.executable, str(script), "--append", "--budget-s", "{budget}"]
    command += ["--out", str(setting.out / "bench_persistent_cuda.csv")]
    missing = f"not installed: {', '.join(needed)}" if needed else ""
    yield Item("bench_persistent", command, 60, 300, skip=missing, needs=MODULE)


def sanitize(setting: Setting) -> Iterator[Item]:
    """Kernel mains as they are, then under memcheck and racecheck."""
    names = setting.mains()
    if not names:
        yield Item("kernel mains", [], 0, 0, skip=f"no {MAINS}/*_main.cpp")
        return
    tool = shutil.which("compute-sanitizer")
    for kind in ("plain", "memcheck", "racecheck"):
        for name in names:
            path = setting.programs / name
            missing = "" if path.exists() else f"{name} was not built"
            item = f"{kind} {name}"
            if kind == "plain":
                yield Item(item, [str(path)], 5, 60, skip=missing)
                continue
            yield Item(
                item,
                [str(tool), "--tool", kind, "--error-exitcode", "99", str(path)],
                15,
                150,
                RELAXED,
                skip=missing or ("" if tool else "compute-sanitizer is not on PATH"),
                judge=partial(sanitized, item),
            )


def sanitized(item: str, ended: Ended) -> Iterator[Result]:
    """What the sanitizer found; without a summary, or on a device it refuses, it did not run."""
    summary = re.search(r"(?:ERROR|RACECHECK) SUMMARY: (.*)", ended.output)
    refused = re.search(
        r"^.*(?:not supported|Internal Sanitizer|Unable to|Failed to init).*$",
        ended.output,
        re.MULTILINE | re.IGNORECASE,
    )
    if refused and ended.returncode:
        detail = f"compute-sanitizer did not run: {refused.group(0).strip('= ')}"
        yield Result(item, "skipped", detail, ended.seconds)
    elif ended.returncode or summary is None:
        detail = summary.group(1) if summary and not ended.timed_out else ended.reason()
        yield Result(item, "failed", detail, ended.seconds)
    else:
        yield Result(item, "passed", summary.group(1), ended.seconds)


STAGES: dict[str, Callable[[Setting], Iterator[Item]]] = {
    "build": build,
    "golden": golden,
    "tests": tests,
    "bench": bench,
    "persistent": persistent,
    "s0": s0,
    "sanitize": sanitize,
}
# Share of the time left, relative to the stages still to come; None: all of it.
WEIGHTS = {
    "build": None,
    "golden": None,
    "tests": 3,
    "bench": 3,
    "persistent": 3,
    "s0": 3,
    "sanitize": 2,
}
