# SPDX-License-Identifier: Apache-2.0
"""Ragged batches of 16 rows: every row decodes as it does alone."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import pytest
import torch

from tests.models import VOCAB_SIZE, greedy, random_model
from tests.test_decode_law import LENGTH, PROMPT, VOCAB, _assert_law, _law
from via_ext.config import ViaConfig
from via_ext.decode import Decoder
from via_ext.drafters import ModelDrafter, PromptLookupDrafter, SlimDrafter
from via_ext.route import SlimRoute
from via_ext.tree import Tree

NEW = 10
ROUTE = SlimRoute((True, False, True, True), (True, True, False, True))
LENGTHS = [1, 2, 3, 5, 8, 9, 11, 13, 14, 17, 18, 20, 22, 25, 27, 30]
TREE = Tree.from_widths([2, 2])


@lru_cache(maxsize=1)
def _models() -> tuple[Any, Any]:
    model = random_model("mistral")
    drafter = random_model("mistral", num_layers=3)
    drafter.load_state_dict(model.state_dict(), strict=False)
    return model, drafter


@lru_cache(maxsize=1)
def _prompts() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(16)
    return [torch.randint(VOCAB_SIZE, (n,), generator=generator) for n in LENGTHS]


@lru_cache(maxsize=1)
def _expected() -> list[list[int]]:
    return [greedy(_models()[0], prompt.tolist(), NEW) for prompt in _prompts()]


def _rows(result: Any) -> list[list[int]]:
    lengths = result.lengths.tolist()
    return [row[:length].tolist() for row, length in zip(result.sequences, lengths, strict=True)]


CASES = {
    "two-tier chain": (None, {}, "model"),
    "three-tier chain": (ROUTE, {"max_backlog": 3}, "model"),
    "three-tier tree": (ROUTE, {"max_backlog": 3, "tree": TREE}, "model"),
    "self-speculation": (ROUTE, {}, "slim"),
    "prompt lookup": (ROUTE, {"max_backlog": 3}, "lookup"),
    "audit at one": (ROUTE, {"max_backlog": 3, "mode": "via", "audit_threshold": 1.0}, "model"),
}


@pytest.mark.parametrize("case", CASES)
def test_every_row_equals_generate(case: str) -> None:
    model, draft_model = _models()
    route, options, kind = CASES[case]
    drafter = {
        "model": lambda: ModelDrafter(draft_model),
        "slim": SlimDrafter,
        "lookup": PromptLookupDrafter,
    }[kind]()
    options = {"mode": "exact", "num_draft_tokens": 3, "max_new_tokens": NEW} | options
    result = Decoder(model, drafter, route, ViaConfig(**options)).generate(_prompts())
    assert _rows(result) == _expected()
    assert result.status.tolist() == [0] * 16
    assert result.stats.examined > 0


@pytest.mark.parametrize("temperature", [0.0, 1.0], ids=["greedy", "sampling"])
@pytest.mark.parametrize("audit", [None, 0.3], ids=["via", "audit"])
def test_a_row_of_via_does_not_depend_on_the_other_fifteen(
    audit: float | None, temperature: float
) -> None:
    """Half of the batch by itself gives the same tokens, tiers and log-probabilities."""
    model, draft_model = _models()
    # Where all three routes occur: greedy drafts of this pair have ratios near 1.
    accept, escalate = (0.7, 0.5) if temperature else (0.97, 0.9)
    config = ViaConfig(
        mode="via",
        audit_threshold=audit,
        accept_threshold=accept,
        escalate_threshold=escalate,
        temperature=temperature,
        seed=4,
        num_draft_tokens=3,
        max_new_tokens=NEW,
        max_backlog=5,
    )
    decoder = Decoder(model, ModelDrafter(draft_model), ROUTE, config)
    together = decoder.generate(_prompts())
    half = decoder.generate(_prompts()[:8])
    assert _rows(half) == _rows(together)[:8]
    assert torch.equal(half.tiers, together.tiers[:8])
    torch.testing.assert_close(half.logprobs, together.logprobs[:8], atol=1e-4, rtol=1e-4)
    stats = together.stats
    assert min(stats.accept_rate, stats.regenerate_rate, stats.escalate_rate) > 0.0
    assert set(together.tiers.flatten().tolist()) >= {0, 1, 2}


def test_sixteen_rows_sample_the_full_models_law() -> None:
    """Same prompt in every row: rows must differ, and all follow the law."""
    target = random_model("llama", num_layers=3, vocab_size=VOCAB, seed=3)
    drafter = ModelDrafter(random_model("llama", num_layers=1, vocab_size=VOCAB, seed=4))
    counts = torch.zeros(VOCAB**LENGTH, dtype=torch.int64)
    base = VOCAB ** torch.arange(LENGTH - 1, -1, -1)
    for seed in range(40):
        config = ViaConfig(
            mode="exact",
            temperature=1.3,
            seed=seed,
            num_draft_tokens=2,
            max_new_tokens=LENGTH + 1,
            eos_token_id=(),
            max_backlog=2,
        )
        route = SlimRoute((True, False, True), (True, True, False))
        result = Decoder(target, drafter, route, config).generate([torch.tensor(PROMPT)] * 16)
        new = result.sequences[:, len(PROMPT) : len(PROMPT) + LENGTH]
        assert len(set(map(tuple, new.tolist()))) > 1
        counts += torch.bincount((new * base).sum(1), minlength=VOCAB**LENGTH)
    _assert_law(counts, _law(target, 1.3))
