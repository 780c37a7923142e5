# SPDX-License-Identifier: Apache-2.0
"""Times the passes that decoding is made of, on this machine, at a realistic context length."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from via_ext.drafters import Drafter
from via_ext.engines.torch import TorchEngine, feed
from via_ext.models.arena import KVArena
from via_ext.models.passes import LayerPass, chain_block
from via_ext.prompts import pad_prompts
from via_ext.tree import Tree

WARM_UP = 3
MIN_REPEATS, MAX_REPEATS = 7, 25
#: Seconds after which no further round begins, once there are `MIN_REPEATS`.
BUDGET = 10.0
#: Spread over median from which a pass is unsteady; the standard error of a median of `MAX_REPEATS`
#: samples is then a quarter of that.
UNSTEADY = 0.2
#: Spreads below this share of the longest pass decide nothing.
NEGLIGIBLE = 0.01
#: The median of a normal sample is so many times less certain than its mean.
MEDIAN_ERROR = math.sqrt(math.pi / 2.0)
#: Most times that all passes are timed, while one of them is unsteady.
ATTEMPTS = 3


@dataclass
class Timings:
    """Samples of every pass.

    Attributes:
        samples: by kind of pass (see `figures.Times`) and tokens in it: seconds.
    """

    samples: dict[str, dict[int, list[float]]] = field(default_factory=dict)

    def add(self, kind: str, tokens: int, seconds: float) -> None:
        """Keeps a sample."""
        self.samples.setdefault(kind, {}).setdefault(tokens, []).append(seconds)

    def curves(self) -> dict[str, tuple[tuple[int, float], ...]]:
        """Medians by rising tokens; a pass over more tokens never takes less time.

        Neighbours that contradict this share the median of their samples, so that one wild size
        does not lift all larger ones.
        """
        return {kind: _never_falling(by_tokens) for kind, by_tokens in self.samples.items()}

    @property
    def longest(self) -> float:
        """Seconds of the pass with the largest median."""
        medians = (statistics.median(v) for sizes in self.samples.values() for v in sizes.values())
        return max(medians)

    def uncertain(self, negligible: float) -> list[dict[str, Any]]:
        """Rows of the passes that spread by more than so many seconds.

        Each with `share`, its relative spread, and `error`, its relative standard error.
        """
        found = []
        for row in self.rows():
            if row["spread"] > negligible:
                share = row["spread"] / max(row["seconds"], negligible)
                error = MEDIAN_ERROR * share / math.sqrt(row["repeats"])
                found.append(row | {"share": share, "error": error})
        return found

    def errors(self) -> dict[str, float]:
        """Per kind, the relative standard error of a median: the largest over its sizes."""
        found: dict[str, float] = {}
        for kind, by_tokens in self.samples.items():
            for values in by_tokens.values():
                _, spread = median_and_spread(values)
                median = statistics.median(values)
                error = MEDIAN_ERROR * spread / math.sqrt(len(values))
                found[kind] = max(found.get(kind, 0.0), error / median if median else 0.0)
        return found

    def rows(self) -> list[dict[str, Any]]:
        """Kind, tokens, median and spread in seconds, number of samples; ready for JSON."""
        rows = []
        for kind, by_tokens in self.samples.items():
            for tokens, values in sorted(by_tokens.items()):
                median, spread = median_and_spread(values)
                row = {"pass": kind, "tokens": tokens, "seconds": median}
                rows.append(row | {"spread": spread, "repeats": len(values)})
        return rows


def _never_falling(by_tokens: Mapping[int, list[float]]) -> tuple[tuple[int, float], ...]:
    """Medians, neighbours pooled until they rise."""
    blocks: list[tuple[list[int], list[float]]] = []
    for tokens, values in sorted(by_tokens.items()):
        blocks.append(([tokens], values))
        while len(blocks) > 1 and statistics.median(blocks[-2][1]) > statistics.median(values):
            (sizes, others), (own, values) = blocks[-2:]
            values = others + values
            blocks[-2:] = [(sizes + own, values)]
    return tuple((n, statistics.median(values)) for sizes, values in blocks for n in sizes)


def median_and_spread(values: Sequence[float]) -> tuple[float, float]:
    """Median, and the interquartile range as a standard deviation of normal samples."""
    if len(values) < 2:
        return values[0], 0.0
    low, median, high = statistics.quantiles(values, n=4)
    return median, (high - low) / 1.349


Case = tuple[str, int, Callable[[], float]]


def engine_cases(
    engine: TorchEngine, context: list[int], max_draft: int, draft: int, backlog: int
) -> list[Case]:
    """One case per pass and size: kind, tokens, and a function that runs it and returns seconds.

    Args:
        engine: with a route: slim, prefix and tail; without: full.
        context: token ids before the pass; their keys and values are computed here.
        max_draft: longest draft of interest.
        draft: the usual one.
        backlog: most tokens between two full passes.
    """
    longest = 1 + max_draft + backlog
    arena = KVArena(engine.target, 1, len(context) + longest)
    feed(engine.full, arena, [0], [context])
    ids = torch.tensor([(context * (1 + longest // len(context)))[:longest]])

    def case(kind: str, part: LayerPass, tokens: int, **inputs: Any) -> Case:
        block = chain_block([0], [len(context)], tokens)

        def run() -> float:
            before = part.seconds
            part(arena, block, num_logits=0 if kind == "prefix" else tokens, **inputs)
            return part.seconds - before

        return kind, tokens, run

    drafted = sorted({1, 1 + draft, 1 + max_draft})
    if engine.slim is None:
        return [case("full", engine.full, n, token_ids=ids[:, :n]) for n in drafted]
    cases = [case("slim", engine.slim, n, token_ids=ids[:, :n]) for n in drafted]
    cases += [case("prefix", engine.prefix, n, token_ids=ids[:, :n]) for n in drafted]
    hidden = torch.randn(1, longest, engine.target.config.hidden_size)
    hidden = hidden.to(next(engine.target.parameters()).dtype)
    for n in sorted({1, 1 + draft, 1 + draft + backlog // 2, longest}):
        cases.append(case("tail", engine.tail, n, hidden=hidden[:, :n]))
    return cases


def drafter_cases(
    drafter: Drafter, context: list[int], max_draft: int, draft: int, kind: str = "draft"
) -> list[Case]:
    """Cases of drafting a chain behind `context`, whose last token is the root.

    Seconds are those of the drafter's forward passes where it counts them, else all of `propose`.
    """
    drafter.prefill(*pad_prompts([context]))
    key = position = counts = torch.zeros(1, dtype=torch.int64)
    nothing = torch.full((1, 1), -1)

    def case(nodes: int) -> Case:
        def run() -> float:
            before = getattr(drafter, "forward_seconds", None)
            begin = time.perf_counter()
            drafter.propose(Tree.chain(nodes), key, position)
            seconds = time.perf_counter() - begin
            if before is not None:
                seconds = drafter.forward_seconds - before  # type: ignore[attr-defined]
            drafter.commit(nothing, counts)  # a step ends with one, also where nothing was kept
            return seconds

        return kind, nodes, run

    return [case(nodes) for nodes in sorted({1, draft, max_draft})]


def negligible(found: Iterable[Timings]) -> float:
    """Seconds of spread that decide nothing."""
    return NEGLIGIBLE * max(timings.longest for timings in found)


def time_cases(groups: Mapping[str, Sequence[Case]]) -> tuple[dict[str, Timings], int]:
    """Times all cases, again while one is unsteady, and keeps the steadiest attempt.

    An attempt is kept whole: ratios of passes are those of one stretch of time.

    Args:
        groups: cases by name; the names come back.

    Returns:
        The samples, and the number of attempts.
    """
    best: dict[str, Timings] = {}
    least, attempts = math.inf, 0
    while least > 0 and attempts < ATTEMPTS:
        found = _attempt(groups)
        attempts += 1
        limit = negligible(found.values())
        rows = [row for timings in found.values() for row in timings.uncertain(limit)]
        excess = sum(row["share"] for row in rows if row["share"] > UNSTEADY)
        if excess < least:
            best, least = found, excess
    return best, attempts


@torch.inference_mode()
def _attempt(groups: Mapping[str, Sequence[Case]]) -> dict[str, Timings]:
    """Runs all cases in turn, round after round, so that a disturbance spreads over all."""
    found = {name: Timings() for name in groups}
    began = time.perf_counter()
    for turn in range(WARM_UP + MAX_REPEATS):
        for name, cases in groups.items():
            for kind, tokens, run in cases:
                seconds = run()
                if turn >= WARM_UP:
                    found[name].add(kind, tokens, seconds)
        done = turn + 1 - WARM_UP
        if done >= MIN_REPEATS and time.perf_counter() - began > BUDGET:
            break
    return found
