# SPDX-License-Identifier: Apache-2.0
"""How likely the tokens of a slim walk are to survive their audit, by a calibration's models."""

from __future__ import annotations

import math

import torch

from via_ext.calibration import Calibration
from via_ext.engines.draft import Draft
from via_ext.engines.slim import SlimWalk
from via_ext.router import LIMIT


def walk_survival(
    calibration: Calibration, draft: Draft, walk: SlimWalk, temperature: float
) -> float:
    """Product of 1 - P(wrong) over the tokens that a slim walk decided.

    An accepted node is judged by the model `draft`, the slim verifier's own token by `slim`, or by
    `bonus` where its row had no candidate, each on the features of `Router` at that row. When
    tokens are drawn, the models speak of the slim verifier's first choice, which need not be the
    token: an estimate that decides when an audit comes, never what it says.

    Args:
        calibration: the models.
        draft: its nodes, with the drafter's scores or without (features 0).
        walk: of this draft.
        temperature: of the ratios, 0 = 1.
    """
    count = len(walk.decided)
    rows = [0, *(node + 1 for node in walk.path)][:count]
    if not rows:
        return 1.0
    values = walk.scores[0, rows].double() / (temperature or 1.0)
    best = values.topk(min(2, values.shape[-1]), -1).values.tolist()
    totals, firsts = values.logsumexp(-1).tolist(), values.argmax(-1).tolist()
    product = 1.0
    for index, row in enumerate(rows):
        most = best[index][0]
        margin = most - best[index][1] if len(best[index]) > 1 else LIMIT
        node = walk.path[index] if index < len(walk.path) else _candidate(draft, row, values[index])
        weights, features = calibration.bonus, [0.0] * 4
        if node is not None:
            weights = calibration.draft if index < len(walk.path) else calibration.slim
            token = draft.tokens[node]
            log_draft, draft_margin = (
                (0.0, 0.0) if draft.scores is None else draft.scores[0, node].tolist()
            )
            log_ratio = float(values[index, token]) - most
            features = [log_ratio, log_draft, draft_margin, float(token == firsts[index])]
        log_ratio, log_draft, draft_margin, same = features
        depth = 1 if row == 0 else draft.tree.depths[row - 1] + 1
        error = _logistic(
            weights[0]
            + weights[1] * _cut(log_ratio, -LIMIT, 0.0)
            + weights[2] * _cut(most - totals[index], -LIMIT, 0.0)
            + weights[3] * _cut(margin, 0.0, LIMIT)
            + weights[4] * _cut(log_draft, -LIMIT, 0.0)
            + weights[5] * _cut(draft_margin, 0.0, LIMIT)
            + weights[6] * depth
            + weights[7] * same
        )
        product *= 1.0 - error
    return product


def _candidate(draft: Draft, row: int, values: torch.Tensor) -> int | None:
    """The child that the walk looked at, None if there is none."""
    nodes = [n for n in draft.tree.children[row] if 0 <= draft.tokens[n] < values.shape[0]]
    return max(nodes, key=lambda node: (float(values[draft.tokens[node]]), -node), default=None)


def _cut(value: float, low: float, high: float) -> float:
    """As `Router` cuts its features; NaN counts as the lower end."""
    return min(high, value) if value > low else low


def _logistic(value: float) -> float:
    # Cut where float64 has no more to tell; exp would overflow beyond 709.
    return 1.0 / (1.0 + math.exp(min(700.0, -value)))
