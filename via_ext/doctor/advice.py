# SPDX-License-Identifier: Apache-2.0
"""What follows from the measurements, in sentences: what to change, and what is not said."""

from __future__ import annotations

from collections.abc import Callable

from via_ext.doctor.estimates import CALIBRATED, LOOKUP, PLAIN, STEPWISE, THREE, TWO, VIA
from via_ext.doctor.evidence import GIVEN
from via_ext.doctor.findings import Findings, counted, spread_of
from via_ext.doctor.model import Choice, best_three, of_counts, two_tiers
from via_ext.doctor.passes import UNSTEADY

#: Gains and sentences.
Advice = list[tuple[float, str]]
#: Gains below this are not worth a sentence.
WORTH = 0.02


def advise(found: Findings) -> tuple[list[str], list[str]]:
    """What to change, and what is withheld because the times it rests on are too uncertain.

    A gain has to be larger than the standard error of the times, and than the spread of one that is
    unsteady.

    Returns:
        Advice by falling gain, only what the cost model says is worth it; and reasons.
    """
    evidence = found.evidence
    drafters, routes, given = list(evidence.drafters), list(evidence.routes), [GIVEN]
    pieces: tuple[tuple[str, Callable[[Findings], Advice], list[str], list[str]], ...] = (
        ("the length of the draft", _draft_length, given, []),
        ("the drafter", _drafter, drafters, []),
        ("other routes", _route, given, routes),
        ("calibration", _calibrate, given, given),
        ("audits", _audits, given, given),
        ("the shared prefix", _prefix, given, given),
    )
    said, withheld = [], []
    for topic, make, *parts in pieces:
        rows = evidence.uncertain(*parts)
        limit = max((row["error"] for row in rows), default=0.0)
        why = f"the standard error of a pass's time is {100 * limit:.1f} %"
        if rows and rows[0]["share"] > UNSTEADY:
            limit, why = rows[0]["share"], spread_of(rows[0], evidence)
        for gain, text in make(found):
            if gain > limit:
                said.append((gain, text))
            else:
                withheld.append(f"On {topic}: a gain of {100 * gain:.1f} %, while {why}.")
    return [text for _, text in sorted(said, key=lambda pair: -pair[0])], withheld


def _draft_length(found: Findings) -> Advice:
    evidence, two = found.evidence, found.way(TWO)
    now = two_tiers(evidence.times(), evidence.tokens(evidence.all), evidence.draft)
    gain = now / two.seconds - 1.0
    if gain < WORTH:
        return []
    change = f"Draft {counted(two.draft)} instead of {evidence.draft}"
    return [(gain, f"{change}: two tiers {100 * gain:.0f} % faster.")]


def _drafter(found: Findings) -> Advice:
    two, plain, said = found.way(TWO), found.way(PLAIN), []
    names = [way.name for way in found.estimates]
    lookup = found.way(LOOKUP) if LOOKUP in names else None
    if lookup is not None and lookup.seconds < min(two.seconds, plain.seconds) / (1.0 + WORTH):
        gain = two.seconds / lookup.seconds - 1.0
        text = f"Draft {counted(lookup.draft)} by prompt lookup instead: two tiers "
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
