# SPDX-License-Identifier: Apache-2.0
"""What follows from the measurements, in sentences: the verdict."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from via_ext.doctor.estimates import (
    THREE,
    TWO,
    VIA,
    BreakEven,
    Estimate,
    Lead,
)
from via_ext.doctor.evidence import Evidence
from via_ext.doctor.passes import UNSTEADY
from via_ext.route import SlimRoute


class Findings(NamedTuple):
    """What the sentences are made of."""

    evidence: Evidence
    estimates: Sequence[Estimate]
    lead: Lead
    limits: BreakEven
    route: SlimRoute

    def way(self, name: str) -> Estimate:
        """The estimate of a way."""
        return next(way for way in self.estimates if way.name == name)

    @property
    def slim_cost(self) -> float:
        """Slim pass over full pass, for a step's tokens."""
        times, width = self.evidence.times(), 1 + self.evidence.draft
        return times.at("slim", width) / times.at("full", width)

    @property
    def agreement(self) -> float:
        """Of the slim verifier, as the model uses it."""
        return self.evidence.tokens(self.evidence.all).agreement


def conclude(found: Findings) -> list[str]:
    """The verdict: what is fastest, by how much, how sure, and where it would turn."""
    return [_fastest(found), _exact_limit(found), _via(found), *_busy(found)]


def _fastest(found: Findings) -> str:
    lead = found.lead
    low, high = lead.interval
    said = (
        f"Fastest at the full model's own tokens: {lead.first}, {lead.ratio:.2f} times as fast as "
        f"{lead.second} (95 % interval {low:.2f} to {high:.2f}, ahead in {100 * lead.share:.0f} % "
        f"of the resamples)"
    )
    if low <= 1.0 <= high:
        said += ": too close to call from these prompts"
    return said + "."


def _exact_limit(found: Findings) -> str:
    limits, three, two = found.limits, found.way(THREE), found.way(TWO)
    agreement, cost = found.agreement, found.slim_cost
    ratio = two.seconds / three.seconds
    said = (
        f"Three tiers, exact, with audits fused into the next draft are {ratio:.2f} times as fast "
        f"as two tiers: slim and full verifier agree on {agreement:.3f} of the tokens, and a slim "
        f"pass takes {cost:.2f} of a full one. "
    )
    needs = []
    if limits.agreement is None:
        needs.append("no agreement is enough at this slim cost")
    else:
        needs.append(f"the agreement {limits.agreement:.3f}")
    if limits.slim_cost is None:
        needs.append("no slim cost is low enough at this agreement")
    else:
        needs.append(f"a slim cost of {limits.slim_cost:.2f}")
    return said + f"All else as measured, the two are equal at: {'; or '.join(needs)}."


def _via(found: Findings) -> str:
    via, two, limit = found.way(VIA), found.way(TWO), found.limits.escalation_rate
    counts = found.evidence.counts(VIA, found.evidence.all)
    said = (
        f"via at the default thresholds is {two.seconds / via.seconds:.2f} times as fast as two "
        f"tiers, at agreement {via.agreement:.3f}: {100 * counts.escalation_rate:.0f} % of its "
        f"slim passes are followed by a full one"
    )
    if limit is None:
        return said + ", and it would lose even if none were."
    if limit >= 1.0:
        return said + ", and it would win even if all were: its gain is leniency."
    return said + f", and at its tokens per step it wins below {100 * limit:.0f} %."


def _busy(found: Findings) -> list[str]:
    """Says so where the passes took very different times."""
    evidence = found.evidence
    rows = evidence.uncertain(list(evidence.drafters), list(evidence.routes))
    if not rows or rows[0]["share"] <= UNSTEADY:
        return []
    return [f"The machine was busy: {spread_of(rows[0], evidence)}. Measure again when it is idle."]


def spread_of(row: dict[str, Any], evidence: Evidence) -> str:
    """How much a pass's time spreads."""
    timed = evidence.attempts
    where = f"the time of a {row['pass']} pass over {counted(row['tokens'])}"
    again = f" in the steadiest of {timed} attempts" if timed > 1 else ""
    return f"{where} spreads by {100 * row['share']:.0f} %{again}"


def counted(tokens: int) -> str:
    """Tokens in words."""
    return f"{tokens} token" if tokens == 1 else f"{tokens} tokens"
