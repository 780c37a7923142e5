# SPDX-License-Identifier: Apache-2.0
"""`TreePass` against `LayerPass`: the same logits, hidden states and cache, for every family."""

from __future__ import annotations

import pytest
import torch

from tests.device_rules import DeviceOnly, meta_attention, on_meta
from tests.models import FAMILIES, VOCAB_SIZE, random_model
from via_ext import ops
from via_ext.engines.torch import feed
from via_ext.models.arena import KVArena
from via_ext.models.attention import tree_arena
from via_ext.models.passes import LayerPass, TokenBlock, chain_block
from via_ext.models.tree_pass import TreePass
from via_ext.models.view import KeptLayer, route_layers
from via_ext.route import SlimRoute

LENGTHS = (17, 5, 11)
ROWS = [0, 1, 2]
CAPACITY = 40
ROUTE = SlimRoute((True, True, False, True), (True, False, True, True))
FULL = [KeptLayer(index) for index in range(4)]
# Two tokens of a chain, then a tree at its end; the last node follows the first one.
PARENTS = [-1, 0, 1, 1, 2, 3, 2]
DEPTHS = [0, 1, 2, 2, 3, 3, 3]
CLOSE = {"atol": 2e-5, "rtol": 2e-5}


def tree_block(starts):
    """The tree above as a `TokenBlock`."""
    size = len(PARENTS)
    seen = torch.eye(size, dtype=torch.bool)
    for node, parent in enumerate(PARENTS):
        if parent >= 0:
            seen[node] |= seen[parent]
    batch = len(starts)
    depths = torch.tensor(DEPTHS).expand(batch, -1)
    return TokenBlock(ROWS[:batch], list(starts), depths, seen.expand(batch, -1, -1))


def filled_arenas(model):
    """Two arenas after the same prefill through the model's own attention."""
    prompts = [torch.randint(VOCAB_SIZE, (n,)).tolist() for n in LENGTHS]
    arenas = KVArena(model, len(ROWS), CAPACITY), tree_arena(model, len(ROWS), CAPACITY)
    for arena in arenas:
        feed(LayerPass(model, FULL), arena, ROWS, prompts)
    return arenas


def assert_same_cache(model, expected, got):
    """Same entries up to the last position written; the padding of heads is zero."""
    size = expected.keys[0].shape[-1]
    for wanted, found in zip(expected.tensors, got.tensors, strict=True):
        torch.testing.assert_close(found[..., :size], wanted, **CLOSE)
        assert not found[..., size:].any()


@pytest.fixture(autouse=True)
def _inference():
    with torch.inference_mode():
        yield


@pytest.mark.parametrize("family", FAMILIES)
def test_parts_equal_layer_passes(family):
    """Chain through the slim part, then the tail resumed from its hidden states over a tree."""
    model = random_model(family)
    expected, got = filled_arenas(model)
    shared = ROUTE.shared_prefix
    starts = torch.tensor(LENGTHS, dtype=torch.int32)
    ids = torch.randint(VOCAB_SIZE, (3, len(PARENTS)))
    parts = []
    for kind in (LayerPass, TreePass):
        slim = kind(model, route_layers(ROUTE), capture_after=shared)
        parts.append((slim, kind(model, FULL[shared:])))
    (old_slim, old_tail), (slim, tail) = parts
    wanted = old_slim(
        expected, chain_block(ROWS, list(LENGTHS), 3), token_ids=ids[:, :3], num_logits=3
    )
    found = slim(got, token_ids=ids[:, :3], context_lens=starts, depths=torch.arange(3))
    torch.testing.assert_close(found, wanted, **CLOSE)
    block = tree_block(LENGTHS)
    wanted = old_slim(expected, block, token_ids=ids, num_logits=7)
    shape = {"depths": torch.tensor(DEPTHS), "parents": torch.tensor(PARENTS, dtype=torch.int32)}
    found = slim(got, token_ids=ids, context_lens=starts, **shape)
    torch.testing.assert_close(found, wanted, **CLOSE)
    torch.testing.assert_close(slim.hidden, old_slim.hidden, **CLOSE)
    wanted = old_tail(expected, block, hidden=old_slim.hidden, num_logits=7)
    rows = torch.tensor([[6, 0], [2, 2], [9, -3]])
    found = tail(got, hidden=slim.hidden, context_lens=starts, logit_rows=rows, **shape)
    picked = wanted.gather(1, rows.clamp(0, 6)[:, :, None].expand(-1, -1, VOCAB_SIZE))
    torch.testing.assert_close(found, picked, **CLOSE)
    assert_same_cache(model, expected, got)


