# SPDX-License-Identifier: Apache-2.0
"""What follows from the measurements, in sentences: the verdict and what to change."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from via_ext.doctor_estimates import (
    CALIBRATED,
    LOOKUP,
    PLAIN,
    STEPWISE,
    THREE,
    TWO,
    VIA,
    BreakEven,
    Estimate,
    Lead,
)
from via_ext.doctor_evidence import GIVEN, Evidence
from via_ext.doctor_model import Choice, best_three, of_counts, two_tiers
from via_ext.route import SlimRoute

#: Gains below this are not worth a sentence.
WORTH = 0.02
#: Relative spread of a pass's time from which the machine is called busy.
BUSY = 0.25


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
    rows = found.evidence.pass_rows()
    worst = max(rows, key=lambda row: row["spread"] / row["seconds"])
    share = worst["spread"] / worst["seconds"]
    if share < BUSY:
        return []
    return [
        f"The machine was busy: the time of a {worst['pass']} pass over {_count(worst['tokens'])} "
        f"spreads by {100 * share:.0f} %. Measure again when it is idle."
    ]


def advise(found: Findings) -> list[str]:
    """What to change, by falling gain; only what the cost model says is worth it."""
    pieces = (_draft_length, _drafter, _route, _calibrate, _audits, _prefix)
    said = [piece for make in pieces for piece in make(found)]
    return [text for _, text in sorted(said, key=lambda pair: -pair[0])]


def _count(tokens: int) -> str:
    return f"{tokens} token" if tokens == 1 else f"{tokens} tokens"


Advice = list[tuple[float, str]]


def _draft_length(found: Findings) -> Advice:
    evidence, two = found.evidence, found.way(TWO)
    now = two_tiers(evidence.times(), evidence.tokens(evidence.all), evidence.draft)
    gain = now / two.seconds - 1.0
    if gain < WORTH:
        return []
    change = f"Draft {_count(two.draft)} instead of {evidence.draft}"
    return [(gain, f"{change}: two tiers {100 * gain:.0f} % faster.")]


def _drafter(found: Findings) -> Advice:
    two, plain, said = found.way(TWO), found.way(PLAIN), []
    names = [way.name for way in found.estimates]
    lookup = found.way(LOOKUP) if LOOKUP in names else None
    if lookup is not None and lookup.seconds < min(two.seconds, plain.seconds) / (1.0 + WORTH):
        gain = two.seconds / lookup.seconds - 1.0
        text = f"Draft {_count(lookup.draft)} by prompt lookup instead: two tiers "
        said.append((gain, f"{text}{100 * gain:.0f} % faster."))
    elif plain.seconds < two.seconds / (1.0 + WORTH):
        gain = two.seconds / plain.seconds - 1.0
        said.append((gain, f"Drop the drafter: plain decoding is {100 * gain:.0f} % faster."))
    return said


def _three_with(found: Findings, route: str) -> Choice:
    evidence = found.evidence
    return best_three(evidence.times(GIVEN, route), evidence.tokens(evidence.all, GIVEN, route))


def _route(found: Findings) -> Advice:
    evidence, now = found.evidence, found.way(THREE).seconds
    others = [name for name in evidence.routes if name != GIVEN]
    if not others:
        return []
    best = min(others, key=lambda name: _three_with(found, name).seconds)
    gain = now / _three_with(found, best).seconds - 1.0
    if gain < WORTH:
        return []
    times, tokens = evidence.times(GIVEN, best), evidence.tokens(evidence.all, GIVEN, best)
    width = 1 + evidence.draft
    cost = times.at("slim", width) / times.at("full", width)
    text = (
        f"Try another route: {best}, agrees on {tokens.agreement:.3f} at a slim cost "
        f"of {cost:.2f}, which makes exact three tiers {100 * gain:.0f} % faster; via-ext search "
        f"finds better ones at its skip ratio."
    )
    return [(gain, text)]


def _calibrate(found: Findings) -> Advice:
    three, steps, two = found.way(THREE), found.way(STEPWISE), found.way(TWO)
    names = [way.name for way in found.estimates]
    gain = min(steps.seconds, two.seconds) / three.seconds - 1.0
    if CALIBRATED in names or gain < WORTH:
        return []
    text = (
        f"Calibrate the route (via-ext calibrate): an audit fused with the next draft makes exact "
        f"three tiers {100 * gain:.0f} % faster than the best way without."
    )
    return [(gain, text)]


def _audits(found: Findings) -> Advice:
    """What an uncalibrated exact run should set, where it pays."""
    steps, two = found.way(STEPWISE), found.way(TWO)
    gain = two.seconds / steps.seconds - 1.0
    if gain < WORTH:
        return []
    text = (
        f"Without a calibration run mode 'exact' with max_backlog={max(1, round(steps.backlog))} "
        f"and num_draft_tokens={steps.draft}: {100 * gain:.0f} % faster than two tiers."
    )
    return [(gain, text)]


def _prefix(found: Findings) -> Advice:
    """What a longer shared prefix would save where steps escalate."""
    evidence, route = found.evidence, found.route
    shared = route.shared_prefix / route.num_layers
    more = min(0.125, 1.0 - shared)
    counts = evidence.counts(VIA, evidence.all)
    now = of_counts(evidence.times(), counts)
    tail = evidence.times().scaled({"tail": (1.0 - shared - more) / (1.0 - shared)})
    gain = now / of_counts(tail, counts) - 1.0
    if gain < WORTH or counts.straight > counts.escalated:
        return []
    text = (
        f"Search a route with a longer shared prefix (now {100 * shared:.0f} % of the layers): an "
        f"eighth of the layers more makes via {100 * gain:.0f} % faster at equal agreement and "
        f"slim cost."
    )
    return [(gain, text)]
