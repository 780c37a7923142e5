# SPDX-License-Identifier: Apache-2.0
"""tree_attention: bad arguments (type of the error, its text, nothing written), and tracing."""

from __future__ import annotations

import re

import pytest
import torch
from torch._subclasses import FakeTensorMode

from tests.attention_cases import NAMES, make_case
from via_ext import ops

B, M, S, HQ, HKV, D = 2, 3, 12, 4, 2, 64
NEW = torch.ones(B, M, HKV, D)
CACHE = torch.zeros(B, S, HKV, D)
PAGES = torch.zeros(6, 4, HKV, D)
TABLE = torch.zeros(B, 3, dtype=torch.int32)
LENGTHS = torch.tensor([4, 5])
# Neighbours overlap: position i + 1 begins half a head after position i.
SELF_OVERLAP = torch.zeros(5000).as_strided((B, S, HKV, D), (1600, 96, 64, 1))
# Keys and values that interleave and share a head.
ARENA = torch.zeros(B, S, 3, D)


def paged(**changes):
    return {"key_cache": PAGES, "value_cache": PAGES.clone(), "page_table": TABLE, **changes}


# Changed arguments -> error, start of the text after "tree_attention: ".
CASES = {
    "query-list": ({"query": [1.0]}, TypeError, "query must be a dense tensor"),
    "query-double": ({"query": torch.zeros(B, M, HQ, D).double()}, TypeError, "query must be flo"),
    "query-rank": ({"query": torch.zeros(M, HQ, D)}, ValueError, "query must have shape [B, M, Hq"),
    "query-dim": (
        {"query": torch.zeros(B, M, HQ, 32)},
        ValueError,
        "query must have shape [B, M, Hq, D] with D one of 64, 80, 96, 128, 256, got [2, 3, 4, 32]",
    ),
    "query-many": (
        {"query": torch.zeros(B, 129, HQ, D)},
        ValueError,
        "query must have shape [B, M, Hq, D] with M <= 128, got [2, 129, 4, 64]",
    ),
    "query-strides": (
        {"query": torch.zeros(B, M, D, HQ).transpose(2, 3)},
        ValueError,
        "query must be contiguous in the last dimension",
    ),
    "query-meta": (
        {"query": torch.zeros(B, M, HQ, D, device="meta")},
        TypeError,
        "query must be a dense tensor with memory",
    ),
    "key-dtype": ({"key": NEW.bfloat16()}, TypeError, "key must be float32 like query, got bfloat"),
    "key-tokens": (
        {"key": NEW[:, :2]},
        ValueError,
        "key must have shape [B, M, Hkv, D] = [2, 3, 2",
    ),
    "key-heads": (
        {"key": torch.zeros(B, M, 3, D)},
        ValueError,
        "key must have heads that divide those of query, 4, got 3",
    ),
    "key-no-heads": ({"key": NEW[:, :, :0]}, ValueError, "key must have heads that divide"),
    "value-heads": ({"value": NEW[:, :, :1]}, ValueError, "value must have shape [B, M, Hkv, D] ="),
    "cache-dtype": ({"key_cache": CACHE.half()}, TypeError, "key_cache must be float32 like query"),
    "cache-rows": (
        {"key_cache": CACHE[:1], "value_cache": CACHE[:1].clone()},
        ValueError,
        "key_cache must have shape [B, S, Hkv, D] = [2, 12, 2, 64], got [1, 12, 2, 64]",
    ),
    "cache-heads": ({"key_cache": CACHE[:, :, :1]}, ValueError, "key_cache must have shape [B, S"),
    "cache-differ": ({"value_cache": CACHE[:, :9]}, ValueError, "value_cache must have shape [B,"),
    "cache-overlap": (
        {"key_cache": SELF_OVERLAP},
        ValueError,
        "key_cache must have positive strides without overlap, got strides [1600, 96, 64, 1]",
    ),
    "cache-expanded": (
        {"value_cache": CACHE[:, :1].expand(B, S, HKV, D)},
        ValueError,
        "value_cache must have positive strides without overlap",
    ),
    "caches-same": (
        {"key_cache": CACHE, "value_cache": CACHE},
        ValueError,
        "value_cache must share no memory with key_cache, got shared memory",
    ),
    "caches-share-a-head": (
        {"key_cache": ARENA[:, :, :2], "value_cache": ARENA[:, :, 1:]},
        ValueError,
        "value_cache must share no memory with key_cache",
    ),
    "key-in-cache": (
        {"key_cache": CACHE, "key": CACHE[:, :M]},
        ValueError,
        "key must share no memory with key_cache",
    ),
    "query-in-cache": (
        {"value_cache": CACHE, "query": CACHE.view(B, 3, 8, D)},
        ValueError,
        "query must share no memory with value_cache",
    ),
    "table-dtype": (paged(page_table=TABLE.long()), TypeError, "page_table must be int32, got int"),
    "table-rank": (paged(page_table=TABLE[0]), ValueError, "page_table must have shape [B, max_pa"),
    "table-rows": (paged(page_table=TABLE[:1]), ValueError, "page_table must have shape [B, max_p"),
    "page-size": (
        paged(key_cache=PAGES[:, :3], value_cache=PAGES[:, :3].clone()),
        ValueError,
        "key_cache must have a page size that is a power of two, got [6, 3, 2, 64]",
    ),
    "lengths-float": (
        {"context_lens": LENGTHS.float()},
        TypeError,
        "context_lens must be int32 or",
    ),
    "lengths-shape": (
        {"context_lens": LENGTHS[:1]},
        ValueError,
        "context_lens must have shape [B]",
    ),
    "lengths-list": ({"context_lens": [4, 5]}, TypeError, "context_lens must be a dense tensor"),
    "parents-list": ({"parents": [-1, 0, 1]}, TypeError, "parents must be a dense tensor"),
    "parents-shape": (
        {"parents": torch.zeros(B, 2, dtype=torch.int64)},
        ValueError,
        "parents must have shape [M] or [B, M] = [2, 3], got [2, 2]",
    ),
    "parents-short": (
        {"parents": LENGTHS},
        ValueError,
        "parents must have shape [M] or [B, M] = [3",
    ),
    "parents-float": (
        {"parents": torch.zeros(M)},
        TypeError,
        "parents must be int32 or int64, got",
    ),
    "counts-shape": (
        {"num_tokens": LENGTHS[:1]},
        ValueError,
        "num_tokens must have shape [B] = [2]",
    ),
    "scale-zero": ({"scale": 0.0}, ValueError, "scale must be finite and > 0, got 0.0"),
    "scale-nan": ({"scale": float("nan")}, ValueError, "scale must be finite and > 0, got nan"),
    "scale-big": ({"scale": 1e300}, ValueError, "scale must be finite and > 0, got 1e+300"),
    "scale-type": ({"scale": "1"}, TypeError, "scale must be a number or None, got '1'"),
    "softcap-zero": ({"softcap": 0}, ValueError, "softcap must be finite and > 0, got 0"),
    "softcap-negative": ({"softcap": -1.0}, ValueError, "softcap must be finite and > 0, got -1.0"),
    "softcap-bool": ({"softcap": True}, TypeError, "softcap must be a number or None, got True"),
    "window-zero": ({"window": 0}, ValueError, "window must be >= 1, got 0"),
    "window-float": ({"window": 2.0}, TypeError, "window must be an integer or None, got 2.0"),
    "window-bool": ({"window": True}, TypeError, "window must be an integer or None, got True"),
}


