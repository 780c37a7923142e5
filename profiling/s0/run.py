# SPDX-License-Identifier: Apache-2.0
"""Micro-benchmarks that decide the design of the persistent kernels, on the GPU that is present.

    python3 profiling/s0/run.py --out DIR [--budget-s 540] [--only NAME ...]

Needs an NVIDIA GPU and nvcc; the baselines need torch with CUDA. Nothing is installed, the project
need not be built. Each benchmark is a program of its own (a .cu file of this folder, or
baselines.py) that prints rows as JSON and has a time limit. Rows go to DIR/s0.csv as they come.
At the end: a table, and the decisions that the numbers inform.
Exit status: 0 done, 1 a result was wrong or a program failed, 2 no GPU or no nvcc.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from decisions import decisions
from nvcc_cache import HERE, architecture, build_all, find_nvcc
from rows import CsvWriter, Row, describe, find_machine, parse_row, print_table

# Benchmark -> seconds it may take, in the order of importance. A program stops between cases when
# its seconds are over, and is ended GRACE_S later.
LIMITS_S = {
    "read_bandwidth": 60.0,
    "grid_barrier": 30.0,
    "l2_bandwidth": 40.0,
    "mma_consume": 25.0,
    "wgmma_consume": 25.0,
    "coop_cluster": 20.0,
    "latency": 30.0,
    "launch_overhead": 20.0,
    "baselines": 400.0,
}
COMPILE_LIMIT_S = 120.0
GRACE_S = 10.0
LEAST_S = 5.0  # below this a program is not even started
SKIPPED_EXIT = 3


@dataclass(frozen=True)
class Deadline:
    """The end of the whole run."""

    end: float

    def left(self) -> float:
        """Seconds until then."""
        return self.end - time.monotonic()


def program(name: str, built: dict[str, Path | str]) -> list[str] | str:
    """The command of a benchmark, or why there is none."""
    if name == "baselines":
        return [sys.executable, str(HERE / "baselines.py")]
    found = built[name]
    return found if isinstance(found, str) else [str(found)]


def stop(process: subprocess.Popen[str]) -> None:
    """Ends the program and all that it started (compilers of torch.compile)."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        process.kill()


def run_program(name: str, command: Sequence[str], limit_s: float, writer: CsvWriter) -> None:
    """Runs one benchmark; its rows are written while it runs. A failure becomes a row."""
    timed_out = threading.Event()
    has_failed_row = False
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as messages:
        process = subprocess.Popen(
            [*command, f"{limit_s:.0f}"],
            stdout=subprocess.PIPE,
            stderr=messages,
            text=True,
            start_new_session=True,
        )

        def expire() -> None:
            timed_out.set()
            stop(process)

        timer = threading.Timer(limit_s + GRACE_S, expire)
        timer.start()
        assert process.stdout is not None
        for line in process.stdout:
            row = parse_row(line)
            if row is None:
                print(line.rstrip(), flush=True)
                continue
            writer.add(row)
            has_failed_row |= row.status == "failed"
            print(describe(row), flush=True)
        code = process.wait()
        timer.cancel()
        messages.seek(0)
        lines = [line.strip() for line in messages if line.strip()]
    if timed_out.is_set():
        writer.add(Row(name, status="failed", note=f"ended after {limit_s + GRACE_S:.0f} s"))
    elif code not in (0, SKIPPED_EXIT) and not has_failed_row:
        why = lines[-1] if lines else "no message"
        writer.add(Row(name, status="failed", note=f"exit status {code}: {why}"[:300]))


def run_all(
    names: Sequence[str], built: dict[str, Path | str], deadline: Deadline, writer: CsvWriter
) -> None:
    """Every benchmark within what is left of the budget."""
    for name in names:
        command = program(name, built)
        if isinstance(command, str):
            writer.add(Row(name, status="failed", note=command))
            continue
        limit_s = min(LIMITS_S[name], deadline.left() - GRACE_S)
        if limit_s < LEAST_S:
            writer.add(Row(name, status="skipped", note="no time left"))
            continue
        run_program(name, command, limit_s, writer)


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Micro-benchmarks of the present GPU")
    parser.add_argument("--out", type=Path, required=True, help="folder of s0.csv")
    parser.add_argument("--budget-s", type=float, default=540.0, help="seconds for everything")
    parser.add_argument("--only", nargs="+", choices=list(LIMITS_S), default=list(LIMITS_S))
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Compiles, runs, reports; returns the exit status."""
    options = parse_arguments(arguments)
    deadline = Deadline(time.monotonic() + options.budget_s)
    nvcc = find_nvcc()
    machine = find_machine(nvcc)
    if machine is None:
        print("s0: no NVIDIA GPU found (nvidia-smi reports none)")
        return 2
    if nvcc is None:
        print("s0: nvcc not found: put it on PATH, or set CUDA_HOME or CUDACXX")
        return 2
    print(machine, flush=True)
    sources = [name for name in options.only if name != "baselines"]
    arch = architecture(machine.compute_capability)
    built = build_all(sources, nvcc, arch, min(COMPILE_LIMIT_S, deadline.left()))
    writer = CsvWriter(options.out / "s0.csv", machine)
    try:
        run_all(options.only, built, deadline, writer)
    finally:
        writer.close()
    print_table(writer.rows)
    print("\nWhat this decides")
    for line in decisions(writer.rows):
        print(f"* {line}")
    failed = [row for row in writer.rows if row.status == "failed"]
    for row in failed:
        print(f"failed: {describe(row)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
