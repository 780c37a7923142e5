# SPDX-License-Identifier: Apache-2.0
"""From runs to numbers: measures of one prompt set, then means and standard errors over sets."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

from via_ext.evaluation.runners import Record
from via_ext.trace import TextScore

Measures = dict[str, Any]
#: Measures whose mean and standard error over the prompt sets are reported.
AVERAGED = (
    *("tokens_per_second", "speedup", "ratio"),
    *("modelled_cost", "modelled_speedup", "modelled_ratio"),
    *("agreement", "mean_logprob", "rejection"),
    *("full_per_token", "slim_per_token", "draft_per_token", "tokens_per_step"),
    *("accept", "regenerate", "escalate"),
    *("tier_draft", "tier_slim", "tier_full"),
    *("overshoot_mean", "overshoot_p99"),
)


def measure_set(records: Sequence[Record], scores: Sequence[TextScore]) -> Measures:
    """Measures of one method on one prompt set.

    Args:
        records: a run per prompt.
        scores: the full model's view of each run's new tokens.

    Returns:
        Totals of tokens and passes, and per token or per examined token: `modelled_cost` (full
        passes), `agreement`, `mean_logprob` (nats, under the full model), `rejection`, tier shares
        of the emitted tokens, verdicts of the slim verifier, `overshoot_mean` and `overshoot_p99`
        (of max(0, s(x) - q(x)) over the tokens x that the slim verifier alone decided, others
        counting 0), `accepted_by_position`. Measures that are not known are absent.
    """
    tokens = sum(record.new for record in records)
    found: Measures = {"prompts": len(records), "tokens": tokens}
    for name in ("full", "resumed", "slim", "draft"):
        found[f"{name}_passes"] = sum(getattr(record.passes, name) for record in records)
    if not tokens:
        return found
    cost = math.fsum(record.cost for record in records) / tokens
    found |= {"modelled_cost": cost, "modelled_speedup": 1.0 / cost if cost else math.inf}
    for name in ("full", "slim", "draft"):
        found[f"{name}_per_token"] = found[f"{name}_passes"] / tokens
    steps = _known([record.steps for record in records])
    if steps:
        found["tokens_per_step"] = tokens / sum(steps)
    found["agreement"] = sum(int(score.agrees.sum()) for score in scores) / tokens
    logprobs = [value for score in scores for value in score.logprobs.tolist()]
    found["mean_logprob"] = math.fsum(logprobs) / tokens
    return found | _drafting(records) | _tiers(records, tokens) | _overshoot(records, scores)


def _known(values: Sequence[int | None]) -> list[int]:
    return [value for value in values if value is not None]


def _drafting(records: Sequence[Record]) -> Measures:
    found: Measures = {}
    examined = sum(_known([record.examined for record in records]))
    if examined:
        found["rejection"] = 1.0 - sum(_known([record.kept for record in records])) / examined
    judged = [record for record in records if record.routes is not None and record.examined]
    weight = sum(record.examined or 0 for record in judged)
    for index, name in enumerate(("accept", "regenerate", "escalate")):
        if weight:
            # Shares are per prompt: weighted by the draft tokens that they were taken over.
            parts = [(record.routes or ())[index] * (record.examined or 0) for record in judged]
            found[name] = math.fsum(parts) / weight
    depth = max((len(record.by_position) for record in records), default=0)
    if depth:
        columns = [
            [record.by_position[place] for record in records if place < len(record.by_position)]
            for place in range(depth)
        ]
        found["accepted_by_position"] = [statistics.fmean(column) for column in columns]
    return found


def _tiers(records: Sequence[Record], tokens: int) -> Measures:
    counts = [record.tiers for record in records if record.tiers is not None]
    if len(counts) < len(records):
        return {}
    names = ("tier_draft", "tier_slim", "tier_full")
    return {name: sum(row[i] for row in counts) / tokens for i, name in enumerate(names)}


def _overshoot(records: Sequence[Record], scores: Sequence[TextScore]) -> Measures:
    if not any(record.slim_logprobs for record in records):
        return {}
    samples: list[float] = []
    for record, score in zip(records, scores, strict=True):
        full, row = score.logprobs.tolist(), [0.0] * record.new
        for index, value in record.slim_logprobs:
            row[index] = max(0.0, math.exp(value) - math.exp(full[index]))
        samples += row
    samples.sort()
    # Nearest rank: a value that was observed.
    p99 = samples[math.ceil(0.99 * len(samples)) - 1]
    return {"overshoot_mean": statistics.fmean(samples), "overshoot_p99": p99}


def add_times(
    sets: dict[str, Measures],
    plain: dict[str, Measures],
    base: dict[str, Measures],
    seconds: Sequence[dict[str, float]],
    plain_seconds: Sequence[dict[str, float]],
    base_seconds: Sequence[dict[str, float]],
) -> None:
    """Adds speeds and ratios to the measures of a method's sets.

    `tokens_per_second` is the median over the repeats; `speedup` (over plain greedy) and `ratio`
    (over the baseline) are medians of ratios that were taken within one repeat, on one set.

    Args:
        sets: measures by set; changed.
        plain: those of plain greedy.
        base: those of the baseline.
        seconds: per repeat, seconds by set.
        plain_seconds: those of plain greedy.
        base_seconds: those of the baseline.
    """
    for name, found in sets.items():
        pace = [repeat[name] / found["tokens"] for repeat in seconds if found["tokens"]]
        if pace:
            found["tokens_per_second"] = statistics.median(1.0 / value for value in pace)
        for key, other, theirs in (
            ("speedup", plain, plain_seconds),
            ("ratio", base, base_seconds),
        ):
            tokens = other[name]["tokens"] if name in other else 0
            if pace and tokens and theirs:
                pairs = zip(theirs, pace, strict=True)
                found[key] = statistics.median(repeat[name] / tokens / own for repeat, own in pairs)
        if "modelled_cost" in found and "modelled_cost" in base.get(name, {}):
            found["modelled_ratio"] = base[name]["modelled_cost"] / found["modelled_cost"]


def summarize(sets: Sequence[Measures]) -> Measures:
    """Means over prompt sets, and standard errors under the name with `_se`.

    A standard error needs two sets: with one it is absent.
    """
    found: Measures = {"sets": len(sets), "tokens": sum(row["tokens"] for row in sets)}
    for name in AVERAGED:
        values = [row[name] for row in sets if name in row]
        if not values:
            continue
        found[name] = statistics.fmean(values)
        if len(values) > 1:
            found[f"{name}_se"] = standard_error(values)
    rows = [row["accepted_by_position"] for row in sets if "accepted_by_position" in row]
    depth = max(map(len, rows), default=0)
    columns = [[row[place] for row in rows if place < len(row)] for place in range(depth)]
    if columns:
        found["accepted_by_position"] = [statistics.fmean(column) for column in columns]
        found["accepted_by_position_se"] = [
            standard_error(column) if len(column) > 1 else None for column in columns
        ]
    return found


def standard_error(values: Sequence[float]) -> float:
    """Standard deviation of a mean of independent values, at least two."""
    return statistics.stdev(values) / math.sqrt(len(values))
