# SPDX-License-Identifier: Apache-2.0
"""Compares what the primitives wrote on the device with what their host bodies wrote."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from check_report import Result
from check_runner import Ended

PROGRAMS = ("golden_device", "golden_host")


def sources(root: Path) -> bool:
    """Whether the two programs can be built."""
    return (root / "tests" / "simt" / "golden_main.cpp").exists()


def difference(device: bytes, host: bytes) -> str:
    """How two results differ in 4-byte words, or "" if they are equal."""
    if device == host:
        return ""
    if len(device) != len(host):
        return f"device wrote {len(device)} bytes, host {len(host)}"
    words = range(0, len(host), 4)
    wrong = [i for i in words if device[i : i + 4] != host[i : i + 4]]
    first = wrong[0]
    values = f"device {device[first : first + 4].hex()}, host {host[first : first + 4].hex()}"
    return f"{len(wrong)} of {len(words)} words differ, the first at {first // 4}: {values}"


def compare(device: Path, host: Path) -> Iterator[Result]:
    """One row per primitive: files <primitive>.bin of the two folders."""
    names = sorted({path.stem for folder in (device, host) for path in folder.glob("*.bin")})
    if not names:
        yield Result("primitives", "failed", "neither program wrote a file")
    for name in names:
        files = [folder / f"{name}.bin" for folder in (device, host)]
        absent = [side for side, f in zip(("device", "host"), files, strict=True) if not f.exists()]
        if absent:
            detail = f"no file of the {' and the '.join(absent)} program"
        else:
            detail = difference(*(file.read_bytes() for file in files))
        outcome = "failed" if detail else "passed"
        yield Result(f"prim {name}", outcome, detail or f"{files[0].stat().st_size} bytes")


def repeats(name: str, first: Path, second: Path, ended: Ended) -> Iterator[Result]:
    """Whether two runs of a main left the same bytes; skipped for a main that writes none."""
    item = f"{name} repeats"
    if not first.exists() or not second.exists():
        yield Result(item, "skipped", f"{name} writes no file", ended.seconds)
        return
    one, other = first.read_bytes(), second.read_bytes()
    if one == other:
        yield Result(item, "passed", f"{len(one)} bytes", ended.seconds)
    elif len(one) != len(other):
        detail = f"{len(one)} bytes, then {len(other)}"
        yield Result(item, "failed", detail, ended.seconds)
    else:
        place = next(i for i, (a, b) in enumerate(zip(one, other, strict=True)) if a != b)
        yield Result(item, "failed", f"differs at byte {place} of {len(one)}", ended.seconds)
