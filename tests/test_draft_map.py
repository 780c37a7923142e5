# SPDX-License-Identifier: Apache-2.0
"""Drafters with a reduced vocabulary (`draft_to_target`), and of another one."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.models import VOCAB_SIZE, greedy, random_model
from tests.test_decode_law import LENGTH, VOCAB, _assert_law, _frequencies, _law
from via_ext.config import ViaConfig
from via_ext.decode import Decoder
from via_ext.drafters import DraftTokens, ModelDrafter
from via_ext.engines.draft import split_drafts
from via_ext.route import SlimRoute
from via_ext.tree import Tree

ROUTE = SlimRoute((True, False, True, True), (True, True, False, True))
NEW = 14
PROMPTS = [torch.arange(40, 49), torch.tensor([5, 93, 7])]


def _small(model: Any, kept: list[int], *, own_inputs: bool) -> Any:
    """The model with the LM head rows of `kept`, and with own inputs also their embeddings."""
    small = random_model(
        "mistral", vocab_size=len(kept) if own_inputs else VOCAB_SIZE, tie_word_embeddings=False
    )
    state = dict(model.state_dict())
    if own_inputs:
        state["model.embed_tokens.weight"] = state["model.embed_tokens.weight"][kept]
    state["lm_head.weight"] = state["lm_head.weight"][kept]
    small.lm_head = torch.nn.Linear(32, len(kept), bias=False)
    small.load_state_dict(state)
    return small.eval()


@pytest.mark.parametrize("own_inputs", [True, False], ids=["own inputs", "small head"])
@pytest.mark.parametrize("tree", [None, Tree.from_widths([3, 2, 1])], ids=["chain", "tree"])
@pytest.mark.parametrize("route", [None, ROUTE], ids=["two-tier", "slim"])
def test_greedy_equals_generate(route: SlimRoute | None, tree: Tree | None, own_inputs: bool):
    """Two thirds of the target's ids, in another order; one of them twice."""
    model = random_model("mistral")
    kept = [(7 * index) % VOCAB_SIZE for index in range(64)] + [7]
    drafter = ModelDrafter(_small(model, kept, own_inputs=own_inputs), draft_to_target=kept)
    config = ViaConfig(mode="exact", tree=tree, max_new_tokens=NEW, max_backlog=4)
    result = Decoder(model, drafter, route, config).generate(PROMPTS)
    for row, prompt in enumerate(PROMPTS):
        expected = greedy(model, prompt.tolist(), NEW)
        assert result.sequences[row, : result.lengths[row]].tolist() == expected
    assert result.status.tolist() == [0, 0]
    assert 0 < result.stats.accepted < result.stats.examined


def test_a_drafter_that_knows_every_id_is_always_right() -> None:
    """A permutation is undone on both sides: the same model in another order of ids."""
    model = random_model("mistral")
    kept = torch.randperm(VOCAB_SIZE, generator=torch.Generator().manual_seed(0))
    drafter = ModelDrafter(_small(model, kept.tolist(), own_inputs=True), draft_to_target=kept)
    config = ViaConfig(mode="exact", max_new_tokens=NEW)
    stats = Decoder(model, drafter, config=config).generate(PROMPTS).stats
    assert stats.accepted == stats.examined > 0
    drawn = ViaConfig(mode="exact", max_new_tokens=NEW, temperature=1.0, seed=1)
    stats = Decoder(model, drafter, config=drawn).generate(PROMPTS).stats
    assert stats.accepted == stats.examined > 0


LAW_ROUTE = SlimRoute((True, False, True), (True, True, False))


@pytest.mark.parametrize("route", [None, LAW_ROUTE], ids=["two-tier", "slim"])
def test_exact_sampling_keeps_the_targets_law(route: SlimRoute | None) -> None:
    """Three of five ids, and one of them twice: the other two come from the residual alone."""
    target = random_model("llama", num_layers=3, vocab_size=VOCAB, seed=3)
    small = random_model("llama", num_layers=1, vocab_size=4, seed=4)
    drafter = ModelDrafter(small, draft_to_target=[4, 1, 3, 1])

    def decoder_of(seed: int) -> Decoder:
        config = ViaConfig(
            mode="exact",
            temperature=1.3,
            seed=seed,
            num_draft_tokens=3,
            max_new_tokens=LENGTH + 1,
            eos_token_id=(),
            max_backlog=2,
        )
        return Decoder(target, drafter, route, config)

    _assert_law(_frequencies(decoder_of, runs=5), _law(target, 1.3))


