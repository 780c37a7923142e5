# SPDX-License-Identifier: Apache-2.0
"""Times the operations beside plain PyTorch and others.

    python profiling/bench_ops.py [--device cpu] [--quick] [--rounds 9] [--out FILE]
    python profiling/bench_ops.py --device cuda [--budget-s 150] [--dtype bfloat16] [--out FILE]

What is measured, and what the columns mean: bench_cpu.py and bench_cuda.py. A row is in the file as
soon as it is measured; what did not fit into the budget is said.
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import bench_attention
import bench_cases
import bench_compact
import bench_cpu
import bench_cuda
import bench_draft
import machine
import torch
from bench_timers import CopyBandwidth, EventTimer

from via_ext import build_info
from via_ext.evaluation.machine import cpu_name

RESULTS = Path(__file__).parent / "results"
Row = dict[str, Any]


def show(rows: list[Row]) -> None:
    """Prints the rows, with rich where it is installed."""
    columns = list(rows[0])[:16]
    try:
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        for row in rows:
            print("  ".join(f"{name}={row[name]}" for name in columns))
        return
    table = Table(*columns)
    for row in rows:
        table.add_row(*(str(row[name]) for name in columns))
    Console(width=170).print(table)


def run_cpu(options: argparse.Namespace) -> int:
    """All cases of the CPU; with little time left a case is timed in fewer rounds."""
    facts = {
        "threads": torch.get_num_threads(),
        "cpu": cpu_name(),
        "isa": build_info()["cpu_isa"],
        "torch": torch.__version__,
        "commit": machine.commit(),
    }
    print("  ".join(f"{name}={value}" for name, value in facts.items()))
    end = time.monotonic() + options.budget_s
    read, rows = bench_cpu.ReadLoop(), []
    cases = bench_cases.cpu_cases(options.quick)
    with options.out.open("w", newline="") as file:
        for index, case in enumerate(cases):
            late = end - time.monotonic() < 3.0 * (len(cases) - index)
            rounds = min(options.rounds, bench_cpu.SLOW_ROUNDS) if late else options.rounds
            rows.append(bench_cpu.measure(case, read, rounds) | facts)
            writer = csv.DictWriter(file, fieldnames=list(rows[0]))
            if not index:
                writer.writeheader()
            writer.writerow(rows[-1])
            file.flush()
            if time.monotonic() > end:
                print(f"out of time: {len(cases) - index - 1} of {len(cases)} cases not run")
                break
    show(rows)
    return 0


def run_cuda(options: argparse.Namespace) -> int:
    """The cases of the GPU, as many as fit."""
    if not torch.cuda.is_available():
        print("bench: --device cuda needs a GPU that torch can use", file=sys.stderr)
        return 2
    gpu = machine.find_gpu()
    facts = {
        "gpu": torch.cuda.get_device_name(0),
        "driver": gpu.driver if gpu else "",
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "commit": machine.commit(),
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    header = ",".join([*bench_cuda.COLUMNS, *facts])
    old = options.out.read_text().split("\n", 1)[0] if options.out.exists() else ""
    more = options.append and old == header
    cases = bench_cases.cuda_cases(options.dtype)
    others = [(module, module.cases()) for module in (bench_compact, bench_draft)]
    attention = bench_attention.cases(options.quick)
    if options.quick:
        cases, others = cases[:8], [(module, given[:4]) for module, given in others]
    with options.out.open("a" if more else "w", newline="") as file:
        write = bench_cuda.writer(file, facts, header=not more)
        runner = bench_cuda.Runner("cuda", EventTimer(), CopyBandwidth("cuda"), write)
        try:
            bench_cuda.run(runner, cases, others, options.budget_s, attention)
        except bench_cuda.DeviceLost as lost:
            print(f"bench: given up, the device is lost: {lost}", file=sys.stderr)
            return 1
    return 1 if runner.wrong else 0


def main() -> int:
    """Runs the cases of a device and writes the CSV."""
    parser = argparse.ArgumentParser(description="Time the operations beside plain PyTorch.")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--quick", action="store_true", help="only B=8, V=128256")
    parser.add_argument("--rounds", type=int, default=9, help="timed calls per case (CPU)")
    parser.add_argument("--budget-s", type=float, default=540.0, help="seconds for everything")
    parser.add_argument("--dtype", nargs="+", choices=bench_cases.DTYPES, default=["bfloat16"])
    parser.add_argument("--append", action="store_true", help="keep the file's rows (CUDA)")
    parser.add_argument("--out", type=Path, help="CSV file")
    options = parser.parse_args()
    options.out = options.out or RESULTS / f"bench_ops_{options.device}.csv"
    options.out.parent.mkdir(parents=True, exist_ok=True)
    run = run_cpu if options.device == "cpu" else run_cuda
    code = run(options)
    print(f"written to {options.out}")
    return code


if __name__ == "__main__":
    sys.exit(main())
