# SPDX-License-Identifier: Apache-2.0
"""The parts of a calibration: fits, judgements, intervals, replay and frontier."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from via_ext.calibration import Setting
from via_ext.calibration.choice import _Line
from via_ext.calibration.cost import PassCosts
from via_ext.calibration.decode import clustered_interval
from via_ext.calibration.fit import auc, fit_logistic, log_odds, quality
from via_ext.calibration.models import Models, fit_models, judge_models
from via_ext.calibration.replay import Replay
from via_ext.calibration.search import Point, exact_points, frontier, lossy_points, two_tier_points
from via_ext.calibration.trace import Trace
from via_ext.router import FEATURES

COSTS = PassCosts(draft=0.1, slim=0.5, resumed=0.75)
NEVER = (100.0, *[0.0] * 7)  # certain to be wrong
ALWAYS = (-100.0, *[0.0] * 7)


def test_fit_recovers_planted_weights(generator: torch.Generator) -> None:
    scale, shift = torch.tensor([1.0, 5.0, 0.1]), torch.tensor([0.0, 3.0, -2.0])
    features = torch.randn(20000, 3, generator=generator) * scale + shift
    planted = (15.0, 1.5, -0.3, 8.0)
    chance = torch.sigmoid(log_odds(planted, features))
    labels = torch.rand(20000, generator=generator) < chance
    fitted = fit_logistic(features, labels)
    assert fitted == pytest.approx(planted, rel=0.1)
    found = quality(fitted, features, labels)
    assert found.rate == pytest.approx(float(chance.mean()), abs=0.02)
    # No model predicts these labels better than the chances they were drawn from.
    ideal = quality(planted, features, labels)
    assert found.log_loss == pytest.approx(ideal.log_loss, abs=1e-3)
    assert found.brier == pytest.approx(ideal.brier, abs=1e-3)
    assert fit_logistic(features, labels) == fitted


def test_fit_of_separable_constant_and_one_sided_data() -> None:
    features = torch.tensor([[0.0, 7.0], [1.0, 7.0], [2.0, 7.0], [3.0, 7.0]])
    bias, slope, constant = fit_logistic(features, torch.tensor([0, 0, 1, 1]).bool())
    assert 0.0 < slope < 10.0 and constant == 0.0 and math.isfinite(bias)
    bias, *weights = fit_logistic(features, torch.ones(4).bool())
    assert 1.0 < bias < 10.0 and max(map(abs, weights)) < 1e-6
    with pytest.raises(ValueError, match="at least one row"):
        fit_logistic(features[:0], torch.ones(0).bool())


def test_auc_is_the_share_of_pairs_in_order(generator: torch.Generator) -> None:
    scores = torch.randint(0, 6, (60,), generator=generator).double()
    labels = torch.rand(60, generator=generator) < 0.4
    positive, negative = scores[labels], scores[~labels]
    difference = positive[:, None] - negative
    pairs = (difference > 0).double() + 0.5 * (difference == 0).double()
    assert auc(scores, labels) == pytest.approx(float(pairs.mean()))
    assert auc(scores, torch.zeros(60).bool()) is None


def test_interval_widens_with_correlation_within_prompts() -> None:
    tokens = torch.full((20,), 50)
    even = torch.full((20,), 45)  # as many wrong in every prompt
    lumpy = torch.tensor([50] * 18 + [0, 0])
    low, high = clustered_interval(even, tokens, 1.96)
    # Wilson's interval for 900 of 1000.
    assert (low, high) == pytest.approx((0.8799, 0.9171), abs=1e-3)
    wide = clustered_interval(lumpy, tokens, 1.96)
    assert wide[0] < low - 0.05 and wide[1] > high
    low, high = clustered_interval(tokens, tokens, 1.96)
    assert 0.99 < low < 1.0 and high == 1.0


def make_trace(draft: str, slim: str, texts: int = 1) -> Trace:
    """A text of positions where draft and slim are right (1) or wrong (0)."""
    count = len(draft) * texts
    right = torch.tensor([c == "1" for c in draft * texts])
    slim_right = torch.tensor([c == "1" for c in slim * texts])
    features = torch.zeros(count, len(FEATURES))
    features[:, FEATURES.index("same")] = (right & slim_right).float()
    lengths = torch.full((texts,), len(draft))
    return Trace(lengths, features, right, slim_right, right, torch.where(right, 1.0, 0.25))


def replay(trace: Trace, draft=ALWAYS, slim=ALWAYS, bonus=ALWAYS, nodes: int = 2) -> Replay:
    return Replay(trace, Models(draft, slim, bonus, (0.0,) * 4), COSTS, nodes, 8)


def run(replayed: Replay, setting: Setting, exact: bool = False) -> tuple[int, float]:
    found = replayed.run([setting], exact)
    return int(found.errors.sum()), float(found.cost.sum())


def test_replay_of_two_tiers_by_hand() -> None:
    """Steps of 2 nodes: 1 1 + own; then 0; then 1 and the last token without room for more."""
    trace = make_trace("1110011", "1111111")
    setting = Setting(1.0, full_matches=0.0)
    # Places 0-2, 3, 4, 5-6 (room for one node there).
    assert run(replay(trace), setting) == (0, pytest.approx(4 + 0.1 * (2 + 2 + 2 + 1)))
    # At ratio .25 every node passes: 0-2, 3-5, 6.
    lenient = Setting(0.9, full_matches=0.0, full_ratio=0.25)
    assert run(replay(trace), lenient) == (2, pytest.approx(3 + 0.1 * 4))


def test_replay_of_three_tiers_by_hand() -> None:
    trace = make_trace("110111", "110111")
    everything = Setting(0.9, 0.5, 0.5, 0.5)
    assert run(replay(trace), everything) == (1, pytest.approx(2 * (0.5 + 0.2)))
    # The draft model refuses every node, the slim verifier's own token is taken: one a step.
    assert run(replay(trace, draft=NEVER), everything) == (1, pytest.approx(6 * 0.5 + 0.1 * 9))
    # Nothing passes: each step escalates at its first row, and the full model judges the nodes.
    strict = Setting(0.9)
    errors, cost = run(replay(trace, NEVER, NEVER, NEVER), strict)
    assert errors == 0
    assert cost == pytest.approx(2 * (0.5 + 0.75 + 0.2))


def test_replay_of_an_audit_by_hand() -> None:
    """Two provisional walks, the second one a wrong token; the audit keeps what came before."""
    trace = make_trace("1111111", "1110111")
    models = (0.0, *[0.0] * 7)  # half of all tokens survive
    setting = Setting(1.0, audit_survival=0.1)
    errors, cost = run(replay(trace, models, models, models), setting, exact=True)
    # Walk 0-2 (survival 1/8); 3, not the drafted token (1/16); audit, which emits 3; walk 4-6 and
    # the audit of the end.
    assert errors == 0
    assert cost == pytest.approx(3 * 0.5 + 2 * 1.0 + 0.1 * (2 + 2 + 2 + 2))


@pytest.fixture(scope="module")
def noisy() -> Replay:
    """Features that tell something of what is right; a slim verifier better than the drafter."""
    generator = torch.Generator().manual_seed(5)
    count, texts = 240, 6
    hard = torch.randn(count, generator=generator)
    draft = torch.rand(count, generator=generator) > torch.sigmoid(1.5 * hard - 1.0)
    slim = torch.rand(count, generator=generator) > torch.sigmoid(2.0 * hard - 4.0)
    features = torch.zeros(count, len(FEATURES))
    features[:, FEATURES.index("draft_margin")] = 3.0 - hard
    features[:, FEATURES.index("margin")] = 4.0 - hard
    features[:, FEATURES.index("same")] = (draft & slim).float()
    lengths = torch.full((texts,), count // texts)
    ratio = torch.where(draft, 1.0, torch.rand(count, generator=generator))
    trace = Trace(lengths, features, draft, slim, draft, ratio)
    models = fit_models(trace, 4, True)
    assert judge_models(models, trace, 4, True)["slim"].auc > 0.6
    return Replay(trace, models, COSTS, 4, 32)


def test_a_higher_agreement_is_never_cheaper(noisy: Replay) -> None:
    points = lossy_points(noisy, [0.97, 0.9], seed=0) + two_tier_points(noisy)
    line = frontier(points, lowest=0.8, size=20)
    assert 2 < len(line) <= 20
    for before, after in pairwise(line):
        assert before.agreement > after.agreement and before.cost > after.cost
    for point in points:
        if point.agreement >= line[0].agreement:
            assert point.cost >= line[0].cost
    assert lossy_points(noisy, [0.97, 0.9], seed=0) == points[: -len(two_tier_points(noisy))]


def test_exact_settings_have_no_errors(noisy: Replay) -> None:
    three, two = exact_points(noisy, True, 0), exact_points(noisy, False, 0)
    assert {point.agreement for point in three + two} == {1.0}
    assert min(p.cost for p in three) <= min(p.cost for p in two) + 1e-6


class _Truth:
    """Stands for decoding: point i agrees as `agreements` says, on 10 prompts of 100 tokens."""

    def __init__(self, agreements: list[float]) -> None:
        self.agreements, self.asked = agreements, list[int]()

    def measure(self, _calibration, setting, _prompts):
        from via_ext.calibration.decode import Measured

        index = round(setting.draft_stop * 100)
        self.asked.append(index)
        right = torch.full((10,), round(100 * self.agreements[index]))
        cost = 1000.0 * (1.0 - 0.01 * index)
        return Measured(right, torch.full((10,), 100), cost, 10, 0, (0.0, 0.0, 0.0), [])


@pytest.mark.parametrize("shift", [-6, 0, 6])
def test_the_cheapest_point_that_meets_is_found(shift: int) -> None:
    """Whatever the replay believed, and without decoding every point."""
    truth = _Truth([1.0 - 0.01 * i for i in range(30)])
    believed = [min(1.0, 1.0 - 0.01 * (i - shift)) for i in range(30)]
    settings = [Setting(1.0, draft_stop=i / 100) for i in range(30)]
    points = [Point(s, a, 1.0) for s, a in zip(settings, believed, strict=True)]
    line = _Line(points, truth, None, [])
    for agreement, expected in ((0.95, 4), (0.9, 9)):
        # One standard error is .007 and .009 here: the next point, .01 above, is the first.
        setting, found = line.meet(agreement)
        assert round(setting.draft_stop * 100) == expected
        assert setting.agreement == agreement and setting.cost == found.cost_per_token
    assert len(truth.asked) == len(set(truth.asked)) <= 14
