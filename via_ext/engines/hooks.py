# SPDX-License-Identifier: Apache-2.0
"""A caller's own code inside the loop: logits processors and stopping criteria of one batch row.

Both see what they would see in plain decoding, one token after the other. A call on a prefix that
cannot be rolled back goes to the caller's own objects, once per prefix and in order; a call on a
provisional prefix (the slim verifier's tokens before their audit) goes to a deep copy of the
processors, which is dropped with the prefix. Stopping criteria never see a provisional prefix.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

# ([1, n] int64 ids, [1, V] float32 scores) -> [1, V] scores
Processors = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
# ([1, n] int64 ids, processed scores so far or None) -> True to end the row
Criteria = Callable[[torch.Tensor, tuple[torch.Tensor, ...] | None], bool]


@dataclass
class RowHooks:
    """What one batch row calls.

    Attributes:
        lead: padding before the prompt, part of every prefix that the caller's code sees.
        processors: None = none.
        criteria: None = none.
        stateful: a processor may remember its calls; False saves the copies.
        device: of the ids that criteria see; processors see them beside the logits.
        keep_scores: keep the processed scores of every decided position, [V] float32 each.
        keep_logits: keep its logits likewise.
        scores: of the decided positions, in order.
        logits: likewise.
    """

    lead: list[int] = field(default_factory=list)
    processors: Processors | None = None
    criteria: Criteria | None = None
    stateful: bool = True
    device: torch.device | str = "cpu"
    keep_scores: bool = False
    keep_logits: bool = False
    scores: list[torch.Tensor] = field(default_factory=list)
    logits: list[torch.Tensor] = field(default_factory=list)
    _provisional: Processors | None = None
    _checked: int = 0  # longest sequence that the criteria have judged
    _ended_at: int | None = None  # the length at which they ended the row

    @property
    def reads_rows(self) -> bool:
        """True if rows have to be visited one by one."""
        return self.processors is not None or self.keep_scores or self.keep_logits

    def _ids(self, tokens: list[int], device: torch.device | str) -> torch.Tensor:
        return torch.tensor([self.lead + tokens], device=device)

    def process(self, tokens: list[int], logits: torch.Tensor, final: bool) -> torch.Tensor:
        """Scores of the token after `tokens`.

        Args:
            tokens: prompt and tokens before this position.
            logits: [V] of the verifier that decides it.
            final: `tokens` cannot be rolled back, and this call decides the position.

        Returns:
            [V] float32, a new tensor.

        Raises:
            TypeError: a stateful processor cannot be copied.
        """
        # A copy: processors may write into their input.
        scores = logits.to(torch.float32, copy=True)[None]
        if final and self.keep_logits:
            self.logits.append(scores[0].clone())
        if self.processors is not None:
            scores = self._processors(final)(self._ids(tokens, logits.device), scores)
        if final and self.keep_scores:
            self.scores.append(scores[0].clone())
        return scores[0]

    def _processors(self, final: bool) -> Processors:
        assert self.processors is not None
        if final or not self.stateful:
            return self.processors
        if self._provisional is None:
            self._provisional = copy_of(self.processors)
        return self._provisional

    def replay(self, tokens: list[int], logits: torch.Tensor) -> None:
        """Makes a call that went to the copy final: its position was decided after all."""
        if self.stateful and self.processors is not None:
            scores = logits.to(torch.float32, copy=True)[None]
            self.processors(self._ids(tokens, logits.device), scores)

    def sync(self) -> None:
        """Drops the copy: the next provisional call starts from the final state."""
        self._provisional = None

    def ended(self, tokens: list[int]) -> bool:
        """True if the criteria end the row with the last of `tokens`, which are final.

        Every length is judged once; asking again returns the same verdict.
        """
        if len(tokens) > self._checked and self.criteria is not None:
            self._checked = len(tokens)
            scores = tuple(row[None] for row in self.scores) if self.keep_scores else None
            if self.criteria(self._ids(tokens, self.device), scores):
                self._ended_at = len(tokens)
        return self._ended_at == len(tokens)


def copy_of(processors: Any) -> Any:
    """A deep copy of processors or criteria.

    Raises:
        TypeError: one cannot be copied.
    """
    try:
        return copy.deepcopy(processors)
    except Exception as error:
        names = ", ".join(type(part).__name__ for part in _parts(processors))
        raise TypeError(
            "generate: logits_processor and stopping_criteria must be copyable for a slim route "
            f"or a batch, got {names} ({error})"
        ) from error


def _parts(processors: Any) -> list[Any]:
    return list(processors) if isinstance(processors, list) else [processors]
