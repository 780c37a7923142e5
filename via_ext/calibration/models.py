# SPDX-License-Identifier: Apache-2.0
"""The four models of a calibration, fitted to traces.

Which rows a model sees depends on the steps: a drafted token has a depth, a bonus row is where
drafting stopped, often because the drafter was unsure. `step_rows` walks a trace step by step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from via_ext.calibration.fit import FitQuality, fit_logistic, log_odds, quality
from via_ext.calibration.stored import DRAFT_FEATURES
from via_ext.calibration.trace import DEPTH, Trace
from via_ext.router import FEATURES

#: Stops under which the rows are collected: the fits serve every setting between them.
STOPS = (0.0, 0.25, 0.5)
#: Nodes that an accepting setting would hardly refuse teach nothing about a refusal.
_REFUSABLE = 0.01
_DRAFT_COLUMNS = [FEATURES.index(name) for name in DRAFT_FEATURES]
#: The bonus model sees no node: only these columns and the depth are not 0.
_ROW_FEATURES = ("log_max", "margin")


class Models(NamedTuple):
    """Weights, bias first, as in `Calibration`."""

    draft: tuple[float, ...]
    slim: tuple[float, ...]
    bonus: tuple[float, ...]
    acceptance: tuple[float, ...]


class Rows(NamedTuple):
    """Rows of a trace that steps came to.

    Attributes:
        place: [m] int64 places in the trace.
        depth: [m] float32, of a node at the row: 1 after the root.
        bonus: [m] bool, there was no node.
    """

    place: torch.Tensor
    depth: torch.Tensor
    bonus: torch.Tensor


def with_depth(trace: Trace, rows: Rows) -> torch.Tensor:
    """Features [m, 7] of drafted tokens at some rows."""
    features = trace.features[rows.place].clone()
    features[:, DEPTH] = rows.depth
    return features


def bonus_features(trace: Trace, rows: Rows) -> torch.Tensor:
    """Features [m, 7] of rows without a node."""
    features = torch.zeros(len(rows.place), len(FEATURES))
    for name in _ROW_FEATURES:
        column = FEATURES.index(name)
        features[:, column] = trace.features[rows.place, column]
    features[:, DEPTH] = rows.depth
    return features


def acceptance_odds(trace: Trace, weights: tuple[float, ...], depths: int) -> torch.Tensor:
    """Log-odds [n, depths] float64 of every drafted token's acceptance, were its depth 1, 2, ..."""
    features = trace.features[:, _DRAFT_COLUMNS].clone()
    features[:, DRAFT_FEATURES.index("depth")] = 0.0
    slope = weights[1 + DRAFT_FEATURES.index("depth")]
    steps = torch.arange(1, depths + 1, dtype=torch.float64)
    return log_odds(weights, features)[:, None] + slope * steps


def step_rows(
    trace: Trace, num_draft_tokens: int, acceptance: tuple[float, ...] | None, stop: float
) -> Rows:
    """The rows that steps come to which keep the text's own tokens.

    Args:
        trace: of some texts.
        num_draft_tokens: longest chain.
        acceptance: weights of the acceptance model, None = never stop early.
        stop: `Setting.draft_stop`.
    """
    chance = None
    if acceptance is not None:
        chance = torch.sigmoid(acceptance_odds(trace, acceptance, num_draft_tokens)).tolist()
    follows = trace.draft_follows.tolist()
    index, depths, bonus = [], [], []
    for text in trace.texts:
        depth, kept = 1, 1.0
        for place in range(text.start, text.stop):
            # The node whose product falls below the stop is still drafted: it is the last one.
            no_node = depth > num_draft_tokens or kept < stop
            if not no_node and chance is not None:
                kept *= chance[place][depth - 1]
            index.append(place)
            depths.append(float(depth))
            bonus.append(no_node)
            if no_node or not follows[place]:
                depth, kept = 1, 1.0
            else:
                depth += 1
    return Rows(torch.tensor(index), torch.tensor(depths), torch.tensor(bonus, dtype=torch.bool))


def _all_rows(trace: Trace, nodes: int, acceptance: tuple[float, ...]) -> tuple[Rows, Rows]:
    """Rows with a node, and rows without, of all `STOPS`."""
    found = [step_rows(trace, nodes, acceptance, stop) for stop in STOPS]
    joined = Rows(*(torch.cat(parts) for parts in zip(*found, strict=True)))
    node = ~joined.bonus
    return Rows(*(part[node] for part in joined)), Rows(*(part[~node] for part in joined))


def fit_models(trace: Trace, num_draft_tokens: int, has_slim: bool) -> Models:
    """Fits all models; without a slim verifier only the acceptance model is not zero."""
    zero = (0.0,) * (1 + len(FEATURES))
    rows = step_rows(trace, num_draft_tokens, None, 0.0)
    rows = Rows(*(part[~rows.bonus] for part in rows))
    drafted = with_depth(trace, rows)[:, _DRAFT_COLUMNS]
    acceptance = fit_logistic(drafted, trace.draft_right[rows.place])
    if not has_slim:
        return Models(zero, zero, zero, acceptance)
    nodes, ends = _all_rows(trace, num_draft_tokens, acceptance)
    features = with_depth(trace, nodes)
    draft = fit_logistic(features, ~trace.draft_right[nodes.place])
    refusable = torch.sigmoid(log_odds(draft, features)) > _REFUSABLE
    if not bool(refusable.any()):
        refusable[:] = True
    slim = fit_logistic(features[refusable], ~trace.slim_right[nodes.place][refusable])
    bonus = fit_logistic(bonus_features(trace, ends), ~trace.slim_right[ends.place])
    return Models(draft, slim, bonus, acceptance)


def judge_models(
    models: Models, trace: Trace, num_draft_tokens: int, has_slim: bool
) -> dict[str, FitQuality]:
    """How well the models predict a trace that they were not fitted to.

    The positive class is "wrong" for draft, slim and bonus, "accepted" for acceptance. A model
    without a row in the trace is left out.
    """
    nodes, ends = _all_rows(trace, num_draft_tokens, models.acceptance)
    features = with_depth(trace, nodes)
    right = trace.draft_right[nodes.place]
    parts: list[tuple[str, torch.Tensor, torch.Tensor]] = [
        ("acceptance", features[:, _DRAFT_COLUMNS], right)
    ]
    if has_slim:
        refusable = torch.sigmoid(log_odds(models.draft, features)) > _REFUSABLE
        slim_wrong = ~trace.slim_right[nodes.place]
        parts += [
            ("draft", features, ~right),
            ("slim", features[refusable], slim_wrong[refusable]),
            ("bonus", bonus_features(trace, ends), ~trace.slim_right[ends.place]),
        ]
    return {name: quality(getattr(models, name), x, y) for name, x, y in parts if len(y)}


def mean_log_loss(found: Sequence[FitQuality]) -> float:
    """Mean log-loss over models, each of the same weight."""
    return sum(item.log_loss for item in found) / len(found)
