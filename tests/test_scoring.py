# SPDX-License-Identifier: Apache-2.0
"""`DeployedScorer`: a slim verifier on text, over full-model keys, with every backlog."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.models import VOCAB_SIZE, random_model
from via_ext.models.arena import KVArena
from via_ext.models.passes import LayerPass, chain_block
from via_ext.models.view import KeptLayer, route_layers
from via_ext.route import SlimRoute
from via_ext.scoring import DeployedScorer

ROUTE = SlimRoute((True, False, True, True), (True, True, False, True))
LENGTHS = [9, 17, 1, 12]
CLOSE = {"atol": 2e-4, "rtol": 2e-4}


def _text() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(VOCAB_SIZE, (n,), generator=generator) for n in LENGTHS]


@torch.no_grad()
def _decoded(model: Any, ids: torch.Tensor, route: SlimRoute, max_backlog: int) -> torch.Tensor:
    """Slim logits as a decoder would get them: token by token, a full pass now and then."""
    arena = KVArena(model, 1, len(ids))
    full = LayerPass(model, [KeptLayer(index) for index in range(route.num_layers)])
    slim = LayerPass(model, route_layers(route))
    rows, frontier = [], 0
    for position in range(len(ids)):
        if position - frontier > max_backlog:
            backlog = chain_block([0], [frontier], position - frontier)
            full(arena, backlog, token_ids=ids[None, frontier:position])
            frontier = position
        block = chain_block([0], [position], 1)
        logits = slim(arena, block, token_ids=ids[None, position : position + 1], num_logits=1)
        assert logits is not None
        rows.append(logits[0, 0])
    return torch.stack(rows)


@pytest.mark.parametrize(
    ("family", "max_backlog"),
    [("llama", 0), ("llama", 32), ("qwen3", 5), ("gemma2", 4), ("mistral", 4), ("gpt_oss", 4)],
)
def test_equals_a_decoding_loop(family: str, max_backlog: int) -> None:
    model, text = random_model(family), _text()
    scorer = DeployedScorer(model, text, max_backlog)
    found = scorer.slim_logits(ROUTE)
    for ids, logits in zip(text, found, strict=True):
        assert logits.shape == (len(ids), VOCAB_SIZE)
        torch.testing.assert_close(logits, _decoded(model, ids, ROUTE, max_backlog), **CLOSE)


def test_full_logits_are_the_models_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the full pass takes several pieces; the full route finds them again."""
    monkeypatch.setattr("via_ext.scoring.PASS_TOKENS", 28)
    model, text = random_model("qwen3"), _text()
    scorer = DeployedScorer(model, text, 5)
    again = scorer.slim_logits(SlimRoute.full(4))
    for ids, full, slim in zip(text, scorer.full_logits, again, strict=True):
        with torch.no_grad():
            expected = model(ids[None]).logits[0]
        torch.testing.assert_close(full, expected, **CLOSE)
        torch.testing.assert_close(slim, expected, **CLOSE)


def test_a_route_leaves_no_trace() -> None:
    """The cache holds the full model's KV again, after a route and after an abandoned one."""
    scorer = DeployedScorer(random_model("llama"), _text(), 3)
    first = [tensor.clone() for tensor in scorer._arena.tensors]
    before = scorer.slim_logits(ROUTE)
    next(iter(scorer.blocks(SlimRoute.prefix(4, 2))))
    for tensor, old in zip(scorer._arena.tensors, first, strict=True):
        assert torch.equal(tensor, old)
    for old, new in zip(before, scorer.slim_logits(ROUTE), strict=True):
        assert torch.equal(old, new)


def test_sequences_do_not_meet() -> None:
    """Alone, in a batch and as rows of a matrix: the same logits."""
    model = random_model("llama")
    text = torch.stack([ids[:9] for ids in (_text()[0], _text()[1], _text()[3])])
    together = DeployedScorer(model, text, 4).slim_logits(ROUTE)
    for ids, logits in zip(text, together, strict=True):
        alone = DeployedScorer(model, [ids.tolist()], 4).slim_logits(ROUTE)[0]
        torch.testing.assert_close(logits, alone, **CLOSE)


def test_memory_is_the_text_and_one_pass() -> None:
    """A pass over one block: no tensor of the text's length times the vocabulary, no KV copy."""
    from torch.utils._python_dispatch import TorchDispatchMode

    text = torch.arange(96)[None].expand(2, -1)
    scorer = DeployedScorer(random_model("llama"), text, 7)
    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None):
            nonlocal largest
            result = func(*args, **(kwargs or {}))
            for item in result if isinstance(result, tuple | list) else (result,):
                # Views of the cache and of the weights are no memory of their own.
                if isinstance(item, torch.Tensor) and not item._is_view():
                    largest = max(largest, item.numel())
            return result

    with Watch():
        for _, logits in scorer.blocks(ROUTE):
            assert logits.shape == (2 * 8, VOCAB_SIZE)
    # sdpa repeats one layer's keys for the query heads, two of which share a key.
    assert 0 < largest <= 2 * scorer._arena.keys[0].numel() < scorer.logits.numel()


@pytest.mark.parametrize(
    ("sequences", "backlog", "error", "text"),
    [
        ([], 4, ValueError, "sequences must hold at least one sequence"),
        ([[1, 2], []], 4, ValueError, r"sequences\[1\] must hold at least one token"),
        ([[1, VOCAB_SIZE]], 4, ValueError, r"sequences\[0\] must hold ids in \[0, 96\), got 96"),
        ([[-1]], 4, ValueError, "got -1"),
        ([[0.5]], 4, TypeError, "must be int32 or int64"),
        ([[[1]]], 4, ValueError, "must have rank 1, got 2"),
        ([[1] * 257], 4, ValueError, "fit the model's context of 256 tokens, got 257"),
        ("text", 4, TypeError, "token ids or a list of them, got str"),
        ([[1]], -1, ValueError, "max_backlog must be at least 0, got -1"),
        ([[1]], 1.5, TypeError, "max_backlog must be an int"),
    ],
)
def test_bad_input(sequences: Any, backlog: Any, error: type, text: str) -> None:
    with pytest.raises(error, match=text):
        DeployedScorer(random_model("llama"), sequences, backlog)


def test_routes_of_other_models_are_refused() -> None:
    scorer = DeployedScorer(random_model("llama"), [[1, 2]])
    with pytest.raises(ValueError, match="route must have 4 layers, got 6"):
        scorer.slim_logits(SlimRoute.full(6))


def test_on_a_gpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    model = random_model("llama")
    expected = DeployedScorer(model, _text(), 4).slim_logits(ROUTE)
    found = DeployedScorer(model.cuda(), _text(), 4).slim_logits(ROUTE)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.is_cuda
        torch.testing.assert_close(ours.cpu(), theirs, atol=1e-3, rtol=1e-3)
