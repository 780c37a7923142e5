# SPDX-License-Identifier: Apache-2.0
"""The Python side of the operations: types, shapes, strides, outputs, errors and tracing."""

from __future__ import annotations

import re
import threading

import pytest
import torch
from torch._subclasses import FakeTensorMode

from via_ext import ops
from via_ext.router import Router

B, N, V = 2, 3, 70
FLOATS = (torch.float32, torch.float16, torch.bfloat16)


@pytest.fixture
def case():
    generator = torch.Generator().manual_seed(7)
    return {
        "draft_token_ids": torch.randint(0, V, (B, N), generator=generator),
        "logits": torch.randn(B, N + 1, V, generator=generator),
        "uniform_samples": torch.rand(B, N + 1, generator=generator),
    }


def call(case, /, **changes):
    arguments = {"rule": "route", **case, **changes}
    return ops.verify(arguments.pop("draft_token_ids"), arguments.pop("logits"), **arguments)


def same(a, b) -> bool:
    pairs = zip(a, b, strict=True)
    return all((x is None and y is None) or torch.equal(x, y) for x, y in pairs)


def copied(result):
    return ops.Verification._make(x if x is None else x.clone() for x in result)


def sentinel(rule="route"):
    result = ops.empty_verification(B, N, ratios=rule == "route")
    for field in result:
        if field is not None:
            field.fill_(77 if field.dtype != torch.bool else True)
    return result


@pytest.mark.parametrize("rule", ["route", "greedy", "sample"])
def test_shapes_and_dtypes(case, rule):
    result = call(case, rule=rule)
    expected = {
        "ratios": ((B, N), torch.float32),
        "tiers": ((B, N), torch.uint8),
        "path": ((B, N), torch.int32),
        "num_accepted": ((B,), torch.int32),
        "next_token": ((B,), torch.int64),
        "next_row": ((B,), torch.int32),
        "escalate": ((B,), torch.bool),
        "logprobs": ((B, N + 1), torch.float32),
        "status": ((B,), torch.int32),
    }
    assert result._fields == tuple(expected)
    for name, field in result._asdict().items():
        if name in ("ratios", "tiers") and rule != "route":
            assert field is None
            continue
        assert (tuple(field.shape), field.dtype) == expected[name], name
        assert field.is_contiguous()
        assert not field.requires_grad


@pytest.mark.parametrize("rule", ["route", "greedy", "sample"])
def test_out_is_written_completely_and_returned(case, rule):
    out = sentinel(rule)
    addresses = [x.data_ptr() for x in out if x is not None]
    assert call(case, rule=rule, out=out) is out
    assert addresses == [x.data_ptr() for x in out if x is not None]
    assert same(out, call(case, rule=rule))


def test_inputs_are_not_written(case):
    before = {k: v.clone() for k, v in case.items()}
    call(case, rule="sample", draft_probs=torch.rand(B, N, V).softmax(-1))
    assert all(torch.equal(before[k], v) for k, v in case.items())


def test_results_outlive_each_other(case):
    path = call(case).path
    for _ in range(50):
        call(case)
    assert torch.equal(path, call(case).path)


@pytest.mark.parametrize("dtype", FLOATS)
def test_leading_strides_are_free(case, dtype):
    logits = case["logits"].to(dtype)
    wide = torch.full((N + 1, B, V + 5), float("nan"), dtype=dtype)
    view = wide[:, :, 2 : V + 2].transpose(0, 1)
    view.copy_(logits)
    ids = torch.full((N, B), -7).t()
    ids = torch.cat([case["draft_token_ids"], torch.full((B, 4), 10**9)], 1)[:, :N]
    changed = {"logits": view, "draft_token_ids": ids}
    assert same(call(case, logits=logits), call(case, **changed))
    shared = logits[:1].expand(B, -1, -1)
    assert same(call(case, logits=shared), call(case, logits=shared.contiguous()))


