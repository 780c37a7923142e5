# SPDX-License-Identifier: Apache-2.0
"""`SlimDrafter`: a model that drafts for itself decodes as the model alone."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import pytest
import torch

from tests.models import VOCAB_SIZE, greedy, random_model
from tests.test_decode_law import LENGTH, VOCAB, _assert_law, _frequencies, _law
from via_ext.config import ViaConfig
from via_ext.decode import Decoder
from via_ext.drafters import Drafter, ModelDrafter, SlimDrafter
from via_ext.models import slim_view
from via_ext.route import SlimRoute
from via_ext.tree import Tree

NEW = 12
ROUTE = SlimRoute((True, False, True, True), (True, True, False, True))
LENGTHS = [13, 4, 20, 1]


def _prompts() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(VOCAB_SIZE, (n,), generator=generator) for n in LENGTHS]


@lru_cache(maxsize=1)
def _model(family: str) -> tuple[Any, list[list[int]]]:
    model = random_model(family)
    return model, [greedy(model, prompt.tolist(), NEW) for prompt in _prompts()]


def _sequences(result: Any) -> list[list[int]]:
    lengths = result.lengths.tolist()
    return [row[:length].tolist() for row, length in zip(result.sequences, lengths, strict=True)]


@pytest.mark.parametrize("tree", [None, Tree.from_widths([3, 2, 1])], ids=["chain", "tree"])
@pytest.mark.parametrize("mode", ["exact", "via"])
@pytest.mark.parametrize("family", ["mistral", "gemma2", "olmo2", "gpt_oss"])
def test_greedy_equals_generate(family: str, mode: str, tree: Tree | None) -> None:
    """In both modes, again with a second batch, and with rows that end at different steps."""
    model, expected = _model(family)
    config = ViaConfig(mode=mode, tree=tree, num_draft_tokens=4, max_new_tokens=NEW)
    decoder = Decoder(model, SlimDrafter(), ROUTE, config)
    result = decoder.generate(_prompts())
    assert _sequences(result) == expected
    stats = result.stats
    assert 0 < stats.accepted < stats.examined
    assert stats.slim_passes == 0 and stats.full_passes == stats.steps
    assert set(result.tiers[0].tolist()) == {2}
    alone = decoder.generate(_prompts()[2])
    assert _sequences(alone) == expected[2:3]


def test_draws_and_rejects_as_a_drafter_of_the_same_weights_would() -> None:
    """With the same seed, as long as no full-model key lies in the arena."""
    model, _ = _model("mistral")
    config = ViaConfig(mode="exact", temperature=1.0, seed=5, max_new_tokens=4, num_draft_tokens=3)
    proposals = []
    for drafter in (SlimDrafter(), ModelDrafter(slim_view(model, ROUTE))):
        decoder = Decoder(model, drafter, ROUTE, config)
        propose = drafter.propose

        def keep(*arguments: Any, propose: Any = propose) -> Any:
            proposals.append(propose(*arguments))
            return proposals[-1]

        drafter.propose = keep  # type: ignore[method-assign]
        session = decoder._start(_prompts()[3], None)  # one token: none is cached before it
        session.step()
    ours, theirs = proposals
    assert torch.equal(ours.token_ids, theirs.token_ids)
    torch.testing.assert_close(ours.probs, theirs.probs)


def test_exact_sampling_keeps_the_models_law() -> None:
    target = random_model("llama", num_layers=3, vocab_size=VOCAB, seed=3)
    route = SlimRoute((True, False, True), (True, True, False))

    def decoder_of(seed: int) -> Decoder:
        config = ViaConfig(
            mode="exact",
            temperature=1.3,
            seed=seed,
            num_draft_tokens=3,
            max_new_tokens=LENGTH + 1,
            eos_token_id=(),
        )
        return Decoder(target, SlimDrafter(), route, config)

    _assert_law(_frequencies(decoder_of, runs=5), _law(target, 1.3))


def test_drafts_attend_to_full_model_keys_without_memory_of_their_own() -> None:
    model, _ = _model("mistral")
    drafter = SlimDrafter()
    decoder = Decoder(model, drafter, ROUTE, ViaConfig(max_new_tokens=NEW))
    session = decoder._start(_prompts(), None)
    arena = session._verifier.arena
    assert drafter._arena is arena
    for _ in range(2):
        session.step()
    request = session.requests[0]
    with torch.no_grad():
        cache = model(torch.tensor([request.tokens]), use_cache=True).past_key_values
    for layer, keys in enumerate(arena.keys):
        # The model's cache keeps a window only, of seven positions before the last token.
        full = cache.layers[layer].keys[0, :, :-1].transpose(0, 1)
        known = keys[0, request.root - full.shape[0] : request.root]
        torch.testing.assert_close(known, full, atol=1e-5, rtol=1e-5)


def test_what_a_slim_drafter_needs() -> None:
    model, _ = _model("mistral")
    assert isinstance(SlimDrafter(), Drafter)
    with pytest.raises(ValueError, match="route must skip a sublayer for a SlimDrafter, got None"):
        Decoder(model, SlimDrafter())
    with pytest.raises(ValueError, match=r"must skip a sublayer .*got a full route"):
        Decoder(model, SlimDrafter(), SlimRoute.full(4))
    with pytest.raises(ValueError, match="route must have 4 layers, got 6"):
        Decoder(model, SlimDrafter(), SlimRoute.evenly(6))


def test_one_drafter_serves_the_latest_decoder() -> None:
    """It shares an arena: a decoder that has lost it must not decode with another one's."""
    model, expected = _model("mistral")
    drafter, prompt = SlimDrafter(), _prompts()[0]
    latest = "serve the latest run of the latest decoder"
    with pytest.raises(RuntimeError, match=f"prefill must {latest}"):
        drafter.prefill(prompt[None], None)
    first = Decoder(model, drafter, ROUTE, ViaConfig(max_new_tokens=NEW))
    assert _sequences(first.generate(prompt)) == expected[:1]
    stream = first.stream(prompt)
    next(stream)
    second = Decoder(model, drafter, SlimRoute.prefix(4, 2), ViaConfig(max_new_tokens=NEW))
    with pytest.raises(RuntimeError, match=f"propose must {latest}"):
        list(stream)
    with pytest.raises(RuntimeError, match=f"prefill must {latest}"):
        first.generate(prompt)
    assert _sequences(second.generate(prompt)) == expected[:1]
    with pytest.raises(RuntimeError, match=f"prefill must {latest}"):
        first.generate(prompt)
    assert _sequences(second.generate(prompt)) == expected[:1]
