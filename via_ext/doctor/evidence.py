# SPDX-License-Identifier: Apache-2.0
"""`Evidence`: all that `diagnose` measured, and sums of it over some of the texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from via_ext.doctor.figures import Counts, Times, Tokens
from via_ext.doctor.passes import Timings, negligible
from via_ext.doctor.text import Tally

#: The routes and drafters of an `Evidence`: those that were given, and those tried beside them.
GIVEN, OWN_LOOKUP = "given", "prompt lookup"


@dataclass
class Evidence:
    """All that was measured.

    Attributes:
        draft: `num_draft_tokens`.
        tallies: per drafter and route, one tally per text.
        runs: counts of sample runs with the given route, one per text, by name.
        host: see `Times`.
        full: timings of full passes.
        drafters: timings of drafting, by drafter.
        routes: timings of slim, tail and prefix passes, by route.
        attempts: times that the passes were timed; the steadiest is kept.
    """

    draft: int
    tallies: dict[tuple[str, str], list[Tally]]
    runs: dict[str, list[Counts]]
    host: dict[str, float]
    full: Timings = field(default_factory=Timings)
    drafters: dict[str, Timings] = field(default_factory=dict)
    routes: dict[str, Timings] = field(default_factory=dict)
    attempts: int = 1

    @property
    def num_texts(self) -> int:
        """Texts behind every tally and run."""
        return len(self.tallies[GIVEN, GIVEN])

    def times(self, drafter: str = GIVEN, route: str = GIVEN) -> Times:
        """Pass times with a drafter and a route."""
        found = [self.full, self.drafters[drafter], self.routes[route]]
        curves = {kind: curve for part in found for kind, curve in part.curves().items()}
        return Times(curves, self.host)

    def errors(self) -> dict[str, float]:
        """Relative standard errors by kind of pass."""
        parts = [self.full, self.drafters[GIVEN], self.routes[GIVEN]]
        return {kind: error for part in parts for kind, error in part.errors().items()}

    def tally(self, picks: Sequence[int], drafter: str = GIVEN, route: str = GIVEN) -> Tally:
        """Counts over some texts."""
        found = self.tallies[drafter, route]
        total = found[picks[0]]
        for pick in picks[1:]:
            total = total.plus(found[pick])
        return total

    def tokens(self, picks: Sequence[int], drafter: str = GIVEN, route: str = GIVEN) -> Tokens:
        """Token statistics over some texts."""
        return self.tally(picks, drafter, route).tokens

    def counts(self, name: str, picks: Sequence[int]) -> Counts:
        """Counts of a sample run over some texts."""
        total = Counts()
        for pick in picks:
            total = total.plus(self.runs[name][pick])
        return total

    def pass_rows(self) -> list[dict[str, Any]]:
        """Every timed pass of the given drafter and route, ready for JSON."""
        parts = (self.full, self.routes[GIVEN], self.drafters[GIVEN])
        return [row for part in parts for row in part.rows()]

    def uncertain(self, drafters: Sequence[str], routes: Sequence[str]) -> list[dict[str, Any]]:
        """Passes whose spread is not negligible, the largest relative one first.

        Args:
            drafters: whose passes count.
            routes: the same; those of the full model always do.
        """
        limit = negligible((self.full, *self.drafters.values(), *self.routes.values()))
        parts = [self.full, *(self.drafters[name] for name in drafters)]
        parts += [self.routes[name] for name in routes]
        rows = [row for part in parts for row in part.uncertain(limit)]
        return sorted(rows, key=lambda row: -row["share"])

    @property
    def all(self) -> list[int]:
        """Every text once."""
        return list(range(self.num_texts))
