# SPDX-License-Identifier: Apache-2.0
"""Builds and runs the golden program in the simulation, once per test run."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
SPEC = importlib.util.spec_from_file_location(
    "golden_compare", ROOT / "profiling" / "golden_compare.py"
)
assert SPEC is not None and SPEC.loader is not None
golden_compare = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(golden_compare)

CAN_BUILD = (golden_compare.cuda_home() / "include" / "cuda_bf16.h").exists() and bool(
    shutil.which("g++")
)
SCHEDULES = {"fifo": "1", "pct": "7"}


def mix(i) -> np.ndarray:
    """The mixing function of golden.cuh."""
    i = np.asarray(i, dtype=np.uint64) & 0xFFFFFFFF
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        i = (i ^ (i >> np.uint64(shift))) * np.uint64(factor) & np.uint64(0xFFFFFFFF)
    return (i ^ (i >> np.uint64(16))).astype(np.uint32)


@cache
def folders() -> dict[str, Path]:
    """Outputs under different schedules; removed when the process ends."""
    base = Path(_temporary().name)
    program = base / "golden"
    subprocess.run(golden_compare.host_command(program), check=True, timeout=300)
    outputs = {}
    for schedule, seed in SCHEDULES.items():
        outputs[schedule] = base / schedule
        outputs[schedule].mkdir()
        subprocess.run(
            [str(program), str(outputs[schedule])],
            env={**os.environ, "VIA_SIMT_SCHED": schedule, "VIA_SIMT_SEED": seed},
            check=True,
            timeout=60,
        )
    return outputs


@cache
def _temporary() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="golden-")


def load(name: str, dtype=np.uint32) -> np.ndarray:
    """One output, from the schedule that reorders most."""
    return np.fromfile(folders()["pct"] / f"{name}.bin", dtype)
