# SPDX-License-Identifier: Apache-2.0
"""The cost model of `diagnose`: expected seconds per token of each way to decode, one request.

Pure arithmetic on measured pass times and measured token statistics; equations (31) to (37) of
docs/design.md, section 15.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from via_ext.doctor.figures import Counts, Times, Tokens

#: A route's survival is followed to this many unaudited tokens, the default `max_backlog`.
MAX_BACKLOG = 32
MAX_ROUNDS = 16


@dataclass(frozen=True)
class Choice:
    """A way to decode and what it costs.

    Attributes:
        seconds: per token.
        draft: drafted tokens per step.
        rounds: slim steps between two full passes; 0 without a slim tier.
        backlog: tokens that they leave to the audit, on average.
    """

    seconds: float
    draft: int = 0
    rounds: int = 0
    backlog: float = field(default=0.0)


def plain(times: Times) -> float:
    """Equation (31): one full pass a token."""
    return times.at("full", 1) + times.host["plain"]


def two_tiers(times: Times, tokens: Tokens, draft: int) -> float:
    """Equation (32): a draft and one full pass, for the accepted tokens and one more."""
    seconds = times.at("draft", draft) if draft else 0.0
    seconds += times.at("full", 1 + draft) + times.host["two"]
    return seconds / tokens.gain(draft)


def three_exact(
    times: Times, tokens: Tokens, draft: int, rounds: int, fused: bool = True
) -> Choice:
    """Equations (34) and (35): slim steps, then one full pass that audits them.

    Args:
        times: of this route.
        tokens: with this route.
        draft: drafted tokens per step.
        rounds: slim steps, at least 1.
        fused: the full pass judges a fresh draft as well (a calibrated route); else it follows the
            last slim pass in the same step, resumed.
    """
    drafting = times.at("draft", draft) if draft else 0.0
    step = drafting + times.at("slim", 1 + draft) + times.host["slim"]
    backlog = rounds * tokens.slim_gain(draft) - (0 if fused else 1)
    width = backlog + 1 + (draft if fused else 0)
    kept, survives = tokens.kept(backlog), tokens.survival(backlog)
    if not fused:
        # Its host work is that of the slim step it belongs to.
        seconds, new = times.at("tail", width), kept + 1.0
    else:
        seconds = drafting + times.at("prefix", 1 + draft) + times.at("tail", width)
        seconds += times.host["slim"]
        new = kept + survives * tokens.gain(draft) + 1.0 - survives
    return Choice((rounds * step + seconds) / new, draft, rounds, backlog)


def of_counts(times: Times, counts: Counts, escalation_rate: float = -1.0) -> float:
    """Equation (36): a run's passes at their measured times, per token.

    Args:
        times: of the route the run used.
        counts: of the run.
        escalation_rate: instead of the run's own, at the same tokens per step; negative = its own.
    """
    if escalation_rate < 0.0:
        escalation_rate = counts.escalation_rate
    escalated = escalation_rate * counts.slim_passes
    draft, full = counts.draft, max(1, counts.full_passes)
    width = 1 + draft + min(MAX_BACKLOG, counts.slim_tokens / full)
    seconds = counts.steps * (times.host["slim"] + (times.at("draft", draft) if draft else 0.0))
    seconds += counts.slim_passes * times.at("slim", 1 + draft)
    seconds += (escalated + counts.straight) * times.at("tail", width)
    seconds += counts.straight * times.at("prefix", 1 + draft)
    return seconds / max(1, counts.tokens)


def best_two(times: Times, tokens: Tokens) -> Choice:
    """The draft length with the least (32)."""
    lengths = range(1, len(tokens.accepted) + 1)
    best = min(lengths, key=lambda draft: two_tiers(times, tokens, draft))
    return Choice(two_tiers(times, tokens, best), best)


def best_three(times: Times, tokens: Tokens, fused: bool = True) -> Choice:
    """The draft length and the number of slim steps with the least (34), or (35)."""
    found = []
    for draft in range(len(tokens.slim_accepted) + 1):
        most = int(MAX_BACKLOG / tokens.slim_gain(draft))
        for rounds in range(1, max(1, min(MAX_ROUNDS, most)) + 1):
            found.append(three_exact(times, tokens, draft, rounds, fused))
    return min(found, key=lambda choice: choice.seconds)


def turning_point(wins: Callable[[float], bool], worst: float, best: float) -> float | None:
    """The value nearest to `worst` at which `wins` still holds, by bisection.

    Args:
        wins: monotone between the two.
        worst: where it holds last, if at all.
        best: where it holds first.

    Returns:
        `worst` if it holds everywhere, None if it holds nowhere.
    """
    if wins(worst):
        return worst
    if not wins(best):
        return None
    for _ in range(40):
        middle = 0.5 * (worst + best)
        if wins(middle):
            best = middle
        else:
            worst = middle
    return best
