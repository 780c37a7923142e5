# SPDX-License-Identifier: Apache-2.0
"""The expected time of a token with a slim verifier (docs/design.md, section 13)."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class DraftModel:
    """What the latency knows of a drafter.

    Attributes:
        length: tokens of a draft.
        token_cost: of drafting one, in full passes.
        slim_acceptance: P(a drafted token is the first choice of s).
        full_acceptance: P(it is that of q).
    """

    length: int = 0
    token_cost: float = 0.0
    slim_acceptance: float = 0.0
    full_acceptance: float = 0.0

    @property
    def cost(self) -> float:
        """Of one draft, in full passes."""
        return self.length * self.token_cost


def time_per_token(
    slim_cost: float,
    prefix_share: float,
    agreement: float,
    *,
    draft: DraftModel | None = None,
    max_backlog: int = 32,
) -> float:
    """Expected time of an exact greedy token, in full passes: equation (14).

    Slim steps extend a backlog, which a full pass audits: the one of the last step, resumed after
    the shared prefix, or the one that judges the next draft as well. How many steps, and which of
    the two, is chosen for the least time.

    Args:
        slim_cost: a slim pass over a full one.
        prefix_share: share of a full pass that lies in the shared prefix.
        agreement: P(a token decided by s is the first choice of q), tokens being independent.
        draft: of every step, None = no draft.
        max_backlog: most tokens between two audits.
    """
    draft = draft or DraftModel()
    step = slim_cost + draft.cost
    added = chain_tokens(draft.slim_acceptance, draft.length)
    fresh = chain_tokens(draft.full_acceptance, draft.length)
    best = math.inf
    for steps in range(1, max(1, int(max_backlog / added)) + 1):
        tokens = steps * added
        # The token after the accepted ones is q's, where a full pass belongs to the step.
        resumed = (steps * step + 1.0 - prefix_share) / (_right(agreement, tokens - 1.0) + 1.0)
        survives = math.pow(agreement, tokens)
        gained = _right(agreement, tokens) + 1.0 + survives * (fresh - 1.0)
        fused = (steps * step + draft.cost + 1.0) / gained
        best = min(best, resumed, fused)
    return best


def _right(agreement: float, tokens: float) -> float:
    """Mean length of the leading run of right ones among so many tokens."""
    if agreement >= 1.0:
        return tokens
    return agreement * (1.0 - math.pow(agreement, tokens)) / (1.0 - agreement)


def chain_tokens(acceptance: float, length: int) -> float:
    """Mean tokens of a step: accepted drafts of a chain, and the one after them."""
    return sum(math.pow(acceptance, count) for count in range(length + 1))
