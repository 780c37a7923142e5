# SPDX-License-Identifier: Apache-2.0
"""Times the operations on a GPU beside their peers, inside a time budget.

Per case: the bytes that the call must read over the copy bandwidth is its floor; the copy (1 GiB to
1 GiB, read and written bytes counted) is measured beside every case. Ours runs through all cases
first, the most usual sizes before the others; then each peer through the same cases with its share
of the time that is left. A row is written as soon as it is there.

Columns: `impl` who, `mode` graph (a captured call replayed: the device's time) or eager (from
Python, device idle before), microseconds at the 20th, 50th and 80th percentile with a cold L2
cache, `gb_per_s` over the bytes that must be read, its share `of_copy`, `floor_us`, `goal_us` (see
docs/performance.md), `over_ours` the median over that of ours for the same case and mode, `note`
the reason where there is no time. Rule "launch" is a kernel that does next to nothing: every time
holds that much.
"""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TextIO

import bench_attention
import bench_cases
import peers
import torch
from bench_timers import MIN_ROUNDS, WARM_UP, CopyBandwidth, Timer, times

CASE_S = 0.03  # wall time for the timed calls of one row
OURS_SHARE = 0.5
ATTENTION_SHARE = 0.25
Row = dict[str, Any]
TIMES = ("p20_us", "p50_us", "p80_us", "gb_per_s", "of_copy", "over_ours")
COLUMNS = (
    "impl",
    "mode",
    "rule",
    "drafts",
    "B",
    "N",
    "V",
    "dtype",
    "right",
    "filters",
    "p20_us",
    "p50_us",
    "p80_us",
    "gb_per_s",
    "copy_gb_per_s",
    "of_copy",
    "floor_us",
    "goal_us",
    "over_ours",
    "note",
)


def first_line(error: BaseException) -> str:
    """What went wrong, in one line."""
    text = str(error).strip().split("\n", 1)[0]
    return f"{type(error).__name__}: {text}"[:200]


class DeviceLost(Exception):
    """The device answers no more: nothing else in this process can be measured."""