def test_the_draft_gate_reads_the_mapped_distribution() -> None:
    """A gate of 0 accepts every drawn node unseen, whatever the verifier says."""
    model = random_model("mistral")
    kept = list(range(0, VOCAB_SIZE, 3))
    drafter = ModelDrafter(_small(model, kept, own_inputs=True), draft_to_target=kept)
    config = ViaConfig(
        mode="via", temperature=1.0, seed=0, draft_threshold=0.0, max_new_tokens=8, max_backlog=32
    )
    result = Decoder(model, drafter, ROUTE, config).generate(PROMPTS)
    assert result.stats.accepted == result.stats.examined > 0
    assert result.status.tolist() == [0, 0]


def test_maps_that_do_not_fit_are_refused() -> None:
    small, target = random_model("llama", vocab_size=8), random_model("llama")
    with pytest.raises(ValueError, match=r"draft_to_target must have shape \[8\]"):
        ModelDrafter(small, draft_to_target=[1, 2, 3])
    with pytest.raises(ValueError, match="draft_to_target must be at least 0, got -1"):
        ModelDrafter(small, draft_to_target=[-1, 1, 2, 3, 4, 5, 6, 7])
    with pytest.raises(TypeError, match=r"must hold int ids, got torch\.float32"):
        ModelDrafter(small, draft_to_target=torch.arange(8.0))
    drafter = ModelDrafter(small, draft_to_target=[96, 1, 2, 3, 4, 5, 6, 7])
    with pytest.raises(ValueError, match=r"draft_to_target must be in \[0, 96\), got 96"):
        Decoder(target, drafter)
    half = random_model("llama", vocab_size=50, tie_word_embeddings=False)
    half.lm_head = torch.nn.Linear(32, 8, bias=False)
    with pytest.raises(ValueError, match=r"its own 8 ids or the target's 96, got .* of 50"):
        Decoder(target, ModelDrafter(half.eval(), draft_to_target=list(range(8))))
    proposal = DraftTokens(
        torch.zeros(1, 2, dtype=torch.int64),
        probs=torch.ones(1, 2, 4),
        draft_to_target=torch.arange(3),
    )
    with pytest.raises(ValueError, match=r"draft_to_target must have shape \[4\].*, got \[3\]"):
        split_drafts(proposal, Tree.chain(2), [2], 2)
    # Without a distribution there are no columns to name.
    drafts = split_drafts(proposal._replace(probs=None), Tree.chain(2), [2], 2)
    assert drafts[0].draft_to_target is None


def test_another_vocabulary_is_refused_by_name() -> None:
    other = random_model("llama", vocab_size=80, bos_token_id=3)
    other.config.name_or_path = "some/drafter"
    match = r"target's vocabulary of 96, got 80 of some/drafter \(bos 3, eos None\), without draft"
    with pytest.raises(ValueError, match=match):
        Decoder(random_model("llama"), other)


class _Tokenizer:
    def __init__(self, name: str, words: list[str]) -> None:
        self.name_or_path = name
        self._words = words

    def get_vocab(self) -> dict[str, int]:
        return {word: index for index, word in enumerate(self._words)}


def test_another_tokenizer_is_refused_by_name() -> None:
    target = random_model("llama")
    ours = _Tokenizer("ours", ["a", "b", "c"])
    drafter = ModelDrafter(target, tokenizer=_Tokenizer("theirs", ["a", "c", "b"]))
    match = "tokenizer must be the target's, ours, got theirs: id 1 is 'c', not 'b'"
    with pytest.raises(ValueError, match=match):
        Decoder(target, drafter, tokenizer=ours)
    Decoder(target, drafter)  # nothing to compare with
    longer = _Tokenizer(
        "theirs", ["a", "b", "c", "<extra>"]
    )  # an added token is no other tokenizer
    Decoder(target, ModelDrafter(target, tokenizer=longer), tokenizer=ours)
