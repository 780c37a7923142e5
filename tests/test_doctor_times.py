# SPDX-License-Identifier: Apache-2.0
"""Times not to be trusted: wild sizes, unsteady passes, attempts, advice that is withheld."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import cycle

import pytest

pytest.importorskip("transformers")

from tests.test_doctor_model import evidence
from via_ext.doctor.advice import advise
from via_ext.doctor.estimates import break_even, estimate
from via_ext.doctor.evidence import GIVEN, Evidence
from via_ext.doctor.findings import Findings, conclude
from via_ext.doctor.passes import Case, Timings, time_cases
from via_ext.route import SlimRoute

ROUTE = SlimRoute((True, False, True, True), (True, True, False, True))


def test_one_wild_size_lifts_no_other() -> None:
    """Neighbours that contradict each other share the median of their samples."""
    found = Timings()
    for tokens, seconds in ((1, 5.0), (6, 1.0), (9, 1.1), (12, 1.2)):
        for factor in (0.99, 1.0, 1.01):
            found.add("full", tokens, factor * seconds)
    curve = dict(found.curves()["full"])
    assert curve[1] == curve[6] == curve[9] == 1.1 and curve[12] == 1.2


def test_spreads_that_decide_nothing_are_no_matter() -> None:
    found = Timings()
    for factor in (0.5, 0.8, 1.0, 1.2, 1.5):
        found.add("draft", 1, factor * 1e-3)
        found.add("full", 1, 1.0)
    assert found.longest == 1.0 and found.uncertain(0.01) == []
    (row,) = found.uncertain(1e-4)
    assert row["pass"] == "draft" and row["share"] == pytest.approx(row["spread"] / 1e-3)
    assert row["error"] == pytest.approx(1.2533 * row["share"] / 5**0.5, rel=1e-3)


def cases(attempts: Sequence[Sequence[float]], calls: list[int]) -> dict[str, list[Case]]:
    """One steady pass, and one whose samples are given by attempt."""

    def samples() -> Iterator[float]:
        for values in attempts:
            yield from values

    stream = samples()

    def run() -> float:
        calls.append(1)
        return next(stream)

    steady: Callable[[], float] = cycle([1.0]).__next__
    return {"full": [("full", 1, steady)], "route": [("slim", 1, run)]}


WILD, CALMER, CALM = (0.5, 2.0, 0.5, 2.0), (0.5, 1.0, 0.5, 1.0), (0.5, 0.5, 0.51, 0.5)


@pytest.mark.parametrize(
    ("attempts", "used", "kept"),
    [
        ([CALM], 1, CALM),
        ([WILD, CALM], 2, CALM),
        ([WILD, CALMER, WILD], 3, CALMER),
        ([CALMER, WILD, WILD], 3, CALMER),
    ],
)
def test_unsteady_passes_are_timed_again(
    attempts: list[tuple[float, ...]],
    used: int,
    kept: tuple[float, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And the steadiest attempt is kept, as a whole."""
    for name, value in (("WARM_UP", 0), ("MIN_REPEATS", 4), ("MAX_REPEATS", 4)):
        monkeypatch.setattr(f"via_ext.doctor.passes.{name}", value)
    calls: list[int] = []
    found, count = time_cases(cases(attempts, calls))
    assert count == used and len(calls) == 4 * used
    assert tuple(found["route"].samples["slim"][1]) == kept
    assert found["full"].samples["full"][1] == [1.0] * 4


def findings(found: Evidence) -> Findings:
    ways, lead = estimate(found, seed=1)
    return Findings(found, ways, lead, break_even(found), ROUTE)


def shake(found: Timings, kind: str, share: float) -> None:
    """The same medians with a relative spread of about `share`."""
    for tokens, values in found.samples[kind].items():
        middle = sorted(values)[len(values) // 2]
        offsets = [0.0, *(sign * share for sign in (-1, -1, -0.5, 0.5, 1, 1))]
        found.samples[kind][tokens] = [middle * (1.0 + offset) for offset in offsets]


def test_steady_passes_withhold_nothing() -> None:
    given = evidence(97)
    advice, withheld = advise(findings(given))
    assert len(advice) >= 3 and withheld == []
    assert not any("busy" in sentence for sentence in conclude(findings(given)))


def test_gains_below_the_spread_are_withheld_with_the_reason() -> None:
    """Of the full model's pass, on which everything rests, and the verdict says so."""
    given = evidence(97)
    calm, _ = advise(findings(given))
    shake(given.full, "full", 0.25)
    given.attempts = 3
    advice, withheld = advise(findings(given))
    # The largest gain stands above the spread, the two others do not.
    assert advice == calm[:1] and len(withheld) == len(calm) - 1 == 2
    for sentence in withheld:
        assert "while the time of a full pass over" in sentence
        assert "in the steadiest of 3 attempts" in sentence
    assert any("The machine was busy: the time of a full" in s for s in conclude(findings(given)))


def test_gains_below_the_error_are_withheld() -> None:
    """A spread that is no disturbance still is an error: a gain within it is none."""
    given = evidence(97)
    calm, _ = advise(findings(given))
    shake(given.routes[GIVEN], "slim", 0.12)
    advice, withheld = advise(findings(given))
    assert advice == calm[:1] and len(withheld) == 2
    assert all("the standard error of a pass's time is" in s for s in withheld)
    assert not any("busy" in sentence for sentence in conclude(findings(given)))
