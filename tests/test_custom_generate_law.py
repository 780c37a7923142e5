# SPDX-License-Identifier: Apache-2.0
"""Sampling through `custom_generate`: the law of plain sampling, fused and processed alike.

Rows of one call are independent, so a batch of equal prompts is a sample. Seeds are fixed; the
threshold has a false-alarm rate of 1e-4 per test for a fresh choice of seeds.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from scipy import stats

from tests.models import random_model
from via_ext.config import ViaConfig
from via_ext.custom import custom_generate
from via_ext.models.hf_filters import fused_rules
from via_ext.route import SlimRoute
from via_ext.tree import Tree

VOCAB = 5
PROMPT = [1, 3, 0, 2]
ROUTE = SlimRoute((True, False, True), (True, True, False))


class Boost:
    """Not one of transformers' own: nothing is known about it."""

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        scores[:, int(input_ids[0, -1]) % VOCAB] += 1.0
        return scores


def _law(model: Any, process: Any) -> torch.Tensor:
    """[V * V]: probability of the first two tokens."""
    law = torch.zeros(VOCAB, VOCAB, dtype=torch.float64)

    def probs(tokens: list[int]) -> torch.Tensor:
        ids = torch.tensor([tokens])
        with torch.no_grad():
            scores = process(ids, model(ids).logits[:, -1].float())
        return torch.softmax(scores[0].double(), -1)

    for first, weight in enumerate(probs(PROMPT)):
        law[first] = weight * probs([*PROMPT, first])
    return law.flatten()


CASES = {
    "fused": {"temperature": 0.8, "top_k": 4, "top_p": 0.9},
    "min-p": {"top_k": 0, "min_p": 0.2},
    "typical": {"typical_p": 0.8, "top_k": 0},
    "penalty": {"repetition_penalty": 1.5, "temperature": 1.3, "top_k": 3},
    "custom": {"logits_processor": [Boost()], "top_k": 0},
}


@pytest.mark.parametrize("shape", ["two-tier", "slim chain", "slim tree"])
@pytest.mark.parametrize("name", CASES)
def test_law(name: str, shape: str) -> None:
    from transformers import LogitsProcessorList

    model = random_model("llama", num_layers=3, vocab_size=VOCAB, seed=3)
    drafter = random_model("llama", num_layers=1, vocab_size=VOCAB, seed=4)
    options = dict(CASES[name])
    batch = 400 if name in ("fused", "min-p") else 250
    processors = LogitsProcessorList()

    def keep(*_: Any, logits_processor: Any, **__: Any) -> torch.Tensor:
        processors.extend(logits_processor)
        return torch.zeros(1, 1)

    ids = torch.tensor([PROMPT])
    settings = options | {"do_sample": True, "max_new_tokens": 2, "pad_token_id": 0}
    model.generate(ids, attention_mask=torch.ones_like(ids), custom_generate=keep, **settings)
    law = _law(model, processors)
    tree = Tree.from_widths([2, 1]) if shape == "slim tree" else Tree.chain(2)
    torch.manual_seed(12)
    out = model.generate(
        ids.expand(batch, -1),
        attention_mask=torch.ones(batch, len(PROMPT), dtype=torch.int64),
        custom_generate=custom_generate,
        drafter=drafter,
        route=None if shape == "two-tier" else ROUTE,
        config=ViaConfig(mode="exact", tree=tree, max_backlog=2),
        **settings,
    )
    new = out[:, len(PROMPT) :]
    counts = torch.bincount(new[:, 0] * VOCAB + new[:, 1], minlength=VOCAB * VOCAB)
    assert counts[law == 0].sum() == 0
    kept = law * batch >= 5
    observed = torch.cat([counts[kept], counts[~kept].sum()[None]]).double()
    expected = torch.cat([law[kept], law[~kept].sum()[None]]) * batch
    used = expected > 0
    result = stats.chisquare(observed[used].numpy(), expected[used].numpy())
    assert result.pvalue > 1e-4


def test_a_seed_of_torch_makes_it_repeatable() -> None:
    model = random_model("llama")
    ids = torch.arange(8)[None]

    def draw(seed: int, config: ViaConfig | None = None) -> list[int]:
        torch.manual_seed(seed)
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            custom_generate=custom_generate,
            drafter=None,
            config=config,
            do_sample=True,
            max_new_tokens=12,
            pad_token_id=0,
        )
        return out[0].tolist()  # type: ignore[no-any-return]

    assert draw(1) == draw(1) != draw(2)
    assert draw(1, ViaConfig(seed=9)) == draw(2, ViaConfig(seed=9))


def test_num_return_sequences_are_independent_draws() -> None:
    model = random_model("llama")
    ids = torch.arange(8)[None]
    out = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        custom_generate=custom_generate,
        drafter=None,
        do_sample=True,
        num_return_sequences=3,
        max_new_tokens=12,
        pad_token_id=0,
    )
    assert out.shape == (3, 20) and len({tuple(row) for row in out.tolist()}) == 3


def test_what_is_fused() -> None:
    """Order, filter values and min_tokens_to_keep as in `ops.verify`, or not fused at all."""
    from transformers.generation import logits_process as hf

    temperature, top_k, top_p = (
        hf.TemperatureLogitsWarper(0.7),
        hf.TopKLogitsWarper(50),
        hf.TopPLogitsWarper(0.9),
    )
    found = fused_rules([temperature, top_k, top_p, hf.MinPLogitsWarper(0.1)], 9, ())
    assert found is not None and found.filters == {
        "temperature": 0.7,
        "top_k": 50,
        "top_p": 0.9,
        "min_p": 0.1,
    }
    minimum = hf.MinNewTokensLengthLogitsProcessor(9, 6, [3, 4])
    assert fused_rules([minimum, top_k], 9, (4, 3)).min_new_tokens == 6  # type: ignore[union-attr]
    assert fused_rules([hf.MinLengthLogitsProcessor(14, 3)], 9, (3,)).min_new_tokens == 5  # type: ignore[union-attr]
    for other in (
        [top_p, top_k],
        [top_k, temperature],
        [top_k, top_k],
        [hf.TopKLogitsWarper(50, min_tokens_to_keep=2)],
        [hf.TopPLogitsWarper(0.9, filter_value=-1e4)],
        [hf.TypicalLogitsWarper(0.9)],
        [Boost()],
    ):
        assert fused_rules(other, 9, ()) is None
    assert fused_rules([minimum], 8, (3, 4)) is None  # counts from another prompt
    assert fused_rules([minimum], 9, (3,)) is None  # holds another end back
