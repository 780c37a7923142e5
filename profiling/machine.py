# SPDX-License-Identifier: Apache-2.0
"""What every benchmark says about the machine and the sources it ran on. Standard library only."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent


class Gpu(NamedTuple):
    """The first GPU that the driver shows."""

    name: str
    driver: str
    capability: str  # such as "9.0"

    @property
    def architecture(self) -> str:
        """CMake's name of the target; warpgroup instructions exist only in the "a" targets."""
        number = self.capability.replace(".", "")
        return f"{number}a-real" if number == "90" else f"{number}-real"


def output(*command: str, timeout: float = 60.0) -> str:
    """Standard output of a command, or "" if it fails, hangs or is not there."""
    try:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return ran.stdout.strip() if ran.returncode == 0 else ""


def find_gpu() -> Gpu | None:
    """The first GPU, or None without a GPU or driver."""
    query = "--query-gpu=name,driver_version,compute_cap"
    for line in output("nvidia-smi", query, "--format=csv,noheader").splitlines():
        fields = [field.strip() for field in line.split(",")]
        if len(fields) == 3 and re.fullmatch(r"\d+\.\d+", fields[2]):
            return Gpu(*fields)
    return None


def commit() -> str:
    """The commit of this checkout, "+" if tracked files differ; VIA_EXT_COMMIT where it is none."""
    git = ("git", "-C", str(ROOT))
    found = output(*git, "rev-parse", "--short=12", "HEAD")
    if not found:
        return os.environ.get("VIA_EXT_COMMIT") or "unknown"
    changed = output(*git, "status", "--porcelain", "--untracked-files=no", "--", ":!profiling")
    return found + ("+" if changed else "")
