# SPDX-License-Identifier: Apache-2.0
"""Sampling by the persistent engine, its kernel in the simulation, follows the full model's law.

The law of the first two tokens is enumerated with transformers' own forward, in float32. Seeds are
fixed; for fresh ones a test has a false-alarm rate of 1e-4.
"""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
import torch
from scipy import stats

from tests.persistent_cases import ROUTE, available, decoder, simulate, toy_pair
from via_ext import Tree, ViaConfig
from via_ext.drafters import ModelDrafter

pytestmark = pytest.mark.skipif(not available, reason="needs the simulated module (make simt)")

VOCAB_SIZE, LENGTH = 5, 2
PROMPT = [1, 3, 0, 2]
RUNS, ROWS = 50, 4
SIZES = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}
CASES: dict[str, dict[str, Any]] = {
    "two-tier chain": {"route": None, "num_draft_tokens": 2},
    "three-tier chain": {"route": ROUTE, "num_draft_tokens": 2},
    "three-tier tree": {"route": ROUTE, "tree": Tree.from_widths([2, 1])},
}


def law(model: Any, temperature: float) -> torch.Tensor:
    """[V * V]: probability of every pair of tokens behind the prompt."""
    exact = copy.deepcopy(model).float()
    found = torch.ones([VOCAB_SIZE] * LENGTH, dtype=torch.float64)
    for count in range(LENGTH):
        for context in itertools.product(range(VOCAB_SIZE), repeat=count):
            with torch.no_grad():
                logits = exact(torch.tensor([[*PROMPT, *context]])).logits[0, -1].double()
            probs = torch.softmax(logits / temperature, -1)
            found[context] *= probs.view([VOCAB_SIZE] + [1] * (LENGTH - count - 1))
    return found.flatten()


@pytest.mark.parametrize("case", CASES)
def test_drawn_tokens_follow_the_full_models_law(case: str, monkeypatch) -> None:
    simulate(monkeypatch)
    options = dict(CASES[case])
    route = options.pop("route")
    target, draft_model = toy_pair(agreement=0.8, **SIZES)
    drafter = ModelDrafter(draft_model)
    counts = torch.zeros(VOCAB_SIZE**LENGTH)
    for seed in range(RUNS):
        # One token more than is compared, so that the last compared one is not always the end.
        config = ViaConfig(
            mode="exact", temperature=3.0, seed=seed, max_new_tokens=LENGTH + 1, eos_token_id=(),
            max_backlog=4, **options,
        )  # fmt: skip
        made = decoder(target, drafter, route, config, "persistent", blocks=1)
        new = made.generate([torch.tensor(PROMPT)] * ROWS).sequences[:, len(PROMPT) :]
        pairs = new[:, 0] * VOCAB_SIZE + new[:, 1]
        counts += torch.bincount(pairs, minlength=VOCAB_SIZE**LENGTH)
    wanted = law(target, 3.0) * counts.sum()
    rare = wanted < 5
    observed = torch.cat([counts[~rare], counts[rare].sum()[None]]).double()
    wanted = torch.cat([wanted[~rare], wanted[rare].sum()[None]])
    assert len(wanted) > 4 and wanted[-1] > 0
    assert stats.chisquare(observed.numpy(), wanted.numpy()).pvalue > 1e-4
