# SPDX-License-Identifier: Apache-2.0
"""Draw what every block of a persistent launch did when: multiprocessors by time, as PNG.

    python profiling/phase_plot.py STAMPS.csv [--out FILE.png] [--first 3 --last 5]

STAMPS.csv has a line per block and phase: block, phase, kind, layer, begin_ns, end_ns. It comes
from a build with VIA_STAMPS (docs/design.md, section 16): profiling/bench_persistent.py --stamps on
a GPU, or a kernel main of tests/simt with a file name, where the times are counts, not
nanoseconds. Beside the picture a table is printed: per kind of phase the time in it, and the time
that blocks waited behind it, at the barrier. `--first`, `--last`: of the layers to draw.
The table needs the standard library, the picture matplotlib.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

COLUMNS = ("block", "phase", "kind", "layer", "begin_ns", "end_ns")
COLORS = {
    **{"embed": "#888888", "load": "#999999", "save": "#bbbbbb", "head": "#b07aa1"},
    **{"qkv": "#4e79a7", "rotary": "#76b7b2", "attention": "#f28e2b", "output": "#59a14f"},
    **{"gate_up": "#e15759", "down": "#9c755f", "verify": "#edc948", "stage": "#555555"},
    **{"compact": "#ff9da7", "slim_rows": "#d7b5a6"},
}


class Stamp(NamedTuple):
    """One phase of one block, in nanoseconds from the first stamp of the file."""

    block: int
    phase: int
    kind: str
    layer: int
    begin: int
    end: int


class Total(NamedTuple):
    """Phases of one kind: mean time of a block in one, mean wait behind it, and how many."""

    busy_ns: float
    wait_ns: float
    phases: int


def read(path: Path) -> list[Stamp]:
    """Stamps of a file, in its order.

    Raises:
        ValueError: other columns, no line, a phase that ends before it begins.
    """
    with path.open(newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file)
        if tuple(rows.fieldnames or ()) != COLUMNS:
            raise ValueError(f"phase_plot: {path} must have the columns {', '.join(COLUMNS)}")
        found = [
            Stamp(*(row[name] if name == "kind" else int(row[name]) for name in COLUMNS))
            for row in rows
        ]
    if not found:
        raise ValueError(f"phase_plot: {path} must have stamps, got none")
    for stamp in found:
        if stamp.end < stamp.begin:
            raise ValueError(f"phase_plot: block {stamp.block} must end a phase behind its begin")
    zero = min(stamp.begin for stamp in found)
    return [stamp._replace(begin=stamp.begin - zero, end=stamp.end - zero) for stamp in found]


def by_block(stamps: list[Stamp]) -> dict[int, list[Stamp]]:
    """Stamps of every block, in the order of time."""
    found: dict[int, list[Stamp]] = defaultdict(list)
    for stamp in sorted(stamps, key=lambda stamp: stamp.begin):
        found[stamp.block].append(stamp)
    return dict(sorted(found.items()))


def totals(stamps: list[Stamp]) -> dict[str, Total]:
    """Per kind, the longest first. A wait lasts until the same block's next phase begins."""
    busy: dict[str, list[int]] = defaultdict(list)
    wait: dict[str, int] = defaultdict(int)
    for own in by_block(stamps).values():
        for stamp, after in zip(own, [*own[1:], None], strict=True):
            busy[stamp.kind].append(stamp.end - stamp.begin)
            wait[stamp.kind] += after.begin - stamp.end if after else 0
    blocks = len({stamp.block for stamp in stamps})
    found = {
        kind: Total(sum(t) / len(t), wait[kind] / len(t), len(t) // blocks)
        for kind, t in busy.items()
    }
    return dict(sorted(found.items(), key=lambda item: -item[1].busy_ns * item[1].phases))


def table(stamps: list[Stamp]) -> str:
    """The totals as text; shares are of the time from the first stamp to the last."""
    span = max(stamp.end for stamp in stamps) or 1
    lines = [f"{'phase':<10}{'count':>6}{'in it, ns':>12}{'behind, ns':>12}{'share':>8}"]
    for kind, total in totals(stamps).items():
        share = total.phases * (total.busy_ns + total.wait_ns) / span
        counts = f"{total.phases:>6}{total.busy_ns:>12.0f}{total.wait_ns:>12.0f}"
        lines.append(f"{kind:<10}{counts}{share:>8.1%}")
    return "\n".join([*lines, f"{len(by_block(stamps))} blocks, {span} ns"])


def chosen(stamps: list[Stamp], first: int | None, last: int | None) -> list[Stamp]:
    """The stamps of some layers, with what ran between them."""
    if first is None and last is None:
        return stamps
    low, high = first or 0, sys.maxsize if last is None else last
    inside = [stamp for stamp in stamps if low <= stamp.layer <= high]
    if not inside:
        raise ValueError(f"phase_plot: --first, --last must name layers of the file, got {low}")
    begin, end = min(s.begin for s in inside), max(s.end for s in inside)
    return [stamp for stamp in stamps if stamp.begin >= begin and stamp.end <= end]


def draw(stamps: list[Stamp], out: Path) -> None:
    """Writes the picture; white is waiting."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.patches import Patch

    rows = by_block(stamps)
    figure, axes = pyplot.subplots(figsize=(14, max(3.0, min(0.08 * len(rows) + 1.5, 14.0))))
    drawn: dict[str, Any] = {}
    for place, own in enumerate(rows.values()):
        bars = [(stamp.begin / 1e3, (stamp.end - stamp.begin) / 1e3) for stamp in own]
        colors = [COLORS.get(stamp.kind, "#000000") for stamp in own]
        axes.broken_barh(bars, (place - 0.45, 0.9), facecolors=colors, linewidth=0)
        for stamp, color in zip(own, colors, strict=True):
            drawn.setdefault(stamp.kind, Patch(color=color, label=stamp.kind))
    axes.set(xlabel="microseconds", ylabel="block", ylim=(len(rows) - 0.5, -0.5))
    axes.legend(handles=list(drawn.values()), loc="upper left", bbox_to_anchor=(1.0, 1.0))
    figure.savefig(out, dpi=150, bbox_inches="tight")
    pyplot.close(figure)


def main(arguments: list[str]) -> int:
    """Prints the table and writes the picture; 2 for a file that is none."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("stamps", type=Path, help="CSV file")
    parser.add_argument("--out", type=Path, help="PNG file; default beside the CSV")
    parser.add_argument("--first", type=int, help="first layer to draw")
    parser.add_argument("--last", type=int, help="last layer to draw")
    options = parser.parse_args(arguments)
    try:
        stamps = chosen(read(options.stamps), options.first, options.last)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    print(table(stamps))
    out = options.out or options.stamps.with_suffix(".png")
    try:
        draw(stamps, out)
    except ImportError:
        print("no picture: matplotlib is not installed")
        return 0
    print(f"written to {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