def arguments(**changes):
    given = {
        "query": torch.zeros(B, M, HQ, D),
        "key": NEW.clone(),
        "value": NEW.clone(),
        "key_cache": CACHE.clone(),
        "value_cache": CACHE.clone(),
        "context_lens": LENGTHS,
        **changes,
    }
    return [given.pop(name) for name in NAMES], given


@pytest.mark.parametrize(("changes", "error", "text"), CASES.values(), ids=CASES.keys())
def test_errors_come_before_any_work(changes, error, text):
    given, options = arguments(**changes)
    caches = [cache for cache in given[3:5] if isinstance(cache, torch.Tensor)]
    before = [cache.clone() for cache in caches]
    with pytest.raises(error, match=re.escape(f"tree_attention: {text}")):
        ops.tree_attention(*given, **options)
    assert all(torch.equal(old, new) for old, new in zip(before, caches, strict=True))


def test_views_of_one_storage_that_share_nothing():
    # Pages that hold keys, then values; and heads side by side.
    pool = torch.zeros(6, 2, 4, HKV, D)
    sides = torch.zeros(6, 4, HKV, 2, D)
    for key_cache, value_cache in (
        (pool[:, 0], pool[:, 1]),
        (pool[:, 1], pool[:, 0]),
        (sides[:, :, :, 0], sides[:, :, :, 1]),
    ):
        table = torch.tensor([[0, 1, 2], [3, 4, 5]], dtype=torch.int32)
        given, options = arguments(
            key_cache=key_cache, value_cache=value_cache, page_table=table, value=0 * NEW
        )
        ops.tree_attention(*given, **options)
        assert key_cache.sum() == B * M * HKV * D and not value_cache.any()


def traced_arguments(**options):
    generator = torch.Generator().manual_seed(1)
    case = make_case(generator, [4, 5], tokens=M, capacity=S, **options)
    return case.moved("cpu")


def test_fake_tensors_trace_inside_their_mode():
    given, _ = traced_arguments()
    real = ops.tree_attention(*given, return_lse=True)
    with FakeTensorMode() as mode:
        fakes = [mode.from_tensor(tensor) for tensor in given]
        for fake, result in zip(ops.tree_attention(*fakes, return_lse=True), real, strict=True):
            assert (fake.shape, fake.dtype) == (result.shape, result.dtype)
            assert fake.stride() == result.stride()


def test_opcheck():
    import via_ext.torch_ops  # noqa: F401

    operator = torch.ops.via_ext.tree_attention.default
    table = torch.tensor([[2, 0, 1], [5, 3, 4]], dtype=torch.int32)
    for return_lse in (False, True):
        given, _ = traced_arguments()
        torch.library.opcheck(operator, (*given, *[None] * 6, return_lse))
        given[3:5] = [PAGES.clone(), PAGES.clone()]
        options = (torch.tensor([-1, 0, 0]), torch.tensor([3, 1]), 0.2, 5.0, 4, table)
        torch.library.opcheck(operator, (*given, *options, return_lse))


def test_fullgraph_compile():
    def step(*given):
        out, lse = ops.tree_attention(*given, softcap=3.0, return_lse=True)
        return out + ops.tree_attention(*given, window=2), lse

    given, _ = traced_arguments()
    twins = [tensor.clone() for tensor in given]
    expected = step(*twins)
    result = torch.compile(step, fullgraph=True, backend="aot_eager")(*given)
    for mine, theirs in zip((*result, *given), (*expected, *twins), strict=True):
        assert torch.equal(mine, theirs)


def test_inputs_that_require_grad():
    given, _ = traced_arguments()
    expected = ops.tree_attention(*[tensor.clone() for tensor in given])
    with torch.no_grad():
        given[0].requires_grad_()
        result = ops.tree_attention(*given)
    assert torch.equal(result, expected) and not result.requires_grad
