# SPDX-License-Identifier: Apache-2.0
"""From measurements to estimates: every way to decode, its uncertainty, and the break-even."""

from __future__ import annotations

import random
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from via_ext.doctor.evidence import GIVEN, OWN_LOOKUP, Evidence
from via_ext.doctor.model import (
    Choice,
    best_three,
    best_two,
    of_counts,
    plain,
    three_exact,
    turning_point,
    two_tiers,
)

RESAMPLES = 200
PLAIN, TWO, LOOKUP = "plain", "two tiers", "two tiers, prompt lookup"
THREE, STEPWISE = "three tiers, exact", "three tiers, exact, uncalibrated"
#: Sample runs: the paper's thresholds, and the route's own exact setting.
VIA, CALIBRATED = "via", "three tiers, exact, calibrated"


@dataclass(frozen=True)
class Estimate:
    """A way to decode, as the cost model sees it.

    Attributes:
        name: of the way.
        seconds: per token.
        speedup: over plain decoding.
        interval: its 95 % interval, from resampled texts and pass times.
        agreement: share of tokens that are the full model's choice; 1 for the exact ways.
        draft: drafted tokens per step, at their best where the way leaves a choice.
        rounds: slim steps between two full passes, 0 where it is not chosen.
        backlog: tokens that they leave to the audit.
    """

    name: str
    seconds: float
    speedup: float
    interval: tuple[float, float]
    agreement: float
    draft: int
    rounds: int
    backlog: float


@dataclass(frozen=True)
class Lead:
    """How far the fastest exact way is ahead of the next.

    Attributes:
        first: the fastest of the exact ways.
        second: the next.
        ratio: seconds per token of the second over the first.
        interval: its 95 % interval.
        share: of the resamples in which the first is the faster of the two.
    """

    first: str
    second: str
    ratio: float
    interval: tuple[float, float]
    share: float


@dataclass(frozen=True)
class BreakEven:
    """Where three tiers would begin to beat two, all else as measured; None = nowhere.

    Attributes:
        agreement: least slim/full agreement for three tiers, exact.
        slim_cost: most a slim pass may take of a full one, over a step's tokens, for the same.
        escalation_rate: most steps of the `via` run that may need the full model, at its tokens
            per step.
    """

    agreement: float | None
    slim_cost: float | None
    escalation_rate: float | None


def ways(
    evidence: Evidence,
    picks: Sequence[int],
    factors: Mapping[str, float],
    fixed: Mapping[str, Choice] | None = None,
) -> dict[str, Choice]:
    """Every way's cost on some texts.

    Args:
        evidence: measurements.
        picks: texts, with repetition.
        factors: on pass times, by kind.
        fixed: choices to keep; None = the best for these texts.
    """
    times, tokens = evidence.times().scaled(factors), evidence.tokens(picks)
    found = {PLAIN: Choice(plain(times))}
    drafters = {TWO: GIVEN, LOOKUP: OWN_LOOKUP}
    for name, drafter in drafters.items():
        if drafter not in evidence.drafters:
            continue
        own_times = evidence.times(drafter).scaled(factors)
        own = evidence.tokens(picks, drafter)
        length = fixed[name].draft if fixed else best_two(own_times, own).draft
        found[name] = Choice(two_tiers(own_times, own, length), length)
    for name, fused in ((THREE, True), (STEPWISE, False)):
        if fixed:
            kept = fixed[name]
            found[name] = three_exact(times, tokens, kept.draft, kept.rounds, fused)
        else:
            found[name] = best_three(times, tokens, fused)
    for name in evidence.runs:
        counts = evidence.counts(name, picks)
        found[name] = Choice(of_counts(times, counts), round(counts.draft))
    return found


def estimate(evidence: Evidence, seed: int) -> tuple[list[Estimate], Lead]:
    """All ways, fastest first within the same agreement, and the lead among the exact ones.

    Args:
        evidence: measurements.
        seed: of the resamples.
    """
    point = ways(evidence, evidence.all, {})
    errors, dice = evidence.errors(), random.Random(seed)
    samples = []
    for _ in range(RESAMPLES):
        picks = dice.choices(evidence.all, k=evidence.num_texts)
        factors = {kind: max(0.1, dice.gauss(1.0, error)) for kind, error in errors.items()}
        samples.append(ways(evidence, picks, factors, fixed=point))
    found = []
    for name, choice in point.items():
        base = point[PLAIN].seconds
        interval = _interval([s[PLAIN].seconds / s[name].seconds for s in samples])
        counts = evidence.counts(name, evidence.all) if name in evidence.runs else None
        agreement = 1.0 if counts is None else counts.agreement
        shape = (choice.draft, choice.rounds, choice.backlog)
        speedup = base / choice.seconds
        found.append(Estimate(name, choice.seconds, speedup, interval, agreement, *shape))
    exact = sorted((way for way in found if way.name not in evidence.runs), key=lambda w: w.seconds)
    # The two exact three-tier ways differ in a setting only: the lead is over another way.
    first = exact[0].name
    second = next(way.name for way in exact[1:] if {first, way.name} != {THREE, STEPWISE})
    ratios = [sample[second].seconds / sample[first].seconds for sample in samples]
    share = sum(ratio > 1.0 for ratio in ratios) / len(ratios)
    ratio = point[second].seconds / point[first].seconds
    return found, Lead(first, second, ratio, _interval(ratios), share)


def _interval(values: list[float]) -> tuple[float, float]:
    cuts = statistics.quantiles(values, n=40)
    return cuts[0], cuts[-1]


def break_even(evidence: Evidence) -> BreakEven:
    """Solves the cost model for equal seconds per token of two and three tiers."""
    times, tokens = evidence.times(), evidence.tokens(evidence.all)
    goal = best_two(times, tokens).seconds
    width = 1 + evidence.draft
    ratio = times.at("slim", width) / times.at("full", width)

    def agreement_wins(agreement: float) -> bool:
        return best_three(times, tokens.with_agreement(agreement)).seconds < goal

    def cost_wins(cost: float) -> bool:
        return best_three(times.scaled({"slim": cost / ratio}), tokens).seconds < goal

    counts = evidence.counts(VIA, evidence.all)

    def rate_wins(rate: float) -> bool:
        return of_counts(times, counts, rate) < goal

    return BreakEven(
        agreement=turning_point(agreement_wins, 0.0, 1.0),
        slim_cost=turning_point(cost_wins, 2.0, 0.01),
        escalation_rate=turning_point(rate_wins, 1.0, 0.0),
    )
