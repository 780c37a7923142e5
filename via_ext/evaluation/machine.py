# SPDX-License-Identifier: Apache-2.0
"""What a report says about the machine, the versions and the memory of a run."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from via_ext._build import build_info

_STATUS = Path("/proc/self/status")
_RESET = Path("/proc/self/clear_refs")
#: Writing this to clear_refs sets the high-water mark of the resident size back to the present one.
_RESET_PEAK = "5"


def machine_facts(device: torch.device) -> dict[str, Any]:
    """Machine and versions, ready for JSON."""
    build = build_info()
    facts: dict[str, Any] = {
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        # Other work on the machine: above 0 the speeds are too low.
        "load_before": round(os.getloadavg()[0], 2),
        "device": str(device),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "via_ext": build["version"],
        "commit": build.get("git_commit"),
    }
    for name in ("transformers", "matplotlib"):
        try:
            facts[name] = version(name)
        except PackageNotFoundError:
            facts[name] = None
    return facts


def cpu_name() -> str:
    """The processor's model name, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else "unknown"


class Peak:
    """Memory that a block of code took at most.

    Attributes:
        bytes: above what was in use before.
        kind: how it was found: "CUDA allocator", "VmHWM" (peak resident size, set back before), or
            "ru_maxrss" (growth of the process's largest resident size, 0 if it was larger before).
    """

    bytes = 0
    kind = ""


@contextmanager
def peak_memory(device: torch.device) -> Iterator[Peak]:
    """Measures the peak memory of its block."""
    peak = Peak()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield peak
        peak.bytes, peak.kind = torch.cuda.max_memory_allocated(device) - before, "CUDA allocator"
        return
    try:
        _RESET.write_text(_RESET_PEAK)
        before = _status("VmRSS")
    except (OSError, KeyError):
        import resource

        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        yield peak
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        peak.bytes, peak.kind = grown * 1024, "ru_maxrss"
        return
    yield peak
    peak.bytes, peak.kind = max(0, _status("VmHWM") - before), "VmHWM"


def _status(name: str) -> int:
    """A size of /proc/self/status in bytes."""
    for line in _STATUS.read_text(encoding="ascii").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise KeyError(name)
