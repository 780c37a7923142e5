# SPDX-License-Identifier: Apache-2.0
"""What a route search minimises: the divergence of two verifiers, or the expected time per token.

Formulae: docs/design.md, sections 6 and 13.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch

from via_ext.route import SlimRoute
from via_ext.scoring import DeployedScorer
from via_ext.search.costs import SublayerCosts
from via_ext.search.latency import DraftModel, chain_tokens, time_per_token

OBJECTIVES = ("divergence", "missing_mass", "latency")
# Elements of one float32 tensor while a divergence is summed: rows are taken in such pieces.
_PIECE = 2**24


def divergence(
    full_logits: torch.Tensor,
    slim_logits: torch.Tensor,
    *,
    alpha: float = 0.5,
    beta: float = 0.3,
    missing_mass: bool = False,
) -> torch.Tensor:
    """R(q || s) of every row, equation (8).

    Args:
        full_logits: [n, V] of q, any floating dtype.
        slim_logits: [n, V] of s.
        alpha: a in [0, 1).
        beta: b in (0, 1].
        missing_mass: (8a) instead: the second term has log q - log s, the mass of q that s lacks.

    Returns:
        [n] float32, in nats. Infinite where s gives mass to what q rules out, and for
        `missing_mass` the other way round.
    """
    if full_logits.shape != slim_logits.shape:
        rule = f"have the shape of full_logits, {list(full_logits.shape)}"
        raise ValueError(f"divergence: slim_logits must {rule}, got {list(slim_logits.shape)}")
    rows = max(1, _PIECE // full_logits.shape[-1])
    pieces = zip(torch.split(full_logits, rows), torch.split(slim_logits, rows), strict=True)
    return torch.cat([_divergence(q, s, alpha, beta, missing_mass) for q, s in pieces])


def _divergence(
    full: torch.Tensor, slim: torch.Tensor, alpha: float, beta: float, missing_mass: bool
) -> torch.Tensor:
    log_q, log_s = full.float().log_softmax(-1), slim.float().log_softmax(-1)
    gap = log_s - log_q
    excess = (math.log1p(-alpha) + gap).relu()
    deficit = (math.log(beta) + (-gap if missing_mass else gap)).relu()
    # A token that a verifier rules out adds nothing to that verifier's term, whatever the gap.
    zero = gap.new_zeros(())
    first = torch.where(log_s.isneginf(), zero, log_s.exp() * excess)
    second = torch.where(log_q.isneginf(), zero, log_q.exp() * deficit)
    return (first + second).sum(-1)


@dataclass(frozen=True)
class Score:
    """A route on the calibration text.

    Attributes:
        value: of the objective, smaller is better: nats per token, or full passes per token.
        agreement: share of rows where s and q have the same first choice.
    """

    value: float
    agreement: float


class Objective:
    """Scores routes on one text.

    Args:
        scorer: the full model on the text.
        name: one of `OBJECTIVES`.
        alpha: a of (8).
        beta: b of (8).
        costs: of the target's sublayers.

    Attributes:
        costs: likewise.
    """

    def __init__(
        self, scorer: DeployedScorer, name: str, alpha: float, beta: float, costs: SublayerCosts
    ) -> None:
        """Keeps the full model's first choices."""
        self._scorer, self._name = scorer, name
        self._alpha, self._beta = alpha, beta
        self.costs = costs
        self._choice = scorer.logits.argmax(-1)
        self._draft_choice: torch.Tensor | None = None
        self._draft = DraftModel()

    def add_drafter(self, logits: torch.Tensor, token_cost: float, length: int) -> None:
        """Counts a drafter in the latency.

        Args:
            logits: [sum of lengths, V] its own.
            token_cost: of one drafted token, in full passes.
            length: tokens of a draft.
        """
        self._draft_choice = logits.argmax(-1)
        acceptance = float((self._draft_choice == self._choice).double().mean())
        self._draft = DraftModel(length, token_cost, 0.0, acceptance)

    def __call__(self, route: SlimRoute) -> Score:
        """Scores a route: one slim pass over the text."""
        tokens = self._choice.numel()
        total, agreed, accepted = 0.0, 0, 0
        for places, logits in self._scorer.blocks(route):
            choice = logits.argmax(-1)
            agreed += int((choice == self._choice[places]).sum())
            if self._draft_choice is not None:
                accepted += int((choice == self._draft_choice[places]).sum())
            if self._name == "latency":
                continue
            sums = divergence(
                self._scorer.logits[places],
                logits,
                alpha=self._alpha,
                beta=self._beta,
                missing_mass=self._name == "missing_mass",
            )
            total += sums.double().sum().item()
        agreement = agreed / tokens
        if self._name == "latency":
            return Score(self._time(route, agreement, accepted / tokens), agreement)
        return Score(total / tokens, agreement)

    def _time(self, route: SlimRoute, agreement: float, acceptance: float) -> float:
        return time_per_token(
            self.costs.slim(route),
            self.costs.prefix(route),
            agreement,
            draft=replace(self._draft, slim_acceptance=acceptance),
            max_backlog=max(1, self._scorer.max_backlog),
        )

    @property
    def two_tier(self) -> float:
        """The same time without a slim verifier: every step is drafted and judged by q."""
        tokens = chain_tokens(self._draft.full_acceptance, self._draft.length)
        return (1.0 + self._draft.cost) / tokens


def tier_gain(
    scorer: DeployedScorer, route: SlimRoute, draft_logits: torch.Tensor, **criterion: Any
) -> float:
    """Delta = C(q || p) - C(s || p) - C(q || s), equation (13), summed over the text, in nats.

    Args:
        scorer: q on the text.
        route: of s.
        draft_logits: [sum of lengths, V] of p.
        criterion: `alpha`, `beta`, `missing_mass` of `divergence`.
    """

    def total(full: torch.Tensor, slim: torch.Tensor) -> float:
        return divergence(full, slim, **criterion).double().sum().item()

    gain = 0.0
    for places, slim in scorer.blocks(route):
        full, draft = scorer.logits[places], draft_logits[places]
        gain += total(full, draft) - total(slim, draft) - total(full, slim)
    return gain
