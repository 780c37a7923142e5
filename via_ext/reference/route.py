# SPDX-License-Identifier: Apache-2.0
"""Ratios and the three-way route."""

from __future__ import annotations

import torch

from via_ext.reference.draft import Request, Thresholds
from via_ext.reference.filters import Row
from via_ext.reference.router import RowRouter, bonus_features, log_odds, node_features

ACCEPT = 0
REGENERATE = 1
ESCALATE = 2
NO_TIER = 255


def draft_ratio(row: Row, token: int, temperature: float) -> float:
    """Ratio r = exp((l_token - l_max) / T); T = 1 when decoding greedily."""
    if not row.has_mass:
        return 0.0
    gap = (row.logits[token] - row.logits.max()) / (temperature or 1.0)
    return float(gap.exp())


def tier_of(ratio: float, draft_probability: float, thresholds: Thresholds) -> int:
    """Accept, regenerate or escalate.

    A node of ratio 0 is never accepted, neither by a threshold of 0 nor by the draft gate.

    Args:
        ratio: the node's ratio. It is compared as it is reported, as float32.
        draft_probability: what the drafter gave its token; 0 if unknown.
        thresholds: accept from `accept` on, escalate below `escalate`, and accept whatever the
            drafter gave at least `draft`.
    """
    ratio = float(torch.tensor(ratio, dtype=torch.float32))
    gate = thresholds.draft is not None and draft_probability >= thresholds.draft
    if ratio > 0.0 and (gate or ratio >= thresholds.accept):
        return ACCEPT
    return REGENERATE if ratio >= thresholds.escalate else ESCALATE


def routed_tier(ratio: float, features: list[float], router: RowRouter) -> int:
    """Accept, regenerate or escalate by predicted disagreement.

    Args:
        ratio: the node's ratio; a node of ratio 0 is never accepted.
        features: of the node.
        router: its models and limits.
    """
    if ratio > 0.0 and log_odds(router.draft, features) <= router.accept_limit:
        return ACCEPT
    passes = log_odds(router.slim, features) <= router.regenerate_limit
    return REGENERATE if passes else ESCALATE


def bonus_passes(request: Request, parent: int, row: Row) -> bool:
    """True if the slim verifier may decide the token after a node without children.

    Args:
        request: gives the router, if any, and the temperature.
        parent: the node, -1 = root.
        row: that follows it.
    """
    router = request.router
    if router is None:
        return request.has_bonus
    features = bonus_features(row, request.filters.temperature, request.depth_under(parent))
    return log_odds(router.bonus, features) <= router.bonus_limit


def judge(request: Request, num_nodes: int) -> tuple[list[float], list[int]]:
    """Ratio and tier of every node; 0 and 255 where there is none.

    Reads every row that has a live child, reached or not.
    """
    ratios, tiers = [0.0] * num_nodes, [NO_TIER] * num_nodes
    for parent in range(-1, num_nodes):
        children = request.children(parent)
        if not children:
            continue
        row = request.row(parent + 1)
        for node in children:
            token = request.tokens[node]
            drawn = 0.0
            if request.thresholds.draft is not None:
                drawn = request.draft_probability(node)
            ratios[node] = draft_ratio(row, token, request.filters.temperature)
            if request.router is None:
                tiers[node] = tier_of(ratios[node], drawn, request.thresholds)
                continue
            scores = None if request.scores is None else request.scores[node]
            depth = request.depth_under(parent)
            features = node_features(row, request.filters.temperature, token, depth, scores)
            ratio = float(torch.tensor(ratios[node], dtype=torch.float32))
            tiers[node] = routed_tier(ratio, features, request.router)
    return ratios, tiers


def candidate(children: list[int], ratios: list[float]) -> int:
    """The child the walk considers: the largest ratio, the lowest node on ties."""
    return max(children, key=lambda node: (ratios[node], -node))
