# SPDX-License-Identifier: Apache-2.0
"""Bad arguments of the operations: the type of the error, its text, and nothing written."""

from __future__ import annotations

import re

import pytest
import torch
from torch._subclasses import FakeTensorMode

from via_ext import build_info, ops
from via_ext.ops import compact_kv, filtered_probs

B, N, V = 2, 3, 70
NAN = float("nan")
IDS = torch.zeros(B, N, dtype=torch.int64)
LOGITS = torch.randn(B, N + 1, V)
SEED = torch.zeros(B, dtype=torch.int64)
PROBS = torch.softmax(torch.randn(B, N, V), -1)
OUT = ops.empty_verification(B, N)
MASK = torch.full((B, N + 1, (V + 31) // 32), -1, dtype=torch.int32)

# Changed arguments -> error, start of the text after "verify: ".
CASES = {
    "ids-list": ({"ids": [[1]]}, TypeError, "draft_token_ids must be a dense tensor"),
    "ids-float": ({"ids": IDS.float()}, TypeError, "draft_token_ids must be int32 or int64, got"),
    "ids-int16": ({"ids": IDS.short()}, TypeError, "draft_token_ids must be int32 or int64, got"),
    "ids-rank": ({"ids": IDS[0]}, ValueError, "draft_token_ids must have shape [B, N]"),
    "ids-many": (
        {"ids": torch.zeros(1, 128, dtype=torch.int64), "logits": torch.zeros(1, 129, 4)},
        ValueError,
        "draft_token_ids must have shape [B, N] with B >= 1 and N <= 127, got [1, 128]",
    ),
    "batch-empty": (
        {"ids": IDS[:0], "logits": LOGITS[:0]},
        ValueError,
        "draft_token_ids must have shape [B, N] with B >= 1",
    ),
    "vocab-empty": ({"logits": LOGITS[..., :0]}, ValueError, "logits must have shape [B, N+1, V]"),
    "logits-double": ({"logits": LOGITS.double()}, TypeError, "logits must be float32, float16 or"),
    "logits-complex": ({"logits": LOGITS.to(torch.complex64)}, TypeError, "logits must be float32"),
    "logits-numpy": ({"logits": LOGITS.numpy()}, TypeError, "logits must be a dense tensor"),
    "logits-rank": ({"logits": LOGITS[0]}, ValueError, "logits must have shape [B, N+1, V], got"),
    "logits-rows": ({"logits": LOGITS[:, 1:]}, ValueError, "logits must have shape [B, N+1, V] ="),
    "logits-strides": (
        {"logits": torch.randn(B, V, N + 1).transpose(1, 2)},
        ValueError,
        "logits must be contiguous in the last dimension, got strides [280, 1, 4]",
    ),
    "logits-meta": ({"logits": LOGITS.to("meta")}, TypeError, "logits must be a dense tensor with"),
    "temperature-meta": (
        {"temperature": torch.ones(B, device="meta")},
        TypeError,
        "temperature must be a dense tensor with memory",
    ),
    "logits-sparse": ({"logits": LOGITS.to_sparse()}, TypeError, "logits must be a dense tensor"),
    "rule-word": ({"rule": "lossy"}, ValueError, "rule must be 'route', 'greedy' or 'sample', got"),
    "rule-type": ({"rule": 1}, TypeError, "rule must be a string, got 1"),
    "parents-shape": ({"parents": IDS[:, :2]}, ValueError, "parents must have shape [N] or [B, N]"),
    "parents-list": ({"parents": [-1, 0, 1]}, TypeError, "parents must be a dense tensor"),
    "counts-shape": ({"num_nodes": SEED[:1]}, ValueError, "num_nodes must have shape [B] = [2]"),
    "both-drafts": (
        {"draft_probs": PROBS, "draft_logits": PROBS},
        ValueError,
        "draft_probs must be None where draft_logits is given",
    ),
    "draft-shape": ({"draft_probs": PROBS[..., 1:]}, ValueError, "draft_probs must have shape [B,"),
    "map-alone": ({"draft_to_target": SEED}, ValueError, "draft_to_target must come with"),
    "map-shape": (
        {"draft_probs": PROBS, "draft_to_target": SEED},
        ValueError,
        "draft_probs must have shape [B, N, V_draft] = [2, 3, 2]",
    ),
    "thresholds-order": (
        {"accept_threshold": 0.3},
        ValueError,
        "escalate_threshold must be <= accept_threshold = 0.3, got 0.5",
    ),
    "threshold-negative": ({"escalate_threshold": -0.1}, ValueError, "escalate_threshold must be"),
    "threshold-nan": ({"accept_threshold": NAN}, ValueError, "accept_threshold must be >= 0, got"),
    "threshold-text": ({"accept_threshold": "0.7"}, TypeError, "accept_threshold must be a number"),
    "threshold-rows": (
        {"accept_threshold": torch.ones(B + 1)},
        ValueError,
        "accept_threshold must have shape [B] = [2], got [3]",
    ),
    "draft-threshold": ({"draft_threshold": 0.5}, ValueError, "draft_threshold must come with"),
    "temperature-negative": ({"temperature": -1.0}, ValueError, "temperature must be finite and"),
    "temperature-nan": ({"temperature": NAN}, ValueError, "temperature must be finite and >= 0"),
    "temperature-inf": ({"temperature": float("inf")}, ValueError, "temperature must be finite"),
    "temperature-bool": ({"temperature": True}, TypeError, "temperature must be a number or a"),
    "temperature-dtype": (
        {"temperature": torch.ones(B).double()},
        TypeError,
        "temperature must be float32, got float64",
    ),
    "top-k-negative": ({"top_k": -1}, ValueError, "top_k must be >= 0, got -1"),
    "top-k-float": ({"top_k": 2.5}, TypeError, "top_k must be an integer"),
    "top-p-zero": ({"top_p": 0.0}, ValueError, "top_p must be in (0, 1], got 0.0"),
    "top-p-above": ({"top_p": 1.5}, ValueError, "top_p must be in (0, 1], got 1.5"),
    "min-p-above": ({"min_p": 1.5}, ValueError, "min_p must be in [0, 1], got 1.5"),
    "mask-dtype": ({"allowed": MASK.long()}, TypeError, "allowed must be int32, got int64"),
    "mask-shape": ({"allowed": MASK[..., :2]}, ValueError, "allowed must have shape [B, N+1, ceil"),
    "coins-dtype": ({"uniform_samples": IDS}, TypeError, "uniform_samples must be float32"),
    "coins-shape": ({"uniform_samples": PROBS[..., 0]}, ValueError, "uniform_samples must have"),
    "sample-no-coins": ({"rule": "sample"}, ValueError, "uniform_samples must be given, or seed"),
    "hot-no-coins": ({"temperature": 0.5}, ValueError, "uniform_samples must be given, or seed"),
    "seed-alone": ({"seed": SEED}, ValueError, "position must be given with seed, got None"),
    "position-alone": ({"position": SEED}, ValueError, "seed must be given with position, got"),
    "seed-dtype": ({"seed": SEED.int(), "position": SEED}, TypeError, "seed must be int64, got"),
    "resume-route": ({"resume": OUT}, ValueError, "rule must be 'greedy' or 'sample' with resume"),
    "resume-type": ({"resume": 3, "rule": "greedy"}, TypeError, "resume must be a Verification"),
    "resume-shape": (
        {"resume": ops.empty_verification(B, N + 1), "rule": "greedy"},
        ValueError,
        "resume.ratios must have shape [B, N] = [2, 3], got [2, 4]",
    ),
    "out-type": ({"out": (1, 2)}, TypeError, "out must be a Verification, got (1, 2)"),
    "out-greedy": ({"out": OUT, "rule": "greedy"}, ValueError, "out.ratios must be None without"),
    "out-route": (
        {"out": OUT._replace(ratios=None, tiers=None)},
        ValueError,
        "out.ratios must be a tensor for rule 'route'",
    ),
    "out-dtype": ({"out": OUT._replace(path=IDS)}, TypeError, "out.path must be int32, got int64"),
    "out-expanded": (
        {"out": OUT._replace(path=IDS[:1].int().expand(B, N))},
        ValueError,
        "out.path must be contiguous, got strides",
    ),
    "out-shared": (
        {"out": OUT._replace(status=OUT.next_row)},
        ValueError,
        "out.status must have memory of its own",
    ),
    "out-is-input": (
        {"out": OUT, "parents": OUT.path},
        ValueError,
        "out.path must have memory of its own",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_bad_argument(name):
    changes, error, text = CASES[name]
    arguments = {"ids": IDS, "logits": LOGITS, "rule": "route", **changes}
    for field in OUT:
        field.fill_(1)
    with pytest.raises(error, match=re.escape("verify: " + text)) as caught:
        ops.verify(arguments.pop("ids"), arguments.pop("logits"), **arguments)
    assert type(caught.value) is error
    assert all(bool((field == 1).all()) for field in OUT)


def test_fake_and_subclass_tensors_are_refused():
    with FakeTensorMode() as mode:
        fake = mode.from_tensor(LOGITS)
    with pytest.raises(TypeError, match="verify: logits must be a plain tensor that owns memory"):
        ops.verify(IDS, fake, rule="greedy")

    class Intercepting(torch.Tensor):
        @classmethod
        def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
            return func(*args, **(kwargs or {}))

    wrapped = torch.Tensor._make_subclass(Intercepting, LOGITS)
    with pytest.raises(TypeError, match="verify: logits must be a plain tensor that owns memory"):
        ops.verify(IDS, wrapped, rule="greedy")


def test_dtensor_is_refused():
    distributed = pytest.importorskip("torch.distributed.tensor")
    import torch.distributed as dist

    store = dist.HashStore()
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        mesh = dist.init_device_mesh("cpu", (1,))
        sharded = distributed.distribute_tensor(LOGITS, mesh, [distributed.Replicate()])
        with pytest.raises(TypeError, match=r"DTensor: pass \.to_local\(\)"):
            ops.verify(IDS, sharded, rule="greedy")
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        (("x",), TypeError, "logits must be a dense tensor"),
        ((LOGITS.double(),), TypeError, "logits must be float32, float16 or bfloat16"),
        ((torch.tensor(1.0),), ValueError, "logits must have shape [R, V], got []"),
        ((LOGITS[..., :0],), ValueError, "logits must have shape [R, V]"),
    ],
)
def test_filtered_probs_errors(arguments, error, text):
    with pytest.raises(error, match=re.escape("filtered_probs: " + text)):
        filtered_probs(*arguments)
    with pytest.raises(ValueError, match=r"filtered_probs: top_p must be in \(0, 1\], got 2"):
        filtered_probs(LOGITS, top_p=2)


ROWS, TOKENS = torch.zeros(B, V), torch.zeros(B, dtype=torch.int64)
MINE = torch.zeros(B, V)


@pytest.mark.parametrize(
    ("out", "error", "text"),
    [
        ([TOKENS, ROWS], TypeError, "out must be a pair (token_ids, probs), got list"),
        ((TOKENS,), TypeError, "out must be a pair (token_ids, probs), got 1 elements"),
        ((TOKENS, None), TypeError, "out[1] must be a dense tensor"),
        ((TOKENS.int(), ROWS), TypeError, "out[0] must be int64, got int32"),
        ((TOKENS, ROWS.half()), TypeError, "out[1] must be float32, got float16"),
        ((TOKENS, ROWS[:, 1:]), ValueError, f"out[1] must have shape [R, V] = [2, {V}]"),
        ((TOKENS, ROWS.T.contiguous().T), ValueError, "out[1] must be contiguous in the last"),
        ((TOKENS[:1].expand(B), ROWS), ValueError, "out[0] must have rows in order without"),
        ((TOKENS, ROWS[:1].expand(B, V)), ValueError, "out[1] must have rows in order without"),
        ((TOKENS, MINE), ValueError, "out[1] must have memory of its own, got shared memory"),
    ],
)
def test_draft_sample_out_errors(out, error, text):
    with pytest.raises(error, match=re.escape("draft_sample: " + text)):
        ops.draft_sample(MINE, temperature=0.0, out=out)


def test_outputs_that_are_not_wanted_or_do_not_fit():
    with pytest.raises(ValueError, match=r"draft_sample: out\[1\] must be None with return_probs"):
        ops.draft_sample(MINE, temperature=0.0, return_probs=False, out=(TOKENS, ROWS))
    with pytest.raises(ValueError, match=r"filtered_probs: out must have shape \[2, 4, 70\] like"):
        filtered_probs(LOGITS, out=torch.zeros(B, N, V))
    with pytest.raises(ValueError, match="filtered_probs: out must have leading dimensions that"):
        filtered_probs(LOGITS, out=torch.zeros(B, N + 2, V)[:, 1:])
    with pytest.raises(TypeError, match="filtered_probs: out must be a dense tensor"):
        filtered_probs(MINE, out="x")


CACHE = torch.zeros(B, 8, 2, 4)
COUNTS = torch.ones(B, dtype=torch.int32)
PATH = torch.zeros(B, N, dtype=torch.int32)


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"caches": CACHE}, TypeError, "caches must be a list or tuple of tensors"),
        ({"caches": []}, ValueError, "caches must hold at least one tensor, got 0"),
        ({"caches": [CACHE, 1]}, TypeError, "caches[1] must be a dense tensor"),
        ({"caches": [CACHE.to("meta")]}, TypeError, "caches[0] must be a dense tensor with memory"),
        ({"caches": [CACHE.to_sparse()]}, TypeError, "caches[0] must be a dense tensor with"),
        ({"caches": [CACHE[0]]}, ValueError, "caches[0] must have shape [B, S, H, D]"),
        ({"caches": [CACHE, CACHE[:, 1:]]}, ValueError, "caches[1] must have shape [B, S, H, D]"),
        ({"caches": [CACHE, CACHE]}, ValueError, "caches must name each cache once"),
        ({"caches": [CACHE[:1].expand(B, 8, 2, 4)]}, ValueError, "caches[0] must have positive"),
        ({"caches": [CACHE.transpose(2, 3)]}, ValueError, "caches[0] must be contiguous in the"),
        ({"caches": [CACHE[:1]]}, ValueError, "caches[0] must have one row per row of path, 2"),
        ({"path": PATH.float()}, TypeError, "path must be int32 or int64"),
        ({"context_lens": COUNTS[:1]}, ValueError, "context_lens must have shape [B] = [2]"),
        ({"num_accepted": None}, TypeError, "num_accepted must be a dense tensor"),
        ({"page_table": PATH.long()}, TypeError, "page_table must be int32, got int64"),
        (
            {"caches": [CACHE[:, :6]], "page_table": PATH},
            ValueError,
            "caches[0] must have a page size that is a power of two",
        ),
    ],
)
def test_compact_kv_errors(changes, error, text):
    arguments = {"caches": [CACHE], "context_lens": COUNTS, "path": PATH, "num_accepted": COUNTS}
    with pytest.raises(error, match=re.escape("compact_kv: " + text)):
        compact_kv(**{**arguments, **changes})


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_cuda_tensors_that_the_build_has_no_kernel_for():
    if build_info()["cuda"]:
        return
    with pytest.raises(RuntimeError, match="filtered_probs: built without CUDA"):
        filtered_probs(LOGITS.cuda())
    with pytest.raises(RuntimeError, match="verify: built without CUDA"):
        ops.verify(IDS.cuda(), LOGITS.cuda(), rule="greedy")
    given = [x.cuda() for x in (CACHE, COUNTS, PATH, COUNTS)]
    with pytest.raises(RuntimeError, match="compact_kv: built without CUDA"):
        compact_kv(given[:1], *given[1:])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_tensors_of_one_call_share_a_device():
    with pytest.raises(ValueError, match="draft_token_ids must be on"):
        ops.verify(IDS, LOGITS.cuda(), rule="greedy")
    with pytest.raises(ValueError, match="path must be on"):
        compact_kv([CACHE.cuda()], COUNTS.cuda(), PATH, COUNTS.cuda())