@pytest.mark.parametrize("family", FAMILIES)
def test_ragged_rows(family):
    """Per-row trees and counts; padding writes nothing and disturbs no other token."""
    model = random_model(family)
    expected, got = filled_arenas(model)
    ids = torch.randint(VOCAB_SIZE, (3, 7))
    counts = [7, 0, 4]
    parents = torch.tensor([PARENTS, PARENTS, list(range(-1, 6))])
    depths = torch.tensor([DEPTHS, DEPTHS, list(range(7))])
    new = TreePass(model, FULL, capture_after=0)
    logits = new(
        got,
        token_ids=ids,
        context_lens=torch.tensor(LENGTHS),
        depths=depths,
        parents=parents,
        num_tokens=torch.tensor(counts),
    )
    old = LayerPass(model, FULL)
    wanted = old(expected, tree_block(LENGTHS[:1]), token_ids=ids[:1], num_logits=7)
    torch.testing.assert_close(logits[:1], wanted, **CLOSE)
    wanted = old(expected, chain_block([2], [LENGTHS[2]], 4), token_ids=ids[2:, :4], num_logits=4)
    torch.testing.assert_close(logits[2:, :4], wanted, **CLOSE)
    assert logits.isfinite().all()
    torch.testing.assert_close(new.hidden, model.get_input_embeddings()(ids))
    assert_same_cache(model, expected, got)


def test_ids_outside_the_vocabulary_count_as_0():
    model = random_model("llama")
    (_, one), (_, two) = filled_arenas(model), filled_arenas(model)
    for mine, other in zip(one.tensors, two.tensors, strict=True):
        mine.copy_(other)
    part = TreePass(model, FULL)
    shape = {"context_lens": torch.tensor(LENGTHS), "depths": torch.arange(2)}
    bad = torch.tensor([[-1, 3], [VOCAB_SIZE, 4], [5, -(2**40)]])
    good = torch.tensor([[0, 3], [0, 4], [5, 0]])
    assert torch.equal(part(one, token_ids=bad, **shape), part(two, token_ids=good, **shape))


def test_no_logits_writes_the_same_cache():
    model = random_model("qwen3")
    expected, got = filled_arenas(model)
    ids = torch.randint(VOCAB_SIZE, (3, 2))
    part = TreePass(model, FULL[:2], capture_after=2)
    shape = {"context_lens": torch.tensor(LENGTHS), "depths": torch.arange(2)}
    assert part(got, token_ids=ids, want_logits=False, **shape) is None
    old = LayerPass(model, FULL[:2], capture_after=2)
    old(expected, chain_block(ROWS, list(LENGTHS), 2), token_ids=ids)
    torch.testing.assert_close(part.hidden, old.hidden, **CLOSE)
    assert_same_cache(model, expected, got)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_model_keeps_its_backend(attention):
    model = random_model("mistral")
    model.set_attn_implementation(attention)
    ids = torch.randint(VOCAB_SIZE, (1, 12))
    before = model(ids).logits
    part = TreePass(model, FULL)
    arena = tree_arena(model, 1, 16)
    logits = part(arena, token_ids=ids, context_lens=torch.tensor([0]), depths=torch.arange(12))
    torch.testing.assert_close(logits, before, **CLOSE)
    modules = [module for module in model.modules() if hasattr(module, "config")]
    assert {module.config._attn_implementation for module in modules} == {attention}
    assert torch.equal(model(ids).logits, before)


def test_a_view_alone_is_refused():
    part = TreePass(random_model("llama"), FULL)
    with pytest.raises(
        RuntimeError, match="via_tree: a model with this backend runs in a TreePass"
    ):
        part._view(torch.tensor([[1, 2]]), use_cache=False)
    with pytest.raises(ValueError, match="head_dim must be at most 256, got 272"):
        tree_arena(random_model("llama", head_dim=272, num_layers=1), 1, 8)


@pytest.mark.parametrize("family", FAMILIES)
def test_everything_stays_on_the_model_device(family, monkeypatch):
    """The host neither reads a value nor makes a tensor."""
    monkeypatch.setattr(ops, "tree_attention", meta_attention)
    model = random_model(family).to("meta", torch.bfloat16)
    arena = tree_arena(model, 3, CAPACITY)
    part = TreePass(model, FULL, capture_after=2)
    inputs = {
        "token_ids": on_meta(3, 7),
        "context_lens": on_meta(3, dtype=torch.int32),
        "depths": on_meta(7),
        "parents": on_meta(3, 7, dtype=torch.int32),
        "num_tokens": on_meta(3, dtype=torch.int32),
        "logit_rows": on_meta(3, 2),
    }
    with DeviceOnly():
        logits = part(arena, **inputs)
    assert logits.shape == (3, 2, VOCAB_SIZE) and logits.is_meta and part.hidden.is_meta


@pytest.mark.parametrize("attention", [None, "eager"])
@pytest.mark.parametrize("family", FAMILIES)
def test_layer_passes_follow_the_model_device(family, attention):
    """Prompts and blocks that the host made, for a model elsewhere."""
    model = random_model(family).to("meta", torch.bfloat16)
    if attention is not None:
        model.set_attn_implementation(attention)
    arena = KVArena(model, 3, CAPACITY)
    part = LayerPass(model, FULL)
    feed(part, arena, [0, 2], [[1] * 12, [2] * 5])
    for block in (
        tree_block(LENGTHS),
        chain_block([0, 2], [4, 4], 7),
        chain_block(ROWS, [4] * 3, 7),
    ):
        ids = torch.zeros(len(block.rows), 7, dtype=torch.int64)
        logits = part(arena, block, token_ids=ids, num_logits=2)
        assert logits.shape == (len(block.rows), 2, VOCAB_SIZE) and logits.is_meta
