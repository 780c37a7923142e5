# SPDX-License-Identifier: Apache-2.0
"""Cases of `filtered_probs` and `draft_sample`: a drafter's step, and saved rows of a verifier."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from bench_cases import BATCHES, DTYPES, VOCABS
from eager_ops import eager_draft, filtered
from torch import Tensor

from via_ext import ops

SAVED_ROWS = 9  # of a request: a chain of 8 and its root


@dataclass(frozen=True)
class DraftCase:
    """One call. `draws`: draft_sample, else filtered_probs; `writes`: with its distribution."""

    rows: int
    vocab: int
    draws: bool = True
    writes: bool = True
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    dtype: str = "bfloat16"

    @property
    def rule(self) -> str:
        """The operation."""
        return "draft_sample" if self.draws else "filtered_probs"

    @property
    def filters(self) -> dict[str, Any]:
        """Arguments that are not at their defaults."""
        given = {"temperature": self.temperature, "top_k": self.top_k, "top_p": self.top_p}
        defaults = {"temperature": 1.0, "top_k": 0, "top_p": 1.0}
        return {name: value for name, value in given.items() if value != defaults[name]}

    @property
    def floor_bytes(self) -> int:
        """Every logit is read once, every probability written once."""
        item = DTYPES[self.dtype].itemsize + (4 if self.writes else 0)
        return self.rows * self.vocab * item

    def goal_us(self, bytes_per_us: float) -> float:
        """Time that a GPU with this copy bandwidth is to need at most."""
        floor = self.floor_bytes / bytes_per_us
        filtered = self.top_k > 0 or self.top_p < 1.0
        return (2.0 if filtered else 1.25) * floor + (10.0 if self.temperature else 5.0)

    def columns(self) -> dict[str, Any]:
        """What the case is, for a CSV."""
        return {
            "rule": self.rule,
            "drafts": "probs" if self.writes else "tokens",
            "B": self.rows,
            "N": "",
            "V": self.vocab,
            "dtype": self.dtype,
            "right": "",
            "filters": " ".join(f"{name}={value}" for name, value in self.filters.items()),
        }


@dataclass
class DraftInputs:
    """Tensors of one case."""

    case: DraftCase
    logits: Tensor  # [R, V]
    coins: Tensor  # [R]


def build(case: DraftCase, device: str) -> DraftInputs:
    """Noise, whose nucleus holds thousands of tokens less than the vocabulary."""
    generator = torch.Generator(device).manual_seed(0)
    logits = torch.randn(case.rows, case.vocab, generator=generator, device=device).mul_(2.5)
    coins = torch.rand(case.rows, generator=generator, device=device)
    return DraftInputs(case, logits.to(DTYPES[case.dtype]), coins)


def ours(inputs: DraftInputs) -> Any:
    """The operation, results at fixed addresses."""
    case, logits, filters = inputs.case, inputs.logits, inputs.case.filters
    probs = torch.empty(logits.shape, device=logits.device)
    if not case.draws:
        return lambda: _nothing(ops.filtered_probs(logits, out=probs, **filters))
    tokens = torch.empty(case.rows, dtype=torch.int64, device=logits.device)
    rows = torch.arange(case.rows, device=logits.device)
    given: dict[str, Any] = {"seed": rows, "position": rows, **filters}
    if case.writes:
        return lambda: _nothing(ops.draft_sample(logits, out=(tokens, probs), **given))
    return lambda: _nothing(
        ops.draft_sample(logits, return_probs=False, out=(tokens, None), **given)
    )


def _nothing(result: Any) -> None:
    """There are no decisions to check."""


def eager(inputs: DraftInputs) -> Any:
    """The same in plain PyTorch."""
    case, logits = inputs.case, inputs.logits
    if not case.draws:
        return lambda: filtered(logits, case.top_k, case.top_p)
    if not case.temperature:
        return lambda: logits.argmax(-1)
    return lambda: eager_draft(logits, inputs.coins, case.top_k, case.top_p)


def cases() -> list[DraftCase]:
    """Drafter steps of one request to many, greedy, drawn and filtered; saved rows."""
    found = []
    for vocab in sorted(VOCABS, key=lambda size: size != 128256):
        for batch in BATCHES:
            found += [
                DraftCase(batch, vocab, writes=False, temperature=0.0),
                DraftCase(batch, vocab),
                DraftCase(batch, vocab, top_k=50, top_p=0.9),
                DraftCase(batch * SAVED_ROWS, vocab, draws=False),
            ]
    return found
