# SPDX-License-Identifier: Apache-2.0
"""`DeviceDrafter` proposes what `ModelDrafter` proposes, whatever is committed and rolled back."""

from __future__ import annotations

import random
from types import SimpleNamespace

import pytest
import torch

from tests.device_rules import DeviceOnly, meta_attention, meta_sample, on_meta
from tests.models import VOCAB_SIZE, random_model
from via_ext import ops
from via_ext.config import ViaConfig
from via_ext.drafters import ModelDrafter, SlimDrafter
from via_ext.drafters.device import DeviceDrafter
from via_ext.drafters.vocabulary import DraftVocabulary
from via_ext.engines.torch import feed
from via_ext.models.arena import KVArena
from via_ext.models.attention import tree_arena
from via_ext.models.passes import LayerPass
from via_ext.models.view import KeptLayer, route_layers
from via_ext.route import SlimRoute
from via_ext.tree import Tree

GREEDY = {"temperature": 0.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
SAMPLED = {"temperature": 0.9, "top_k": 12, "top_p": 0.95, "min_p": 0.02}
WIDE = Tree.from_widths([3, 2, 1])
# Nodes out of level order, a node with a late child, levels of different widths.
CROOKED = Tree.from_parents([-1, 0, -1, 1, 0, 2, 3, 1, -1])
LENGTHS = [9, 1, 14]
CAPACITY = 120


@pytest.fixture(autouse=True)
def _inference():
    with torch.inference_mode():
        yield


def pair(tree, filters, family="llama", **options):
    """The host's drafter and the device's, after the same prompts."""
    model = random_model(family, num_layers=2)
    prompts = torch.randint(VOCAB_SIZE, (3, max(LENGTHS)))
    lengths = torch.tensor(LENGTHS)
    host = ModelDrafter(model)
    host.configure(ViaConfig(**filters), VOCAB_SIZE)
    host.prefill(prompts, (torch.arange(max(LENGTHS)) < lengths[:, None]).long())
    device = DeviceDrafter(model, tree, 3, CAPACITY, filters=filters, **options)
    device.prefill(prompts, lengths)
    return host, device


def check_same(host, device, tree, position):
    """One proposal of both; returns its tokens."""
    seed = torch.tensor([11, 12, 13])
    wanted = host.propose(tree, seed, position)
    token_ids, probs = device.propose(seed, position)
    assert torch.equal(token_ids, wanted.token_ids)
    assert (probs is None) == (wanted.probs is None)
    if probs is not None:
        torch.testing.assert_close(probs, wanted.probs, atol=1e-5, rtol=1e-4)
    return token_ids


def emitted(draft, tree, rng):
    """Tokens of a step: a path of the draft of random length, and one token more."""
    rows, counts = [], []
    for drafted in draft.tolist():
        path, node = [], -1
        while tree.children[node + 1] and rng.random() < 0.75:
            node = rng.choice(tree.children[node + 1])
            path.append(drafted[node])
        rows.append([*path, rng.randrange(VOCAB_SIZE)])
        counts.append(rng.choice([len(path) + 1] * 4 + [0, len(path)]))
    width = tree.max_depth + 1
    padded = torch.tensor([row + [-1] * (width - len(row)) for row in rows])
    return padded, torch.tensor(counts)


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen3"])
@pytest.mark.parametrize(
    ("tree", "filters"),
    [
        (Tree.chain(4), GREEDY),
        (Tree.chain(4), SAMPLED),
        (Tree.chain(1), SAMPLED),
        (WIDE, GREEDY),
        (CROOKED, SAMPLED),
    ],
    ids=["greedy", "sampled", "one", "wide", "crooked"],
)
def test_equals_the_model_drafter(family, tree, filters):
    """Over steps that accept some, all or none of a draft, and roll back now and then."""
    rng = random.Random(5)
    host, device = pair(tree, filters, family)
    lengths = list(LENGTHS)
    for step in range(12):
        draft = check_same(host, device, tree, torch.tensor([step, 2 * step, 7]))
        if step % 4 == 3:
            lengths = [rng.randint(max(1, length - 6), length) for length in lengths]
            for drafter in (host, device):
                drafter.rollback(torch.tensor(lengths))
        tokens, counts = emitted(draft, tree, rng)
        for drafter in (host, device):
            drafter.commit(tokens, counts)
        lengths = [length + count for length, count in zip(lengths, counts.tolist(), strict=True)]
        assert device.lengths.tolist() == lengths


def test_accepted_chain_is_not_run_again():
    """Two tokens are pending after a wholly accepted chain: the last drafted and the next one."""
    host, device = pair(Tree.chain(4), GREEDY, max_pending=2)
    for step in range(3):
        draft = check_same(host, device, Tree.chain(4), torch.full((3,), step))
        tokens = torch.cat([draft, torch.randint(VOCAB_SIZE, (3, 1))], 1)
        for drafter in (host, device):
            drafter.commit(tokens, torch.tensor([5, 5, 3]))


def test_too_many_pending_tokens_are_caught_up_later():
    host, device = pair(WIDE, GREEDY, max_pending=2)
    check_same(host, device, WIDE, torch.zeros(3, dtype=torch.int64))
    tokens = torch.randint(VOCAB_SIZE, (3, 4))
    for drafter in (host, device):
        drafter.commit(tokens, torch.tensor([4, 4, 4]))
    keys = torch.zeros(3, dtype=torch.int64)
    assert not torch.equal(device.propose(keys, keys)[0], host.propose(WIDE, keys, keys).token_ids)
    for _ in range(2):
        assert device.propose(keys, keys)[0].lt(VOCAB_SIZE).all()
    for drafter in (host, device):
        drafter.commit(tokens[:, :1], torch.tensor([1, 1, 1]))
    check_same(host, device, WIDE, keys)


@pytest.mark.parametrize("own_inputs", [True, False], ids=["own inputs", "small head"])
@pytest.mark.parametrize("tree", [Tree.chain(3), CROOKED], ids=["chain", "tree"])
def test_reduced_vocabulary(tree, own_inputs):
    """Ids go out as the target's; those that the drafter lacks are fed as another."""
    kept = [(7 * index) % VOCAB_SIZE for index in range(64)] + [7]
    model = random_model("mistral", vocab_size=len(kept) if own_inputs else VOCAB_SIZE)
    model.lm_head = torch.nn.Linear(32, len(kept), bias=False)
    torch.nn.init.normal_(model.lm_head.weight)
    vocabulary = DraftVocabulary(model, kept)
    vocabulary.fit(VOCAB_SIZE)
    host = ModelDrafter(model, draft_to_target=kept)
    host.configure(ViaConfig(**SAMPLED), VOCAB_SIZE)
    prompts = torch.randint(VOCAB_SIZE, (3, 9))
    host.prefill(prompts, None)
    device = DeviceDrafter(model, tree, 3, CAPACITY, filters=SAMPLED, vocabulary=vocabulary)
    device.prefill(prompts, torch.tensor([9, 9, 9]))
    rng = random.Random(3)
    for step in range(5):
        draft = check_same(host, device, tree, torch.full((3,), step))
        assert all(token in kept for token in draft.flatten().tolist())
        tokens, counts = emitted(draft, tree, rng)
        for drafter in (host, device):
            drafter.commit(tokens, counts)


@pytest.mark.parametrize("tree", [Tree.chain(3), CROOKED], ids=["chain", "tree"])
def test_equals_the_slim_drafter(tree):
    """Both draft in an arena that the full model has filled up to the last token."""
    model = random_model("qwen2")
    route = SlimRoute((True, False, True, True), (True, True, False, True))
    arenas = KVArena(model, 3, CAPACITY), tree_arena(model, 3, CAPACITY)
    full = LayerPass(model, [KeptLayer(index) for index in range(4)])
    prompts = [torch.randint(VOCAB_SIZE, (n,)).tolist() for n in LENGTHS]
    padded = torch.tensor([prompt + [0] * (14 - len(prompt)) for prompt in prompts])
    lengths = torch.tensor(LENGTHS)
    host = SlimDrafter()
    host.connect(SimpleNamespace(target=model, arena=arenas[0]), route, None)
    host.configure(ViaConfig(**SAMPLED), VOCAB_SIZE)
    host.prefill(padded, (torch.arange(14) < lengths[:, None]).long())
    options = {"layers": route_layers(route), "arena": arenas[1]}
    device = DeviceDrafter(model, tree, 3, CAPACITY - 9, filters=SAMPLED, **options)
    device.prefill(padded, lengths)
    rng = random.Random(4)
    for step in range(6):
        for arena in arenas:
            feed(full, arena, [0, 1, 2], [tokens[:-1] for tokens in prompts])
        draft = check_same(host, device, tree, torch.full((3,), step))
        if step == 3:
            prompts = [tokens[:-2] if len(tokens) > 4 else tokens for tokens in prompts]
            for drafter in (host, device):
                drafter.rollback(torch.tensor([len(tokens) for tokens in prompts]))
        tokens, counts = emitted(draft, tree, rng)
        for drafter in (host, device):
            drafter.commit(tokens, counts)
        for text, new, count in zip(prompts, tokens.tolist(), counts.tolist(), strict=True):
            text += new[:count]


def test_proposals_are_static():
    """The same tensors every time, through one key of the runner."""
    _, device = pair(Tree.chain(3), SAMPLED)
    keys = torch.zeros(3, dtype=torch.int64)
    token_ids, probs = device.propose(keys, keys)
    before = token_ids.clone()
    device.propose(keys, keys + 1)
    again, also = device.propose(keys, keys)
    assert again is token_ids and also is probs and torch.equal(token_ids, before)


def test_errors():
    model = random_model("llama", num_layers=2)
    with pytest.raises(ValueError, match="tree must have at least 1 node, got 0"):
        DeviceDrafter(model, Tree.chain(0), 1, 8, filters=GREEDY)
    drafter = DeviceDrafter(model, Tree.chain(2), 2, 8, filters=GREEDY)
    tokens = torch.zeros(2, 9, dtype=torch.int64)
    for lengths in ([0, 3], [3, 9]):
        with pytest.raises(ValueError, match=r"lengths must be in \[1, 8\], got \["):
            drafter.prefill(tokens, torch.tensor(lengths))
    with pytest.raises(ValueError, match="tokens must have 2 rows, got 1"):
        drafter.prefill(tokens[:1], torch.tensor([1]))


@pytest.mark.parametrize("tree", [Tree.chain(3), CROOKED], ids=["chain", "tree"])
def test_the_host_reads_nothing(tree, monkeypatch):
    """Nor does it make a tensor, once a drafter exists."""
    monkeypatch.setattr(ops, "tree_attention", meta_attention)
    monkeypatch.setattr(ops, "draft_sample", meta_sample)
    model = random_model("llama", num_layers=2).to("meta")
    drafter = DeviceDrafter(model, tree, 3, CAPACITY, filters=SAMPLED)
    keys, tokens = on_meta(3), on_meta(3, 4)
    with DeviceOnly():
        drafter.draft(keys, keys)
        drafter.commit(tokens, keys)
        drafter.rollback(keys)
    assert drafter.token_ids.is_meta and drafter.lengths.is_meta
