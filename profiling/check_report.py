# SPDX-License-Identifier: Apache-2.0
"""The CSV file of gpu_check: one row per result, on disk before the next item starts."""

from __future__ import annotations

import csv
import re
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import machine

COLUMNS = (
    "stage",
    "item",
    "outcome",  # passed, failed, skipped
    "seconds",
    "detail",  # counts, or the reason
    "gpu",
    "driver",
    "cuda",
    "torch",
    "commit",
    "date",
)


class Result(NamedTuple):
    """One row, without the facts of the run."""

    item: str
    outcome: str
    detail: str = ""
    seconds: float = 0.0


def facts(gpu: machine.Gpu | None, commit: str) -> dict[str, str]:
    """GPU, driver, CUDA, torch, commit and date (UTC) of this run."""
    release = re.search(r"release (\S+?),", machine.output("nvcc", "--version"))
    torch = machine.output(
        sys.executable, "-c", "import torch; print(torch.__version__)", timeout=120
    )
    return {
        "gpu": gpu.name if gpu else "",
        "driver": gpu.driver if gpu else "",
        "cuda": release.group(1) if release else "",
        "torch": torch,
        "commit": commit,
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


class Report:
    """Appends rows to DIR/gpu_check.csv and prints them."""

    def __init__(self, path: Path, facts: dict[str, str]) -> None:
        """Keeps the rows of earlier runs, unless they have other columns."""
        self.path, self.facts = path, facts
        self.failed = False
        header = ",".join(COLUMNS)
        kept = path.exists() and path.read_text(encoding="utf-8").split("\n", 1)[0] == header
        if not kept:
            path.write_text(header + "\n", encoding="utf-8")

    def add(self, stage: str, result: Result) -> None:
        """Writes one row; it is in the file when this returns."""
        self.failed |= result.outcome == "failed"
        detail = " ".join(result.detail.split())[:400]
        row = {
            "stage": stage,
            "item": result.item,
            "outcome": result.outcome,
            "seconds": f"{result.seconds:.1f}",
            "detail": detail,
            **self.facts,
        }
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, COLUMNS, lineterminator="\n").writerow(row)
        print(
            f"{stage:<9}{result.outcome:<9}{result.seconds:7.1f} s  {result.item}  {detail}",
            flush=True,
        )
