# SPDX-License-Identifier: Apache-2.0
"""Scores the routes that a search proposes, one after the other."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator

from via_ext.search.objective import Objective
from via_ext.search.proposals import Proposal
from via_ext.search.result import Trial
from via_ext.search.space import RouteSpace
from via_ext.search.study import Study

Progress = Callable[[Trial, Trial], None]


class Run:
    """Scores what is proposed, or finds it in the study.

    Attributes:
        trials: so far.
        best: the best candidate.
        interrupted: True after Ctrl-C.
    """

    best: Trial

    def __init__(
        self, space: RouteSpace, score: Objective, store: Study, progress: Progress | None
    ) -> None:
        """Nothing is scored yet."""
        self._space, self._score, self._store = space, score, store
        self._progress = progress
        self.trials: list[Trial] = []
        self.interrupted = False

    def go(
        self, proposals: Generator[Proposal, float, None], limit: int, patience: int | None
    ) -> None:
        """Runs until the limit, the patience or the proposals end, or Ctrl-C."""
        proposal = next(proposals)
        since = 0  # the best trial
        try:
            while True:
                trial = self._trial(proposal)
                self.trials.append(trial)
                since += 1
                if trial.candidate and (trial.number == 0 or trial.value < self.best.value):
                    self.best, since = trial, 0
                if self._progress is not None:
                    self._progress(trial, self.best)
                # The sensitivity pass brings no better route, and is no reason to stop.
                searching = trial.kind not in ("initial", "sensitivity")
                since = since if searching else 0
                if len(self.trials) >= limit or (patience is not None and since >= patience):
                    return
                proposal = proposals.send(trial.value)
        except StopIteration:
            return
        except KeyboardInterrupt:
            if not self.trials:
                raise
            self.interrupted = True

    def _trial(self, proposal: Proposal) -> Trial:
        kind, skips = proposal.kind, sorted(proposal.skips)
        number = len(self.trials)
        stored = self._store.find(number, kind, skips)
        route = self._space.route(proposal.skips)
        if stored is None:
            begin = time.perf_counter()
            score = self._score(route)
            if math.isnan(score.value):
                raise ValueError(f"search_route: target must give numbers, got NaN for {route}")
            stored = {"kind": kind, "skips": skips, "value": score.value}
            stored |= {"agreement": score.agreement, "seconds": time.perf_counter() - begin}
            self._store.append(stored)
        candidate = self._space.count in (None, len(skips))
        numbers = stored["value"], stored["agreement"], stored["seconds"]
        return Trial(number, kind, route, *numbers, candidate)
