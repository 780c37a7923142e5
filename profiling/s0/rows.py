# SPDX-License-Identifier: Apache-2.0
"""Rows of the micro-benchmarks: where they come from, the CSV that keeps them, the table."""

from __future__ import annotations

import csv
import datetime
import json
import subprocess
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
STATUSES = ("ok", "failed", "skipped")


@dataclass(frozen=True)
class Row:
    """One measured value; `params` names everything that distinguishes it from its neighbours."""

    benchmark: str
    params: dict[str, Any] = field(default_factory=dict)
    value: float = 0.0
    unit: str = ""
    status: str = "ok"
    note: str = ""


def parse_row(line: str) -> Row | None:
    """The row that a benchmark printed, or None for any other line."""
    try:
        found = json.loads(line)
        row = Row(**{name: found[name] for name in (f.name for f in fields(Row))})
    except (ValueError, KeyError, TypeError):
        return None
    return row if row.status in STATUSES and isinstance(row.params, dict) else None


@dataclass(frozen=True)
class Machine:
    """What stands beside every row. Clocks are the highest that the GPU may run at, in MHz."""

    gpu: str
    driver: str
    compute_capability: str
    max_sm_mhz: str
    max_memory_mhz: str
    cuda: str = "unknown"
    commit: str = "unknown"


def output_of(*command: str) -> str | None:
    """Standard output of a short command; None if it is missing, fails or hangs."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=20, check=True, cwd=ROOT
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def query_gpu(fields: list[str]) -> list[str] | None:
    """What nvidia-smi says of the first GPU; None without one, or if it knows a field not."""
    found = output_of(
        "nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"
    )
    values = [value.strip() for value in (found or "").partition("\n")[0].split(",")]
    return values if len(values) == len(fields) else None


def find_machine(nvcc: str | None) -> Machine | None:
    """The first GPU, or None without one."""
    facts = query_gpu(["name", "driver_version", "compute_cap"])
    if facts is None:
        return None
    # Virtual machines may hide the clocks.
    clocks = query_gpu(["clocks.max.sm", "clocks.max.mem"]) or ["unknown", "unknown"]
    version = (output_of(nvcc, "--version") or "") if nvcc else ""
    releases = [w.rstrip(",") for w in version.split() if w.startswith("V") and w[1:2].isdigit()]
    commit = output_of("git", "rev-parse", "--short", "HEAD") or "unknown"
    cuda = releases[0][1:] if releases else "unknown"
    return Machine(*facts, *clocks, cuda=cuda, commit=commit)


class CsvWriter:
    """Appends rows to a file, each at once, so that an interruption costs nothing measured."""

    def __init__(self, path: Path, machine: Machine) -> None:
        """Creates the file with its header line, or appends to it."""
        self.rows: list[Row] = []
        self._machine = {k: v for k, v in asdict(machine).items() if k != "compute_capability"}
        self._columns = [*(f.name for f in fields(Row)), *self._machine, "date"]
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a", newline="", encoding="utf-8")
        self._csv = csv.DictWriter(self._file, self._columns)
        if self._file.tell() == 0:
            self._csv.writeheader()

    def add(self, row: Row) -> None:
        """Keeps the row and writes it, stamped with the machine and the time (UTC)."""
        self.rows.append(row)
        stamp = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        values = asdict(row) | {"params": json.dumps(row.params), "date": stamp}
        self._csv.writerow(values | self._machine)
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def describe(row: Row) -> str:
    """One line of the table."""
    name = " ".join(f"{key}={value}" for key, value in row.params.items())
    if row.status == "ok":
        shown = (
            f"{row.value:,.4g} {row.unit}" if row.value < 1e4 else f"{row.value:,.0f} {row.unit}"
        )
    else:
        shown = row.status
    return f"{row.benchmark:<16} {name:<72} {shown:>24}  {row.note}".rstrip()


def print_table(rows: Iterable[Row]) -> None:
    """All rows, grouped by benchmark in the order in which they came."""
    previous = None
    for row in rows:
        if row.benchmark != previous:
            print()
        previous = row.benchmark
        print(describe(row))
