# SPDX-License-Identifier: Apache-2.0
"""The cost model of `diagnose`: against a simulated process, at its limits, and its break-even."""

from __future__ import annotations

import random

import pytest

pytest.importorskip("transformers")

from via_ext.doctor.estimates import PLAIN, THREE, TWO, VIA, break_even, estimate, ways
from via_ext.doctor.evidence import GIVEN, Evidence
from via_ext.doctor.figures import Counts, Times, Tokens
from via_ext.doctor.model import (
    best_three,
    best_two,
    of_counts,
    plain,
    three_exact,
    turning_point,
    two_tiers,
)
from via_ext.doctor.passes import Timings
from via_ext.doctor.text import Tally, tally

CURVES = {
    "full": ((1, 1.0), (6, 1.5)),
    "slim": ((1, 0.4), (6, 0.6)),
    "prefix": ((1, 0.2), (6, 0.3)),
    "tail": ((1, 0.8), (6, 1.2), (38, 2.0)),
    "draft": ((1, 0.05), (5, 0.25)),
}
TIMES = Times(CURVES, {"plain": 0.1, "two": 0.2, "slim": 0.3})


def test_curves_are_straight_between_and_beyond_their_points() -> None:
    assert TIMES.at("full", 1) == 1.0 and TIMES.at("full", 6) == 1.5
    assert TIMES.at("full", 3.5) == pytest.approx(1.25)
    assert TIMES.at("full", 11) == pytest.approx(2.0)
    assert TIMES.at("tail", 22) == pytest.approx(1.6)
    assert TIMES.scaled({"slim": 2.0}).at("slim", 6) == pytest.approx(1.2)


def test_plain_and_two_tiers() -> None:
    tokens = Tokens((0.8, 0.6, 0.5))
    assert plain(TIMES) == pytest.approx(1.1)
    assert two_tiers(TIMES, tokens, 2) == pytest.approx((0.1 + 1.2 + 0.2) / 2.4)
    assert two_tiers(TIMES, tokens, 0) == pytest.approx(1.2)
    best = best_two(TIMES, tokens)
    assert best.seconds == min(two_tiers(TIMES, tokens, n) for n in (1, 2, 3))


def simulate(tokens: Tokens, draft: int, rounds: int, fused: bool, cycles: int) -> float:
    """Seconds per token of cycles played with coins: the words of docs/design.md, section 15."""
    dice = random.Random(5)

    def accepted(rates: tuple[float, ...]) -> int:
        coin = dice.random()
        return sum(coin < rate for rate in rates[:draft])

    seconds, new = 0.0, 0
    drafting = TIMES.at("draft", draft)
    for _ in range(cycles):
        backlog = sum(1 + accepted(tokens.slim_accepted) for _ in range(rounds)) - (not fused)
        seconds += rounds * (drafting + TIMES.at("slim", 1 + draft) + TIMES.host["slim"])
        if fused:
            seconds += drafting + TIMES.at("prefix", 1 + draft) + TIMES.host["slim"]
        seconds += TIMES.at("tail", backlog + 1 + (draft if fused else 0))
        right = 0
        while right < backlog:
            rate = tokens.persistence if right else tokens.agreement
            if dice.random() >= rate:
                break
            right += 1
        new += right + 1
        if fused and right == backlog:
            new += accepted(tokens.accepted)
    return seconds / new


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("rounds", [1, 3])
@pytest.mark.parametrize("agreement", [0.8, 0.97])
def test_three_tiers_are_the_process(fused: bool, rounds: int, agreement: float) -> None:
    tokens = Tokens((0.7, 0.5, 0.4), (0.75, 0.6, 0.5), agreement, agreement + 0.01)
    expected = simulate(tokens, 3, rounds, fused, 6000)
    choice = three_exact(TIMES, tokens, 3, rounds, fused)
    # The formula takes the backlog's mean for the backlog.
    assert choice.seconds == pytest.approx(expected, rel=0.06)
    assert choice.backlog == pytest.approx(rounds * 2.85 - (not fused))


def test_survival_and_what_is_kept() -> None:
    tokens = Tokens((), (), 0.9, 0.95)
    assert tokens.survival(0) == 1.0 and tokens.survival(1) == pytest.approx(0.9)
    assert tokens.survival(3) == pytest.approx(0.9 * 0.95**2)
    assert tokens.kept(3) == pytest.approx(0.9 * (1 + 0.95 + 0.95**2))
    assert tokens.kept(2) < tokens.kept(2.5) < tokens.kept(3)


def test_another_agreement() -> None:
    tokens = Tokens((0.7, 0.5), (0.6, 0.6), 0.9, 0.95)
    assert tokens.with_agreement(0.9).slim_accepted == pytest.approx(tokens.slim_accepted)
    perfect = tokens.with_agreement(1.0)
    assert perfect.slim_accepted == pytest.approx(tokens.accepted)
    assert perfect.survival(20) == 1.0
    assert 0.95 < tokens.with_agreement(0.95).persistence < 1.0
    costs = [best_three(TIMES, tokens.with_agreement(x)).seconds for x in (0.5, 0.9, 0.99, 1.0)]
    assert costs == sorted(costs, reverse=True)


