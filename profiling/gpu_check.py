# SPDX-License-Identifier: Apache-2.0
"""Builds and checks everything on the GPU of this machine, inside a time budget.

    python3 profiling/gpu_check.py [--stages build,golden,tests,persistent,bench,sanitize]
                                   [--budget-s 540]
                                   [--out profiling/results] [--dry-run | --compile-only]

Needs nvcc, cmake, pybind11 and PyTorch for this Python; no network, no installation. Builds into
build/gpu, which the next call re-uses, and runs the package from the source tree. Stages run in
order of value; `s0`, the micro-benchmarks, only if named. A stage may use its share of the time
that is left, an item is started only if its estimate fits, and is stopped with all its processes at
its limit. Every result is a row of DIR/gpu_check.csv before the next item starts; the output of the
commands is in DIR/gpu_check.log, the benchmarks' rows in DIR/bench_ops_cuda.csv,
bench_decode_cuda.csv and bench_persistent_cuda.csv.

Exit code: 0 if all that ran passed, 1 if something failed, 2 for usage and without a GPU.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import machine
import status
from check_item import Item, Setting
from check_plan import STAGES, WEIGHTS
from check_report import Report, Result, facts
from check_runner import Budget, run

DEFAULT_STAGES = "build,golden,tests,persistent,bench,sanitize"
RESULTS = machine.ROOT / "profiling" / "results"
MARGIN_S = 8.0  # for the last rows and STATUS.md
RESERVE_S = 12  # a command told its budget ends that much before its limit


def parse(arguments: list[str]) -> argparse.Namespace:
    """Options; an unknown stage is a usage error."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--stages", default=DEFAULT_STAGES, help=f"of {', '.join(STAGES)}")
    parser.add_argument("--budget-s", type=float, default=540.0, help="seconds for everything")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the results")
    parser.add_argument("--build-dir", type=Path, default=machine.ROOT / "build" / "gpu")
    parser.add_argument("--architectures", help="CMake names; default: the GPU present")
    parser.add_argument("--commit", help="where the sources are no git checkout")
    parser.add_argument("--dry-run", action="store_true", help="print the plan, run nothing")
    parser.add_argument("--compile-only", action="store_true", help="stage build, without a GPU")
    options = parser.parse_args(arguments)
    options.stages = [name for name in options.stages.split(",") if name]
    for name in options.stages:
        if name not in STAGES:
            parser.error(f"--stages must name {', '.join(STAGES)}, got {name}")
    if options.budget_s <= 0:
        parser.error(f"--budget-s must be above 0, got {options.budget_s}")
    if options.compile_only:
        options.stages = ["build"]
    return options


def find_tools() -> None:
    """Puts the tools of this Python and of the CUDA toolkit on PATH, behind what is there."""
    home = os.environ.get("CUDA_HOME", "/usr/local/cuda")
    more = [str(Path(sys.executable).parent), f"{home}/bin", f"{home}/compute-sanitizer"]
    os.environ["PATH"] = os.pathsep.join([os.environ.get("PATH", os.defpath), *more])


def print_plan(options: argparse.Namespace, setting: Setting, gpu: machine.Gpu | None) -> None:
    """What would run, and why the rest would not."""
    print(f"GPU: {f'{gpu.name}, driver {gpu.driver}' if gpu else 'none'}")
    print(f"build: {setting.build} for {setting.architectures}; results: {setting.out}")
    for stage in options.stages:
        for item in STAGES[stage](setting):
            what = f"skipped: {item.skip}" if item.skip else " ".join(item.command)
            print(f"{stage:<9}{item.name:<24}>= {item.estimate:3.0f} s  {what}")


def run_item(item: Item, stage: Budget, log: Path, missed: set[str]) -> Iterator[Result]:
    """Runs one item, or says why not. `missed`: items of this run that did not pass."""
    unmet = [name for name in item.needs if name in missed]
    timeout = stage.part(item.share).timeout(item.estimate, item.limit)
    reason = item.skip or (f"{unmet[0]} did not pass" if unmet else "")
    if not reason and timeout is None:
        reason = f"needs about {item.estimate:.0f} s, {stage.left():.0f} s left"
    if reason or timeout is None:
        yield Result(item.name, "skipped", reason)
        return
    item.prepare()
    budget = str(max(1, int(timeout) - RESERVE_S))
    command = [budget if word == "{budget}" else word for word in item.command]
    path = os.pathsep.join(filter(None, [str(machine.ROOT), os.environ.get("PYTHONPATH")]))
    env = {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1", **item.env}
    yield from item.results(run(command, log, timeout, env, machine.ROOT))


def run_stages(stages: list[str], setting: Setting, report: Report, budget: Budget) -> None:
    """Runs the stages; what a stage leaves of its share goes to the later ones."""
    missed: set[str] = set()
    log = setting.out / "gpu_check.log"
    for index, stage in enumerate(stages):
        weight = WEIGHTS[stage]
        later = sum(WEIGHTS[name] or 0 for name in stages[index + 1 :])
        share = budget.part(1.0 if weight is None else weight / (weight + later))
        for item in STAGES[stage](setting):
            for result in run_item(item, share, log, missed):
                report.add(stage, result)
                if result.outcome != "passed":
                    missed.add(result.item)


def main(arguments: list[str]) -> int:
    """Runs what was asked for and returns the exit code."""
    options = parse(arguments)
    budget = Budget(options.budget_s, MARGIN_S)
    find_tools()
    gpu = machine.find_gpu()
    if gpu is None and not (options.dry_run or options.compile_only):
        print("gpu-check: no NVIDIA GPU is visible (nvidia-smi shows none)", file=sys.stderr)
        return 2
    targets = options.architectures or (gpu.architecture if gpu else "90a-real")
    out, folder = options.out.resolve(), options.build_dir.resolve()
    setting = Setting(out, targets, folder, runs=not options.compile_only)
    if options.dry_run:
        print_plan(options, setting, gpu)
        return 0
    # Ends through `finally`, so that the command in flight goes too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    commit = options.commit or machine.commit()
    os.environ["VIA_EXT_COMMIT"] = commit
    setting.out.mkdir(parents=True, exist_ok=True)
    report = Report(setting.out / "gpu_check.csv", facts(gpu, commit))
    print(", ".join(f"{name} {value}" for name, value in report.facts.items() if value))
    run_stages(options.stages, setting, report, budget)
    if setting.out == RESULTS:
        status.write(RESULTS)
    else:
        print(f"to keep: copy *.csv to {RESULTS}, then python3 profiling/status.py")
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
