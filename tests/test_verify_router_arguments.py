# SPDX-License-Identifier: Apache-2.0
"""The router and the drafter's scores as arguments: forms, strides, errors, tracing."""

import re

import pytest
import torch

from via_ext import ops, reference
from via_ext.router import PACKED_SIZE, Router

B, N, V = 3, 4, 50
MODEL = (-0.5, -0.7, -0.2, -0.1, 0.0, 0.0, 0.1, -0.4)
DRAFT = (-1.0, -0.5, 0.0, 0.0, -0.3, -0.2, 0.0, 0.0)
ROUTER = Router(MODEL, MODEL, MODEL, 0.4, 0.5, 0.6)
WEIGHS_DRAFT = Router(DRAFT, MODEL, MODEL, 0.4, 0.5, 0.6)
GEN = torch.Generator().manual_seed(5)
LOGITS = torch.randn(B, N + 1, V, generator=GEN) * 3
IDS = LOGITS[:, :N].argmax(-1)
SCORES = torch.randn(B, N, 2, generator=GEN)
PROBS = torch.full((B, N, V), 1 / V)


def call(**changes):
    return ops.verify(IDS, LOGITS, **{"rule": "route", "router": ROUTER, **changes})


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_a_router_and_its_packed_forms_are_one():
    expected = call()
    assert expected.num_accepted.max() > 0 and len(set(expected.tiers.flatten().tolist())) > 1
    assert same(call(router=ROUTER.pack()), expected)
    assert same(call(router=ROUTER.pack().repeat(B, 1)), expected)
    assert same(call(router=ROUTER.pack().expand(B, PACKED_SIZE)), expected)
    assert ROUTER.pack().tolist() == torch.tensor(ROUTER.packed()).tolist()


def test_scores_may_have_any_leading_strides():
    expected = call(router=WEIGHS_DRAFT, draft_scores=SCORES)
    wide = torch.full((N, B, 6), torch.nan)
    wide[:, :, 2:4] = SCORES.transpose(0, 1)
    strided = wide[:, :, 2:4].transpose(0, 1)
    assert same(call(router=WEIGHS_DRAFT, draft_scores=strided), expected)
    assert not same(call(router=WEIGHS_DRAFT, draft_scores=SCORES.flip(0)), expected)


CASES = {
    "type": ({"router": 0.5}, TypeError, "router must be a Router or a float32 tensor of shape"),
    "numbers": ({"router": ROUTER.packed()}, TypeError, "router must be a Router or a float32"),
    "dtype": ({"router": ROUTER.pack().double()}, TypeError, "router must be float32, got"),
    "size": ({"router": ROUTER.pack()[1:]}, ValueError, "router must have shape [27] or [B, 27]"),
    "rows": ({"router": ROUTER.pack().repeat(2, 1)}, ValueError, "router must have shape [27] or"),
    "strides": (
        {"router": ROUTER.pack().repeat(2, 1).T.contiguous().T[0]},
        ValueError,
        "router must be contiguous in the last dimension",
    ),
    "greedy": ({"rule": "greedy"}, ValueError, "router must be None for rules 'greedy' and"),
    "sample": (
        {"rule": "sample", "uniform_samples": torch.zeros(B, N + 1)},
        ValueError,
        "router must be None for rules 'greedy' and 'sample', got a router",
    ),
    "gate": (
        {"draft_threshold": 0.5, "draft_probs": PROBS},
        ValueError,
        "draft_threshold must be None with router, got 0.5",
    ),
    "no-scores": (
        {"router": WEIGHS_DRAFT},
        ValueError,
        "draft_scores must be given for a router that weighs them, got None",
    ),
    "scores-alone": (
        {"router": None, "draft_scores": SCORES},
        ValueError,
        "draft_scores must come with router",
    ),
    "scores-type": ({"draft_scores": [1.0]}, TypeError, "draft_scores must be a dense tensor"),
    "scores-dtype": ({"draft_scores": SCORES.half()}, TypeError, "draft_scores must be float32"),
    "scores-shape": (
        {"draft_scores": SCORES[:, 1:]},
        ValueError,
        "draft_scores must have shape [B, N, 2] = [3, 4, 2], got [3, 3, 2]",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_errors_come_before_any_work(name):
    changes, error, text = CASES[name]
    out = ops.empty_verification(B, N, ratios=changes.get("rule") is None)
    for field in out:
        if field is not None:
            field.fill_(77)
    before = [None if field is None else field.clone() for field in out]
    with pytest.raises(error, match=re.escape("verify: " + text)):
        call(**changes, out=out)
    assert all(a is b or torch.equal(a, b) for a, b in zip(out, before, strict=True))


def test_results_may_not_share_memory_with_the_router():
    out = ops.empty_verification(B, PACKED_SIZE - 1)
    ids = torch.zeros(B, PACKED_SIZE - 1, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"verify: out\.logprobs must"):
        ops.verify(ids, LOGITS[:, :1].expand(B, PACKED_SIZE, V), rule="route",
                   router=out.logprobs, out=out)  # fmt: skip


@pytest.mark.parametrize("name", ["greedy", "gate", "no-scores", "scores-alone"])
def test_the_reference_refuses_the_same(name):
    changes, error, _ = CASES[name]
    with pytest.raises(error, match="verify: "):
        reference.verify(IDS, LOGITS, **{"rule": "route", "router": ROUTER, **changes})


@pytest.mark.parametrize("value", [torch.finfo(torch.float64).max, float("inf"), float("nan")])
def test_a_router_holds_numbers_that_float32_has(value):
    with pytest.raises(ValueError, match="Router: slim must hold finite numbers"):
        Router(MODEL, (value, *MODEL[1:]), MODEL, 0.5, 0.5, 0.5)


@pytest.mark.parametrize("form", ["object", "packed"])
def test_compiled_calls(form):
    def step(logits, scores, router):
        return ops.verify(IDS, logits, rule="route", router=router, draft_scores=scores)

    router = WEIGHS_DRAFT if form == "object" else WEIGHS_DRAFT.pack().repeat(B, 1)
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    assert same(compiled(LOGITS, SCORES, router), step(LOGITS, SCORES, router))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_router_is_captured_by_value():
    given = [IDS.cuda(), LOGITS.cuda()]
    more = {"rule": "route", "router": WEIGHS_DRAFT, "draft_scores": SCORES.cuda()}
    ops.verify(*given, **more)  # allocates the work space
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = ops.verify(*given, **more)
    graph.replay()
    expected = call(router=WEIGHS_DRAFT, draft_scores=SCORES)
    for name in ("tiers", "path", "next_token", "escalate", "status"):
        assert torch.equal(getattr(result, name).cpu(), getattr(expected, name))