def test_a_run_is_priced_by_its_passes() -> None:
    straight = Counts(tokens=30, steps=10, full_passes=10, drafted=50)
    step = 0.25 + TIMES.at("prefix", 6) + TIMES.at("tail", 6) + 0.3
    assert of_counts(TIMES, straight) == pytest.approx(step / 3)
    mixed = Counts(20, 10, slim_passes=8, full_passes=5, drafted=50, slim_tokens=10)
    assert (mixed.straight, mixed.escalated) == (2, 3)
    wide = TIMES.at("tail", 6 + 2)
    seconds = 10 * 0.55 + 8 * 0.6 + 5 * wide + 2 * 0.3
    assert of_counts(TIMES, mixed) == pytest.approx(seconds / 20)
    assert of_counts(TIMES, mixed, 1.0) > of_counts(TIMES, mixed) > of_counts(TIMES, mixed, 0.0)


def test_turning_point() -> None:
    assert turning_point(lambda x: x > 0.3, 0.0, 1.0) == pytest.approx(0.3)
    assert turning_point(lambda x: x < 0.3, 1.0, 0.0) == pytest.approx(0.3)
    assert turning_point(lambda x: True, 0.0, 1.0) == 0.0
    assert turning_point(lambda x: False, 0.0, 1.0) is None


def timings(*kinds: str) -> Timings:
    found = Timings()
    for kind in kinds:
        for tokens, seconds in CURVES[kind]:
            for factor in (0.98, 1.0, 1.02, 1.0):
                found.add(kind, tokens, factor * seconds)
    return found


def evidence(agreed: int, escalated: int = 4) -> Evidence:
    """Three texts of 100 places; two places of three are drafted right."""
    one = Tally((100, 99), (70, 50), (72, 52), 100, agreed, agreed, max(0, agreed - 2))
    run = Counts(40, 16, 16, escalated, 80, 30, 36)
    return Evidence(
        draft=2,
        tallies={(GIVEN, GIVEN): [one, one, one]},
        runs={VIA: [run, run, run]},
        host={"plain": 0.0, "two": 0.0, "slim": 0.0},
        full=timings("full"),
        drafters={GIVEN: timings("draft")},
        routes={GIVEN: timings("slim", "prefix", "tail")},
    )


def test_at_the_break_even_two_and_three_tiers_are_equal() -> None:
    found = evidence(90)
    limits = break_even(found)
    times, tokens = found.times(), found.tokens(found.all)
    goal = best_two(times, tokens).seconds
    assert limits.agreement is not None and limits.slim_cost is not None
    at_limit = best_three(times, tokens.with_agreement(limits.agreement)).seconds
    assert at_limit == pytest.approx(goal, rel=1e-3)
    width = 1 + found.draft
    factor = limits.slim_cost * times.at("full", width) / times.at("slim", width)
    assert best_three(times.scaled({"slim": factor}), tokens).seconds == pytest.approx(goal, 1e-3)
    rate = limits.escalation_rate
    assert rate is not None
    if 0.0 < rate < 1.0:
        counts = found.counts(VIA, found.all)
        assert of_counts(times, counts, rate) == pytest.approx(goal, rel=1e-3)


def test_the_side_of_the_break_even_is_the_verdict() -> None:
    for agreed in (80, 90, 97, 100):
        found = evidence(agreed)
        limit, point = break_even(found).agreement, ways(found, found.all, {})
        agreement = found.tokens(found.all).agreement
        wins = point[THREE].seconds < point[TWO].seconds
        assert limit is not None and wins == (agreement > limit)


def test_estimates_and_lead() -> None:
    found = evidence(97)
    estimates, lead = estimate(found, seed=1)
    by_name = {way.name: way for way in estimates}
    assert by_name[PLAIN].speedup == 1.0
    for way in estimates:
        low, high = way.interval
        assert low <= way.speedup * 1.001 and high >= way.speedup * 0.999
    assert by_name[VIA].agreement == pytest.approx(0.9)
    assert lead.ratio >= 1.0 and lead.interval[0] <= lead.ratio <= lead.interval[1]
    assert by_name[lead.first].seconds <= by_name[lead.second].seconds
    assert estimate(found, seed=1) == (estimates, lead)


def test_tally_of_one_text() -> None:
    new = [1, 2, 3, 4]
    drafts = [[1, 2, 9], [2, 9, 9], [9, 9, 9], [4, 9, 9]]
    slim = [1, 2, 9, 4]
    found = tally(new, drafts, 3, slim)
    assert found.places == (4, 3, 2)
    assert found.accepted == (3, 1, 0)
    # At the first place the slim verifier takes the wrong third token as well; so it does at the
    # second place, where that token is the draft's second, and at the third.
    assert found.slim_accepted == (4, 2, 1)
    assert (found.positions, found.agreed, found.pairs, found.pairs_agreed) == (4, 3, 2, 1)
    assert found.plus(found).agreed == 6
    assert found.tokens.accepted == (3 / 4, 1 / 3, 0.0)


def test_timings_report_medians_and_spreads() -> None:
    found = Timings()
    for seconds in (1.0, 1.1, 5.0, 0.9, 1.0):
        found.add("full", 1, seconds)
        found.add("full", 6, 0.9)
    assert found.curves() == {"full": ((1, 0.9), (6, 0.9))}  # never falling
    rows = {row["tokens"]: row for row in found.rows()}
    assert rows[1]["seconds"] == 1.0 and rows[1]["repeats"] == 5 and rows[1]["spread"] > 0.0
    assert rows[6]["spread"] == 0.0
    assert found.errors()["full"] > 0.0
