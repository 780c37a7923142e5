# SPDX-License-Identifier: Apache-2.0
"""The oracle router: cheapest plans by hand and by search, and its place below all others."""

import itertools
import random

import pytest
import torch

pytest.importorskip("transformers")

from tests.models import greedy, random_model
from via_ext import SlimRoute, evaluate
from via_ext.evaluation import TaskPrompt
from via_ext.evaluation.costs import PassCosts
from via_ext.evaluation.oracle import cheapest_plan, right_drafts, right_slim
from via_ext.models import slim_view

COSTS = PassCosts(slim=0.5, prefix=0.25, draft=0.1)


def rights(slim, max_backlog=8):
    """The same verdict at every backlog."""
    return [slim[first : first + max_backlog] for first in range(len(slim))]


def test_plans_by_hand():
    # Two right drafts and a token of the full model's own, then a wrong draft.
    plan = cheapest_plan([True, True, False, False], None, COSTS)
    assert plan.cost == pytest.approx(2.2) and plan.lengths == [2, 0]
    assert plan.passes == (2, 0, 0, 2) and plan.by_full == 4
    # The slim verifier is right about the third: half a pass instead of a whole one.
    plan = cheapest_plan([True, True, False, False], rights([True, True, True, False]), COSTS)
    assert plan.cost == pytest.approx(0.2 + 0.5 + 1.0)
    assert (plan.by_slim, plan.own, plan.by_full) == (2, 1, 1)
    assert cheapest_plan([], None, COSTS).cost == 0.0


def brute_force(drafts, slim, done=0, backlog=0):
    """The least cost over all sequences of steps."""
    if done == len(drafts):
        return 0.0
    best = float("inf")
    for length in range(len(drafts) - done):
        if not all(drafts[done : done + length]):
            break
        after, spent = done + length + 1, length * COSTS.draft
        best = min(best, spent + 1.0 + brute_force(drafts, slim, after, 0))
        row = slim[done - backlog]
        if backlog + length < len(row) and row[backlog + length]:
            rest = brute_force(drafts, slim, after, backlog + length + 1)
            best = min(best, spent + COSTS.slim + rest)
    return best


def test_plans_are_the_cheapest_of_all():
    generator = random.Random(1)
    for _ in range(60):
        count = generator.randint(1, 8)
        drafts = [generator.random() < 0.6 for _ in range(count)]
        # Another verdict for every backlog, cut at a backlog of three.
        slim = [[generator.random() < 0.7 for _ in range(min(3, count - i))] for i in range(count)]
        plan = cheapest_plan(drafts, slim, COSTS)
        assert plan.cost == pytest.approx(brute_force(drafts, slim))
        assert COSTS.total(plan.passes) == pytest.approx(plan.cost)
        assert plan.by_slim + plan.own + plan.by_full == count


@pytest.fixture(scope="module")
def pair():
    return random_model("llama"), random_model("llama", num_layers=2), SlimRoute.evenly(4, 0.25)


def test_what_the_models_say_along_the_text(pair):
    target, drafter, route = pair
    prompt = [5, 17, 3, 40]
    text = greedy(target, prompt, 10)
    tokens = torch.tensor(text)
    drafts = right_drafts(drafter, tokens, len(prompt))
    for place, right in enumerate(drafts, len(prompt)):
        assert right == (greedy(drafter, text[:place], 1)[-1] == text[place])
    slim = right_slim(target, route, tokens, len(prompt), max_backlog=4)
    assert [len(row) for row in slim] == [4] * 7 + [3, 2, 1]
    # A skipped attention has no keys: with its first layers whole and no prompt before, the slim
    # verifier alone says the same as with a backlog that reaches back to the first token.
    alone = slim_view(target, route)
    first = greedy(target, text[:1], 6)
    backlogged = right_slim(target, route, torch.tensor(first), 1, max_backlog=6)[0]
    logits = alone(torch.tensor([first[:-1]]), use_cache=False).logits[0]
    assert backlogged == (logits.argmax(-1) == torch.tensor(first[1:])).tolist()


def test_slim_verdicts_rest_on_the_full_models_keys(pair):
    """At backlog 0 everything before the root holds the full model's keys and values."""
    target, _, route = pair
    text = greedy(target, [7, 8, 9], 8)
    tokens = torch.tensor(text)
    one = right_slim(target, route, tokens, 3, max_backlog=1)
    many = right_slim(target, route, tokens, 3, max_backlog=5)
    # Passes over more tokens, and what they wrote, change no earlier verdict.
    assert [row[0] for row in one] == [row[0] for row in many]


def test_no_exact_method_is_cheaper_and_the_text_is_the_full_models(pair):
    generator = torch.Generator().manual_seed(7)
    ids = [torch.randint(1, 96, (6,), generator=generator) for _ in range(3)]
    tasks = [TaskPrompt(str(i), "t", "t", prompt) for i, prompt in enumerate(ids)]
    keys = ["two-tier-2", "two-tier-4", "two-tier-8", "exact", "exact-backlog-4"]
    options = {"methods": [*keys, "oracle", "oracle-two-tier"], "repeats": 0}
    found = evaluate(*pair, tasks, max_new_tokens=8, **options)
    costs = {key: found.summary(key)["modelled_cost"] for key in (*keys, "greedy")}
    oracle, two = (found.summary(key) for key in ("oracle", "oracle-two-tier"))
    assert oracle["agreement"] == two["agreement"] == 1.0
    assert oracle["modelled_cost"] <= two["modelled_cost"] + 1e-9
    for key, cost in costs.items():
        assert oracle["modelled_cost"] <= cost + 1e-9, key
        if "exact" not in key:
            assert two["modelled_cost"] <= cost + 1e-9, key
    plain = found.data["methods"]["greedy"]["sets"]["t"]
    assert found.data["methods"]["oracle"]["sets"]["t"]["mean_logprob"] == plain["mean_logprob"]


def test_random_states_reach_the_end():
    for drafts in itertools.product([True, False], repeat=4):
        plan = cheapest_plan(list(drafts), rights([False] * 4), COSTS)
        assert plan.passes.slim == 0 and plan.cost == cheapest_plan(list(drafts), None, COSTS).cost
