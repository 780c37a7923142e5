# SPDX-License-Identifier: Apache-2.0
"""Models, prompts and calls for the tests of `custom_generate` and `generate`."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

from tests.models import VOCAB_SIZE, random_model
from via_ext.config import ViaConfig
from via_ext.custom import custom_generate
from via_ext.route import SlimRoute
from via_ext.tree import Tree

ROUTE = SlimRoute((True, False, True, True), (True, True, False, True))
ROUTES = {"two-tier": None, "slim": ROUTE}
SHAPES = {"chain": Tree.chain(4), "tree": Tree.from_widths([3, 2, 1])}


@cache
def pair(family: str = "llama") -> tuple[Any, Any]:
    """A target, and a drafter that is often right: the same weights with one layer less."""
    model = random_model(family)
    drafter = random_model(family, num_layers=3)
    drafter.load_state_dict(model.state_dict(), strict=False)
    return model, drafter


def prompt(length: int = 9, seed: int = 0, rows: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(1, VOCAB_SIZE, (rows, length), generator=generator)


def plain(model: Any, ids: torch.Tensor, **options: Any) -> Any:
    """transformers' own greedy generate."""
    mask = options.pop("attention_mask", torch.ones_like(ids))
    settings = {"max_new_tokens": 20, "do_sample": False, "pad_token_id": 0} | options
    return model.generate(ids, attention_mask=mask, **settings)


def through(model: Any, ids: torch.Tensor, drafter: Any, **options: Any) -> Any:
    """The same call with our decoding method, exact unless a config is given."""
    options.setdefault("config", ViaConfig(mode="exact", max_backlog=5))
    return plain(model, ids, drafter=drafter, custom_generate=custom_generate, **options)


class Recorder:
    """A logits processor with a memory: what it adds depends on how often it was called."""

    def __init__(self) -> None:
        self.prefixes: list[list[int]] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        assert input_ids.shape[0] == scores.shape[0] == 1 and scores.dtype == torch.float32
        self.prefixes.append(input_ids[0].tolist())
        count = len(self.prefixes)
        scores[0, (7 * count) % scores.shape[1]] += 3.0  # in place, as some processors do
        scores[0, sum(self.prefixes[-1]) % scores.shape[1]] += 3.0
        return scores


class LengthCriterion:
    """Ends a row at a length; keeps every prefix that it was asked about."""

    def __init__(self, length: int) -> None:
        self.length = length
        self.prefixes: list[list[int]] = []

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        self.prefixes.append(input_ids[0].tolist())
        done = input_ids.shape[1] >= self.length
        return torch.full((input_ids.shape[0],), done, dtype=torch.bool)


class Streamer:
    """Keeps what it gets."""

    def __init__(self) -> None:
        self.pieces: list[torch.Tensor] = []
        self.ends = 0

    def put(self, value: torch.Tensor) -> None:
        assert not self.ends
        self.pieces.append(value.clone())

    def end(self) -> None:
        self.ends += 1

    @property
    def tokens(self) -> list[int]:
        return torch.cat([piece.flatten() for piece in self.pieces]).tolist()
