# SPDX-License-Identifier: Apache-2.0
"""The rows of bench_persistent.py: timed passes, and what did not run."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import stream_model
from bench_timers import CopyBandwidth, Timer, times
from decode_shapes import SHAPES

from via_ext.route import SlimRoute

Row = dict[str, Any]
COLUMNS = (
    *("shape", "what", "impl", "mode", "M", "context", "p20_us", "p50_us", "p80_us"),
    *("gb", "gb_per_s", "copy_gb_per_s", "of_copy", "floor_us", "predicted_us", "over_ours"),
    *("tokens_per_second", "ms_per_step", "synthetic", "note"),
)
FACTS = ("gpu", "driver", "torch", "cuda", "commit", "date")
NO_TIME = "no time left"
CASE_S = 2.0  # wall time of one timed pass


class Rows:
    """Writes rows as they come."""

    def __init__(self, path: Path, facts: Row, *, append: bool) -> None:
        """Keeps the rows of earlier runs if asked, and if they have the same columns."""
        self.facts = facts
        header = [*COLUMNS, *facts]
        path.parent.mkdir(parents=True, exist_ok=True)
        old = path.read_text(encoding="utf-8").split("\n", 1)[0] if path.exists() else ""
        more = append and old == ",".join(header)
        self.file = path.open("a" if more else "w", newline="", encoding="utf-8")
        self.writer = csv.DictWriter(self.file, header, lineterminator="\n")
        if not more:
            self.writer.writeheader()

    def add(self, row: Row) -> None:
        """One row, on disk when this returns, and printed."""
        rounded = {k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}
        self.writer.writerow(rounded | self.facts)
        self.file.flush()
        said = row.get("note") or "  ".join(
            f"{name} {rounded[name]}"
            for name in ("p50_us", "of_copy", "ms_per_step")
            if name in row
        )
        words = [str(row.get(name, "")) for name in ("shape", "what", "impl", "mode", "M")]
        print("  ".join([*words, said]), flush=True)


class Bench:
    """Times calls and knows what ours needed.

    Attributes:
        failures: passes and runs of ours that raised.
    """

    def __init__(self, timer: Timer, copy: CopyBandwidth, rows: Rows, end: float) -> None:
        """`end`: when to stop, on the monotonic clock."""
        self.timer, self.copy, self.rows, self.end = timer, copy, rows, end
        self.failures = 0
        self.ours: dict[tuple[Any, ...], float] = {}

    def left(self) -> float:
        """Seconds."""
        return self.end - time.monotonic()

    def failed(self, shape: str, what: str, impl: str, tokens: Any, reason: object) -> None:
        """A row for what did not run; counted if it was ours, and there was time."""
        self.failures += impl == "persistent" and reason != NO_TIME
        note = str(reason).strip().partition("\n")[0][:200]
        row = {"shape": shape, "what": what, "impl": impl, "M": tokens, "note": note}
        self.rows.add(row | {"synthetic": "weights"})

    def time_pass(
        self, shape: str, which: str, impl: str, tokens: int, call: Callable[[], Any], modes: Any
    ) -> None:
        """Rows of one pass, one for each mode."""
        route = SlimRoute.evenly(SHAPES[shape].num_hidden_layers) if which == "slim" else None
        first = SHAPES[shape].num_hidden_layers // 4 if which == "tail" else 0
        size = stream_model.pass_bytes(SHAPES[shape], route, first)
        rate = self.copy.measure(self.timer)
        expected = stream_model.pass_seconds(SHAPES[shape], tokens, route, first)
        for mode in modes:
            taken = sorted(times(self.timer, call, mode, CASE_S))
            p20, p50, p80 = (taken[int(len(taken) * share)] for share in (0.2, 0.5, 0.8))
            if impl == "persistent":
                self.ours[shape, which, tokens, mode] = p50
            ours = self.ours.get((shape, which, tokens, mode))
            self.rows.add(
                {
                    **{"shape": shape, "what": f"{which} pass", "impl": impl, "mode": mode},
                    **{"M": tokens, "context": stream_model.CONTEXT, "synthetic": "weights"},
                    **{"p20_us": 1e6 * p20, "p50_us": 1e6 * p50, "p80_us": 1e6 * p80},
                    **{"gb": size / 1e9, "gb_per_s": size / p50 / 1e9},
                    **{"copy_gb_per_s": rate / 1e9, "of_copy": size / p50 / rate},
                    **{"floor_us": 1e6 * size / rate, "predicted_us": 1e6 * expected},
                    **{"over_ours": p50 / ours if ours else "", "note": ""},
                }
            )