def test_int32_ids_and_parameter_subclass(case):
    expected = call(case)
    ids = case["draft_token_ids"].int()
    assert same(expected, call(case, draft_token_ids=ids, parents=torch.arange(-1, N - 1).int()))
    parameter = torch.nn.Parameter(case["logits"])
    result = call(case, logits=parameter)
    assert same(expected, result)
    assert not any(x.requires_grad for x in result)


def test_numbers_and_rows_agree(case):
    numbers = {"accept_threshold": 0.6, "escalate_threshold": 0.4, "temperature": 0.8}
    filters = {"top_k": 9, "top_p": 0.9, "min_p": 0.01}
    rows = {k: torch.full((B,), v) for k, v in {**numbers, **filters}.items()}
    expected = call(case, **numbers, **filters)
    assert same(expected, call(case, **rows))
    assert same(expected, call(case, **{**rows, "top_k": rows["top_k"].int()}))
    assert same(call(case, top_k=0), call(case, top_k=10**30))


def test_edge_sizes(case):
    for rule in ("route", "greedy"):
        logits = case["logits"][:, :1]
        result = ops.verify(torch.empty(B, 0, dtype=torch.int64), logits, rule=rule)
        assert result.path.shape == (B, 0)
        assert torch.equal(result.next_token, logits[:, 0].argmax(-1))
    ids = torch.zeros(1, 127, dtype=torch.int64)
    assert ops.verify(ids, torch.zeros(1, 128, 1), rule="greedy").num_accepted.item() == 127