class Runner:
    """Runs cases and hands finished rows to `write`."""

    def __init__(
        self,
        device: str,
        timer: Timer,
        copy: CopyBandwidth,
        write: Callable[[Row], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Keeps the medians of ours, by case and mode."""
        self.device, self.timer, self.copy, self.write = device, timer, copy, write
        self.clock = clock
        self.medians: dict[tuple[Any, str], float] = {}
        self.wrong = 0

    def row(self, name: str, case: Any, mode: str, call: Callable[[], Any], rate: float) -> Row:
        """Times one call; `rate` is the copy bandwidth in bytes per second."""
        taken = times(self.timer, call, mode, CASE_S)
        marks = bench_cases.spread(taken)
        speed = case.floor_bytes / (marks["p50_us"] * 1e-6)
        if name == "via_ext":
            self.medians[case, mode] = marks["p50_us"]
        base = self.medians.get((case, mode))
        return {
            **marks,
            "gb_per_s": round(speed / 1e9, 2),
            "copy_gb_per_s": round(rate / 1e9, 2),
            "of_copy": round(speed / rate, 4),
            "floor_us": round(case.floor_bytes / rate * 1e6, 2),
            "goal_us": round(case.goal_us(rate * 1e-6), 2),
            "over_ours": round(marks["p50_us"] / base, 3) if base else "",
        }

    def launch(self) -> None:
        """A kernel that does next to nothing: what the timing itself costs, part of every row."""
        one = torch.zeros(1, device=self.device)
        for mode in self.timer.modes:
            marks = bench_cases.spread(times(self.timer, lambda: one.add_(1.0), mode, CASE_S))
            self.write({"impl": "add_ of one element", "mode": mode, "rule": "launch", **marks})

    def run_case(self, peer: peers.Peer, case: Any, build: Callable[..., Any], end: float) -> None:
        """One peer, one case, every mode. A failure is a row with its text."""
        modes = [mode for mode in self.timer.modes if mode != "graph" or peer.capturable]
        about: Row = {"impl": peer.name, "mode": "", **case.columns()}
        try:
            inputs = build(case, self.device)
            call = peer.adapt(inputs)
            self.check(peer, case, call)
            cost = self.cost(call) * len(modes) * (WARM_UP + MIN_ROUNDS + 2)
            if self.clock() + cost > end:
                self.write({**about, "note": f"too slow for the time left: needs {cost:.1f} s"})
                return
            rate = self.copy.measure(self.timer)
        except peers.Unfit:
            return
        except Exception as error:
            self.fail(peer, about, error)
            return
        for mode in modes:
            try:
                self.write({**about, "mode": mode, **self.row(peer.name, case, mode, call, rate)})
            except Exception as error:
                self.fail(peer, {**about, "mode": mode}, error)

    def check(self, peer: peers.Peer, case: Any, call: Callable[[], Any]) -> None:
        """One call; ours has to accept exactly the tokens that are right."""
        result = call()
        if peer.name == "via_ext" and result is not None:
            accepted = result.num_accepted.tolist()
            if accepted != [case.right] * case.batch:
                raise RuntimeError(f"accepted {accepted[:8]}, expected {case.right} each")

    def cost(self, call: Callable[[], Any]) -> float:
        """Seconds of one warm call, waiting for the device."""
        begin = time.monotonic()
        call()
        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.monotonic() - begin

    def fail(self, peer: peers.Peer, about: Row, error: Exception) -> None:
        """A row without a time. A failure of ours is counted."""
        self.wrong += peer.name == "via_ext"
        self.write({**about, "note": first_line(error)})
        if self.device == "cuda":
            try:
                torch.cuda.synchronize()
                torch.cuda.empty_cache()
            except RuntimeError as lost:
                raise DeviceLost(first_line(lost)) from error

    def run_peer(
        self, peer: peers.Peer, cases: Iterable[Any], build: Callable[..., Any], seconds: float
    ) -> None:
        """All cases that fit into the time; what is left out is one row."""
        absent = peers.absence(peer.name)
        if absent:
            self.write({"impl": peer.name, "note": f"not importable: {absent}"})
            return
        end = self.clock() + seconds
        slowest = peer.setup_s
        todo = list(cases)
        for index, case in enumerate(todo):
            begin = self.clock()
            if begin + slowest > end:
                note = f"out of time: {len(todo) - index} of {len(todo)} cases not run"
                self.write({"impl": peer.name, **rule_of(case), "note": note})
                return
            self.run_case(peer, case, build, end)
            # Cases come in order of work, roughly: the last duration predicts the next.
            slowest = max(peer.setup_s, self.clock() - begin)


def rule_of(case: Any) -> Row:
    """Which operation a row without a case belongs to."""
    return {} if isinstance(case, bench_cases.Case) else {"rule": case.columns()["rule"]}


def run_attention(runner: Runner, cases: Sequence[Any], end: float) -> None:
    """tree_attention: ours, then the peers, each with a share of what is left."""
    everyone = (bench_attention.OURS, *bench_attention.PEERS)
    for index, peer in enumerate(everyone):
        left = max(0.0, end - runner.clock()) / (len(everyone) - index)
        runner.run_peer(peer, cases, bench_attention.build, left)


def run(
    runner: Runner,
    cases: Sequence[Any],
    others: Sequence[tuple[Any, Sequence[Any]]],
    budget_s: float,
    attention: Sequence[Any] = (),
) -> None:
    """Ours first, then the peers, most wanted first.

    `others`: cases of operations beside `verify`, each with its module (build, ours, eager).
    """
    end = runner.clock() + budget_s

    def left() -> float:
        return max(0.0, end - runner.clock())

    runner.launch()
    own = peers.Peer("via_ext", peers.ours)
    for module, given in others:
        runner.run_peer(peers.Peer("via_ext", module.ours), given, module.build, 0.1 * left())
    if attention:
        run_attention(runner, attention, runner.clock() + ATTENTION_SHARE * left())
    runner.run_peer(own, cases, bench_cases.build, OURS_SHARE * left())
    for module, given in others:
        runner.run_peer(peers.Peer("eager", module.eager), given, module.build, 0.1 * left())
    waiting = sum(peer.weight for peer in peers.PEERS if not peers.absence(peer.name))
    for peer in peers.PEERS:
        share = min(1.0, peer.weight / waiting) if waiting else 0.0
        runner.run_peer(peer, cases, bench_cases.build, share * left())
        waiting -= 0.0 if peers.absence(peer.name) else peer.weight


def writer(file: TextIO, facts: Row, header: bool) -> Callable[[Row], None]:
    """Writes rows, each of them in the file when it returns."""
    out = csv.DictWriter(file, [*COLUMNS, *facts], lineterminator="\n")
    if header:
        out.writeheader()

    def write(row: Row) -> None:
        out.writerow(row | facts)
        file.flush()
        name = " ".join(str(row.get(key, "")) for key in COLUMNS[:10])
        said = row.get("note") or " ".join(f"{key} {row.get(key, '')}" for key in TIMES)
        print(f"{name}  {said}", flush=True)

    return write
