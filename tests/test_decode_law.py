# SPDX-License-Identifier: Apache-2.0
"""Exact sampling follows the full model's distribution: chi-square on a stochastic toy.

The law of the first three tokens is enumerated with transformers' own forward and compared with
many runs. All seeds are fixed, so the tests are deterministic; the threshold has a false-alarm rate
of 1e-4 per test for a fresh choice of seeds.
"""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from scipy import stats

from tests.models import random_model
from via_ext.config import ViaConfig
from via_ext.decode import Decoder
from via_ext.drafters import DraftTokens
from via_ext.drafters.model import ModelDrafter
from via_ext.route import SlimRoute
from via_ext.tree import Tree

VOCAB = 5
LENGTH = 3
PROMPT = [1, 3, 0, 2]
ROUTE = SlimRoute((True, False, True), (True, True, False))
RUNS, BATCH = 12, 250


def _models() -> tuple[Any, Any]:
    target = random_model("llama", num_layers=3, vocab_size=VOCAB, seed=3)
    return target, random_model("llama", num_layers=1, vocab_size=VOCAB, seed=4)


def _law(model: Any, temperature: float) -> torch.Tensor:
    """[V] * LENGTH: probability of every continuation."""
    law = torch.ones([VOCAB] * LENGTH, dtype=torch.float64)
    contexts = [list(c) for n in range(LENGTH) for c in itertools.product(range(VOCAB), repeat=n)]
    for context in contexts:
        with torch.no_grad():
            logits = model(torch.tensor([PROMPT + context])).logits[0, -1].double()
        probs = torch.softmax(logits / temperature, -1)
        shape = [VOCAB] + [1] * (LENGTH - len(context) - 1)
        law[tuple(context)] *= probs.view(shape)
    return law.flatten()


def _frequencies(decoder_of: Any, runs: int = RUNS) -> torch.Tensor:
    counts = torch.zeros(VOCAB**LENGTH, dtype=torch.int64)
    base = VOCAB ** torch.arange(LENGTH - 1, -1, -1)
    for seed in range(runs):
        result = decoder_of(seed).generate([torch.tensor(PROMPT)] * BATCH)
        new = result.sequences[:, len(PROMPT) : len(PROMPT) + LENGTH]
        counts += torch.bincount((new * base).sum(1), minlength=VOCAB**LENGTH)
    return counts


def _assert_law(counts: torch.Tensor, law: torch.Tensor) -> None:
    expected = law * counts.sum()
    rare = expected < 5
    observed = torch.cat([counts[~rare], counts[rare].sum()[None]]).double()
    wanted = torch.cat([expected[~rare], expected[rare].sum()[None]])
    keep = wanted > 0
    result = stats.chisquare(
        observed[keep].numpy(), (wanted[keep] / wanted.sum() * observed.sum()).numpy()
    )
    assert result.pvalue > 1e-4, result


CASES = {
    "two-tier chain": {"route": None},
    "two-tier tree": {"route": None, "tree": Tree.from_widths([2, 1])},
    "three-tier chain": {"route": ROUTE},
    "three-tier tree": {"route": ROUTE, "tree": Tree.from_widths([2, 1])},
    "full pass at every step": {"route": ROUTE, "max_backlog": 1},
    "cap inside the walk": {"route": ROUTE, "max_backlog": 2},
}


@pytest.mark.parametrize("case", CASES)
def test_exact_sampling_follows_the_full_model(case: str) -> None:
    target, draft_model = _models()
    options = dict(CASES[case])
    route = options.pop("route")
    drafter = ModelDrafter(draft_model)

    def decoder_of(seed: int) -> Decoder:
        # One token more than is compared, so that the last compared one is not always the end.
        config = ViaConfig(
            mode="exact",
            temperature=1.3,
            seed=seed,
            num_draft_tokens=3,
            max_new_tokens=LENGTH + 1,
            eos_token_id=(),
            **options,
        )
        return Decoder(target, drafter, route, config)

    _assert_law(_frequencies(decoder_of), _law(target, 1.3))


class _UnlikelyDrafter:
    """Always proposes the same two tokens, one-hot: legal, and never from p."""

    def __init__(self) -> None:
        self.batch = 0

    def prefill(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> None:
        self.batch = input_ids.shape[0]

    def propose(self, tree: Tree, seed: torch.Tensor, position: torch.Tensor) -> DraftTokens:
        ids = torch.tensor([[4, 0]])[:, : tree.num_nodes]
        return DraftTokens(ids.expand(self.batch, -1))

    def commit(
        self, token_ids: torch.Tensor, counts: torch.Tensor, hidden_states: Any = None
    ) -> None:
        pass

    def rollback(self, lengths: torch.Tensor) -> None:
        pass


def test_one_hot_drafts_follow_the_full_model() -> None:
    target, _ = _models()

    def decoder_of(seed: int) -> Decoder:
        config = ViaConfig(
            mode="exact",
            temperature=1.0,
            seed=seed,
            num_draft_tokens=2,
            max_new_tokens=LENGTH + 1,
            eos_token_id=(),
            max_backlog=3,
        )
        return Decoder(target, _UnlikelyDrafter(), ROUTE, config)

    _assert_law(_frequencies(decoder_of), _law(target, 1.0))


def test_the_same_seed_gives_the_same_tokens_and_another_does_not() -> None:
    target, draft_model = _models()
    prompts = [torch.tensor(PROMPT)] * 3

    def run(seed: int) -> list[list[int]]:
        config = ViaConfig(
            mode="exact", temperature=1.0, seed=seed, max_new_tokens=20, eos_token_id=()
        )
        decoder = Decoder(target, ModelDrafter(draft_model), ROUTE, config)
        return decoder.generate(prompts).sequences.tolist()

    first = run(7)
    assert first == run(7)
    assert first != run(8)
    assert first[0] != first[1]


def test_the_chi_square_test_sees_a_biased_sampler() -> None:
    """Mode via is lossy: the same test must reject it, or it could not fail."""
    target, draft_model = _models()
    drafter = ModelDrafter(draft_model)

    def decoder_of(seed: int) -> Decoder:
        config = ViaConfig(
            mode="via",
            temperature=1.3,
            seed=seed,
            num_draft_tokens=3,
            max_new_tokens=LENGTH + 1,
            eos_token_id=(),
        )
        return Decoder(target, drafter, ROUTE, config)

    with pytest.raises(AssertionError):
        _assert_law(_frequencies(decoder_of), _law(target, 1.3))