def test_threads_share_the_module(case):
    expected = call(case, rule="sample", temperature=0.7)
    failures = []

    def work():
        for _ in range(200):
            if not same(expected, call(case, rule="sample", temperature=0.7)):
                failures.append(1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_resume_copies_finished_rows(case):
    thresholds = torch.tensor([2.0, 0.0])
    route = call(case, accept_threshold=thresholds, escalate_threshold=thresholds)
    assert route.escalate.tolist() == [True, False]
    assert route.next_token[0] == -1
    before = copied(route)
    result = call(case, rule="greedy", resume=route)
    assert same(before, route)
    assert not result.escalate.any()
    assert torch.equal(result.path[1], route.path[1])
    assert torch.equal(result.tiers, route.tiers)


def test_filtered_probs_shapes(case):
    logits = case["logits"]
    expected = torch.softmax(logits / 0.7, -1)
    probs = ops.filtered_probs(logits, temperature=0.7)
    assert probs.dtype == torch.float32
    torch.testing.assert_close(probs, expected)
    torch.testing.assert_close(ops.filtered_probs(logits[0, 0], temperature=0.7), expected[0, 0])
    rows = torch.full((B, N + 1), 0.7)
    assert torch.equal(ops.filtered_probs(logits, temperature=rows), probs)
    assert ops.filtered_probs(logits[:0]).shape == (0, N + 1, V)
    assert ops.filtered_probs(logits, temperature=0.0).max(-1).indices.equal(logits.argmax(-1))


def test_draft_sample(case):
    logits = case["logits"][0]
    seed = torch.arange(N + 1)
    keywords = {"temperature": 0.9, "seed": seed, "position": seed, "column": 2}
    tokens, probs = ops.draft_sample(logits, **keywords)
    assert tokens.dtype == torch.int64
    assert torch.equal(probs, ops.filtered_probs(logits, temperature=0.9))
    assert torch.equal(tokens, ops.draft_sample(logits, **keywords)[0])
    greedy, one_hot = ops.draft_sample(logits, temperature=0.0)
    assert torch.equal(greedy, logits.argmax(-1))
    assert torch.equal(one_hot.argmax(-1), greedy)
    with pytest.raises(ValueError, match=re.escape("draft_sample: seed must be given")):
        ops.draft_sample(logits, temperature=0.5)


def compact_arguments():
    caches = [torch.randn(B, 16, 2, 4), torch.randn(B, 2, 16, 8, dtype=torch.bfloat16)]
    caches[1] = caches[1].transpose(1, 2)
    path = torch.tensor([[0, 2, -1], [1, -1, -1]], dtype=torch.int32)
    return caches, torch.tensor([3, 4]), path, torch.tensor([2, 1], dtype=torch.int32)


def test_compact_kv_in_place():
    caches, context, path, count = compact_arguments()
    before = [c.clone() for c in caches]
    assert ops.compact_kv(caches, context, path, count) is None
    for old, new in zip(before, caches, strict=True):
        old[0, 5] = old[0, 6]
        old[1, 5] = old[1, 6]
        assert torch.equal(old, new)


def test_fake_tensors_trace_inside_their_mode(case):
    with FakeTensorMode() as mode:
        fakes = {k: mode.from_tensor(v) for k, v in case.items()}
        result = call(fakes)
    real = call(case)
    for fake, field in zip(result, real, strict=True):
        assert (fake.shape, fake.dtype, fake.stride()) == (field.shape, field.dtype, field.stride())


def test_opcheck(case):
    import via_ext.torch_ops as torch_ops

    one = (torch.tensor([1, 2]), torch.tensor([3, 4]))
    route = call(case, accept_threshold=2.0)
    recorded = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ops._verify, "tracing", lambda: True)
        patch.setattr(ops._filter, "tracing", lambda: True)
        patch.setattr(ops._compact, "tracing", lambda: True)
        patch.setattr(ops._attention, "tracing", lambda: True)
        for name in torch_ops.OPERATORS:
            operator = getattr(torch.ops.via_ext, name)

            def record(*args, operator=operator):
                recorded.append((operator.default, args))
                return operator(*args)

            patch.setattr(torch.ops.via_ext, name, record)
        call(case)
        call(
            case,
            rule="sample",
            temperature=torch.ones(B),
            uniform_samples=None,
            seed=one[0],
            position=one[1],
            out=sentinel("sample"),
        )
        call(case, rule="greedy", resume=route, draft_logits=torch.randn(B, N, V))
        model = Router((0.5,) * 8, (0.1,) * 8, (0.2,) * 8, 0.3, 0.4, 0.5)
        call(case, router=model, draft_scores=torch.randn(B, N, 2))
        call(case, router=model.pack().repeat(B, 1))
        ops.filtered_probs(case["logits"], top_k=5)
        draw = {"seed": one[0], "position": one[1]}
        ops.draft_sample(case["logits"][:, 0], **draw)
        ops.draft_sample(case["logits"][:, 0], return_probs=False, **draw)
        ops.compact_kv(*compact_arguments())
        query, new, cache = torch.randn(B, 3, 2, 64), torch.randn(B, 3, 1, 64), (B, 8, 1, 64)
        ops.tree_attention(query, new, new * 2, torch.zeros(cache), torch.zeros(cache), one[0])
    assert {operator.name() for operator, _ in recorded} == {
        f"via_ext::{name}" for name in torch_ops.OPERATORS
    }
    assert len(recorded) == 10
    for operator, arguments in recorded:
        torch.library.opcheck(operator, arguments)


def test_fullgraph_compile(case):
    caches, context, path, count = compact_arguments()
    twins = [c.clone() for c in caches]

    def step(ids, logits, coins, out, caches):
        routed = ops.verify(ids, logits, rule="route", temperature=0.9, uniform_samples=coins)
        ops.verify(ids, logits, rule="greedy", out=out)
        probs = ops.filtered_probs(logits, top_p=0.8)
        drawn, _ = ops.draft_sample(logits[:, 0], temperature=0.0)
        ops.compact_kv(caches, context, path, count)
        return routed, probs, drawn

    inputs = (case["draft_token_ids"], case["logits"], case["uniform_samples"])
    out, expected_out = sentinel("greedy"), sentinel("greedy")
    expected = step(*inputs, expected_out, twins)
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    result = compiled(*inputs, out, caches)
    assert same(result[0], expected[0])
    assert torch.equal(result[1], expected[1])
    assert torch.equal(result[2], expected[2])
    assert same(out, expected_out)
    assert all(torch.equal(a, b) for a, b in zip(caches, twins, strict=True))
