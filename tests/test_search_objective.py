# SPDX-License-Identifier: Apache-2.0
"""What a route search minimises: divergences by hand and by loops, times by simulation, costs."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
import torch

from tests.models import VOCAB_SIZE, random_model
from via_ext.route import SlimRoute
from via_ext.scoring import DeployedScorer
from via_ext.search.costs import SublayerCosts, sublayer_seconds, weight_bytes
from via_ext.search.latency import DraftModel, chain_tokens, time_per_token
from via_ext.search.objective import Objective, divergence, tier_gain

ROUTE = SlimRoute((True, False, True, True), (True, True, False, True))


def _loop(q: list[float], s: list[float], a: float, b: float, missing: bool) -> float:
    """R as the paper writes it, over probabilities."""
    total = 0.0
    for full, slim in zip(q, s, strict=True):
        if slim > 0:
            excess = math.log(1 - a) + math.log(slim) - math.log(full) if full else math.inf
            total += slim * max(0.0, excess)
        if full > 0:
            gap = (math.log(slim) if slim else -math.inf) - math.log(full)
            total += full * max(0.0, math.log(b) + (-gap if missing else gap))
    return total


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize(("alpha", "beta"), [(0.5, 0.3), (0.0, 1.0), (0.2, 0.9)])
def test_divergence_is_the_printed_sum(alpha: float, beta: float, missing: bool) -> None:
    full, slim = 3 * torch.randn(2, 20, 17, dtype=torch.float64)
    found = divergence(full, slim, alpha=alpha, beta=beta, missing_mass=missing)
    assert found.dtype == torch.float32
    q, s = full.softmax(-1).tolist(), slim.softmax(-1).tolist()
    expected = [_loop(*rows, alpha, beta, missing) for rows in zip(q, s, strict=True)]
    assert min(expected) < max(expected)
    assert found.tolist() == pytest.approx(expected, abs=1e-5)


def test_divergence_by_hand() -> None:
    """q = (3/4, 1/4), s = (1/8, 7/8): the second token's ratio is 7/2, the first one's 1/6."""
    full, slim = torch.tensor([[0.75, 0.25]]).log(), torch.tensor([[0.125, 0.875]]).log()
    printed = 0.875 * math.log(0.5 * 3.5) + 0.25 * math.log(0.3 * 3.5)
    missing = 0.875 * math.log(0.5 * 3.5) + 0.75 * math.log(0.3 * 6)
    assert divergence(full, slim).item() == pytest.approx(printed)
    assert divergence(full, slim, missing_mass=True).item() == pytest.approx(missing)
    assert divergence(full, full).item() == 0.0


def test_ruled_out_tokens() -> None:
    """Both rule it out: nothing. Only q: infinite. Only s: infinite if missing mass counts."""
    never = -math.inf
    both = torch.tensor([[0.0, 1.0, never]])
    less = torch.tensor([[0.0, never, never]])
    assert divergence(both, both).item() == 0.0
    assert divergence(less, both).item() == math.inf
    q = torch.tensor([1.0, math.e]) / (1 + math.e)
    assert divergence(both, less).item() == pytest.approx(
        _loop(q.tolist(), [1, 0], 0.5, 0.3, False)
    )
    assert divergence(both, less, missing_mass=True).item() == math.inf
    with pytest.raises(ValueError, match=r"slim_logits must have the shape of .*, got \[1, 2\]"):
        divergence(both, torch.zeros(1, 2))


def test_rows_are_taken_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    full, slim = torch.randn(2, 11, 8)
    whole = divergence(full, slim)
    monkeypatch.setattr("via_ext.search.objective._PIECE", 24)
    assert torch.equal(divergence(full, slim), whole)


def test_scores_are_means_over_the_text() -> None:
    model = random_model("llama")
    drafter = random_model("llama", num_layers=1, seed=4)
    text = [torch.randint(VOCAB_SIZE, (n,)) for n in (21, 9)]
    scorer = DeployedScorer(model, text, 6)
    costs = SublayerCosts.from_bytes(model.config)
    draft = DeployedScorer(drafter, text, 6).logits
    q, s = torch.cat(scorer.full_logits), torch.cat(scorer.slim_logits(ROUTE))
    agreement = (q.argmax(-1) == s.argmax(-1)).float().mean().item()
    assert 0 < agreement < 1
    for name, missing in (("divergence", False), ("missing_mass", True)):
        score = Objective(scorer, name, 0.4, 0.2, costs)(ROUTE)
        rows = divergence(q, s, alpha=0.4, beta=0.2, missing_mass=missing)
        assert score.value == pytest.approx(rows.mean().item(), rel=1e-5)
        assert score.agreement == pytest.approx(agreement)
        total = [
            divergence(*pair, alpha=0.4, beta=0.2, missing_mass=missing).sum().item()
            for pair in ((q, draft), (s, draft), (q, s))
        ]
        gain = tier_gain(scorer, ROUTE, draft, alpha=0.4, beta=0.2, missing_mass=missing)
        assert gain == pytest.approx(total[0] - total[1] - total[2], rel=1e-4)
    latency = Objective(scorer, "latency", 0.4, 0.2, costs)
    cost = ROUTE.cost(model.config)
    share = (costs.attention[0] + costs.mlp[0]) / costs.total
    expected = time_per_token(cost, share, agreement, max_backlog=6)
    assert latency(ROUTE).value == pytest.approx(expected) and latency.two_tier == 1.0
    latency.add_drafter(draft, 0.1, 3)
    p = draft.argmax(-1)
    rates = [(p == x.argmax(-1)).float().mean().item() for x in (s, q)]
    expected = time_per_token(
        cost, share, agreement, draft=DraftModel(3, 0.1, *rates), max_backlog=6
    )
    assert latency(ROUTE).value == pytest.approx(expected)
    assert latency.two_tier == pytest.approx(1.3 / chain_tokens(rates[1], 3))


def test_time_by_hand() -> None:
    # A draftless step: s decides one token, q audits the one before it and adds the next.
    resumed = (2 * 0.2 + 0.75) / (0.9 + 1)
    fused = (0.2 + 1) / (0.9 + 1)
    assert time_per_token(0.2, 0.25, 0.9, max_backlog=2) == pytest.approx(
        min(resumed, fused, (2 * 0.2 + 1) / (0.9 + 0.81 + 1))
    )
    # Never right: the best is one step and the full pass behind it, for one token.
    assert time_per_token(0.2, 0.0, 0.0) == pytest.approx(1.2)
    # Always right, free of cost, resumed behind almost everything: max_backlog tokens a pass.
    assert time_per_token(0.0, 0.5, 1.0, max_backlog=8) == pytest.approx(0.5 / 8)


def test_time_is_that_of_a_simulation() -> None:
    """Steps, audits and fused drafts as equation (14) tells them, with coins."""
    rng = random.Random(5)
    agreement, draft = 0.8, DraftModel(2, 0.1, 0.6, 0.5)
    slim, prefix, rounds = 0.4, 0.25, 40000

    def run(chance: float, most: int) -> int:
        count = 0
        while count < most and rng.random() < chance:
            count += 1
        return count

    def simulated(steps: int, fused: bool) -> float:
        tokens = 0
        for _ in range(rounds):
            backlog = sum(1 + run(0.6, 2) for _ in range(steps))
            if not fused:
                backlog -= 1
            right = run(agreement, backlog)
            tokens += right + 1
            if fused and right == backlog:
                tokens += run(0.5, 2)
        cost = steps * (slim + 0.2) + (1.2 if fused else 1 - prefix)
        return cost * rounds / tokens

    best = min(simulated(steps, fused) for steps in (1, 2, 3) for fused in (False, True))
    found = time_per_token(slim, prefix, agreement, draft=draft, max_backlog=6)
    # The formula puts the mean backlog for its distribution: a few per cent.
    assert found == pytest.approx(best, rel=0.05)


def test_costs_by_bytes_are_the_routes() -> None:
    model = random_model("llama", num_layers=4)
    costs = SublayerCosts.from_bytes(model.config)
    for route in (ROUTE, SlimRoute.full(4), SlimRoute.prefix(4, 1), SlimRoute.evenly(4)):
        assert costs.slim(route) == pytest.approx(route.cost(model.config))
    assert costs.prefix(SlimRoute.full(4)) == pytest.approx(1 - costs.rest / costs.total)
    assert SublayerCosts.from_dict(costs.to_dict()) == costs
    shallow = random_model("llama", num_layers=1)
    assert 0 < weight_bytes(shallow) < weight_bytes(model)
    untied = random_model("llama", num_layers=1, tie_word_embeddings=False)
    assert weight_bytes(untied) == weight_bytes(shallow)


@pytest.mark.parametrize("family", ["llama", "gpt_oss"])
def test_measured_costs(family: str) -> None:
    """Every sublayer takes time, and the hooks are gone afterwards."""
    model = random_model(family, intermediate_size=2048)
    hooks = [len(module._forward_hooks) for module in model.modules()]
    costs = sublayer_seconds(model, num_tokens=4, context=16, repeats=5)
    assert costs.unit == "seconds" and costs.rest >= 0
    assert len(costs.attention) == len(costs.mlp) == 4
    assert min(costs.attention + costs.mlp) > 0
    assert costs.slim(ROUTE) < 1 and 0 < costs.prefix(ROUTE) < 1
    assert [len(module._forward_hooks) for module in model.modules()] == hooks
    assert not any(module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"repeats": 0}, ValueError, "repeats must be at least 1, got 0"),
        ({"context": 1.5}, TypeError, "context must be an int"),
    ],
)
def test_bad_measurements(options: Any, error: type, text: str) -> None:
    with pytest.raises(error, match=text):
        sublayer_seconds(random_model("llama"), **options)
