# SPDX-License-Identifier: Apache-2.0
"""What a drafter can say about its own draft, and when a chain had better stop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from via_ext.router import LIMIT


class Scoring(NamedTuple):
    """What a run wants of a drafter besides tokens; given to `set_scoring` where it has one.

    Attributes:
        scores: return `DraftTokens.scores`.
        stop: bias and weights [4] of the acceptance model (`Calibration.acceptance`) by which a
            chain stops early; None = every chain has its full length.
        threshold: a chain goes on while the product of its predicted acceptances is at least this.
    """

    scores: bool = False
    stop: tuple[float, ...] | None = None
    threshold: float = 0.0


def draft_scores(logits: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Log-probability and margin of drafted tokens at temperature 1.

    Args:
        logits: [..., V] of the drafter, V >= 1.
        columns: [..., C] int64, columns of the row that were drafted.

    Returns:
        [..., C, 2] float32: ln p of the column; ln of the largest over the second largest p, inf
        with a single column.
    """
    rows = logits.float()
    best = rows.topk(min(2, rows.shape[-1]), -1).values
    if best.shape[-1] < 2:
        best = torch.nn.functional.pad(best, (0, 1), value=-torch.inf)
    margin = (best[..., :1] - best[..., 1:]).expand(columns.shape)
    logprobs = rows.gather(-1, columns) - rows.logsumexp(-1, keepdim=True)
    return torch.stack((logprobs, margin), -1)


def predicted_acceptance(
    weights: Sequence[float], scores: torch.Tensor, depths: torch.Tensor | int
) -> torch.Tensor:
    """P(the full model would choose this draft token), before any verifier has seen it.

    Args:
        weights: bias, then weights of `DRAFT_FEATURES`.
        scores: [..., 2] as `draft_scores`.
        depths: of the nodes, a child of the root has 1; broadcast against the rest of `scores`.

    Returns:
        [...] float64.
    """
    values = scores.double()
    # The cuts of `Router`; NaN counts as the lower end.
    log_draft = values[..., 0].nan_to_num(nan=-LIMIT).clamp(-LIMIT, 0.0)
    margin = values[..., 1].nan_to_num(nan=0.0).clamp(0.0, LIMIT)
    bias, of_log, of_margin, of_depth = weights
    return torch.sigmoid(bias + of_log * log_draft + of_margin * margin + of_depth * depths)


class ChainStop:
    """Which rows of a batch draft on: those whose draft so far is likely enough to be kept.

    Whether a node exists depends on its ancestors alone, never on its own token or a later one: the
    distributions of sampled tokens may be returned with a chain that was cut in this way, and
    lossless acceptance stays lossless.

    Attributes:
        live: rows that draft on, ascending.
        counts: tokens drafted per row.
    """

    def __init__(self, scoring: Scoring, rows: int) -> None:
        """Starts with every row."""
        self._scoring = scoring
        self._products = torch.ones(rows, dtype=torch.float64)
        self.live = list(range(rows))
        self.counts = [0] * rows

    @property
    def needs_scores(self) -> bool:
        """True if `add` reads scores."""
        return self._scoring.stop is not None

    def add(self, scores: torch.Tensor | None) -> list[int]:
        """Counts one more token of every live row; drops the rows that stop after it.

        Args:
            scores: [live rows, 2] of the token; read only where `needs_scores`.

        Returns:
            Indices into the live rows before, of those that stay.
        """
        for row in self.live:
            self.counts[row] += 1
        if self._scoring.stop is None:
            return list(range(len(self.live)))
        assert scores is not None
        depth = self.counts[self.live[0]]
        found = predicted_acceptance(self._scoring.stop, scores.cpu(), depth)
        self._products[self.live] *= found
        enough = (self._products[self.live] >= self._scoring.threshold).tolist()
        kept = [index for index, draws_on in enumerate(enough) if draws_on]
        self.live = [self.live[index] for index in kept]
        return kept
