# SPDX-License-Identifier: Apache-2.0
"""Which candidate keeps an agreement when it decodes for real: a bisection along the frontier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from via_ext.calibration.decode import Measured, Trials
from via_ext.calibration.replay import Replay
from via_ext.calibration.report import SettingReport, make_report
from via_ext.calibration.search import (
    Point,
    cheapest,
    exact_points,
    frontier,
    lossy_points,
    two_tier_points,
)
from via_ext.calibration.stored import Calibration, Setting

#: Standard errors by which the agreement on the calibration prompts must exceed the request.
MARGIN = 1.0
#: Points of a frontier, and how far under the lowest request it reaches.
_POINTS, _BELOW = 32, 0.05


class _Line:
    """A frontier whose points are decoded when they are asked for."""

    def __init__(
        self,
        points: Sequence[Point],
        trials: Trials,
        calibration: Calibration,
        prompts: Sequence[torch.Tensor],
    ) -> None:
        self.points = points
        self._trials, self._calibration, self._prompts = trials, calibration, prompts
        self._found: dict[int, Measured] = {}
        self._begin = 0

    def measured(self, index: int, agreement: float) -> Measured:
        """Decodes the calibration prompts at a point, once."""
        if index not in self._found:
            setting = replace(self.points[index].setting, agreement=agreement)
            self._found[index] = self._trials.measure(self._calibration, setting, self._prompts)
        return self._found[index]

    def meet(self, agreement: float) -> tuple[Setting, Measured]:
        """The cheapest point that meets an agreement; requests come by falling agreement.

        The first point is exact, and agreement falls along the line.
        """
        low, high, step = self._begin, len(self.points), 1
        enough = [point.agreement >= agreement for point in self.points]
        probe, failed = enough.index(False) - 1 if False in enough else high - 1, False
        while high - low > 1:
            probe = min(max(probe, low + 1), high - 1)
            if self.measured(probe, agreement).interval(MARGIN)[0] >= agreement:
                low = probe
            else:
                high, failed = probe, True
            # From the replay's guess outwards until a point fails and one meets, then halving.
            bracketed = failed and low > self._begin
            probe = (low + high) // 2 if bracketed else low + step if not failed else high - step
            step *= 2
        self._begin = low
        found = self.measured(low, agreement)
        setting = replace(self.points[low].setting, agreement=agreement, cost=found.cost_per_token)
        return setting, found


class Chooser:
    """Chooses a setting for each agreement, by falling agreement.

    Args:
        replay: of the calibration text.
        trials: decodes for real.
        calibration: the models.
        fit: prompts to choose by.
        held: prompts to measure on.
        lossy: the agreements below 1 that will be asked for, falling.
        seed: of the search.
        has_slim: three tiers; two tiers are then the comparison.
    """

    def __init__(
        self,
        replay: Replay,
        trials: Trials,
        calibration: Calibration,
        fit: Sequence[torch.Tensor],
        held: Sequence[torch.Tensor],
        lossy: Sequence[float],
        seed: int,
        has_slim: bool,
    ) -> None:
        """Keeps the arguments; the frontiers are made when they are needed."""
        self._replay, self._trials, self._calibration = replay, trials, calibration
        self._fit, self._held, self._lossy = fit, held, lossy
        self._seed, self._has_slim = seed, has_slim
        self._lines: tuple[_Line, _Line] | None = None

    def choose(self, agreement: float) -> SettingReport:
        """Chooses by the calibration prompts, then measures on the held-out ones."""
        own, two_tier = self._exact() if agreement == 1.0 else self._lossy_pair(agreement)
        setting, other = own[0], two_tier[0]
        if not self._has_slim or two_tier[1].cost_per_token <= own[1].cost_per_token:
            setting = other
        measure = self._trials.measure
        found = measure(self._calibration, setting, self._held)
        beside = None
        if self._has_slim:
            same = setting is other
            beside = found if same else measure(self._calibration, other, self._held)
        setting = replace(setting, measured=found.agreement, interval=found.interval())
        return make_report(setting, found, beside)

    def _exact(self) -> tuple[tuple[Setting, Measured], tuple[Setting, Measured]]:
        two_tier = self._priced(cheapest(exact_points(self._replay, False, self._seed)))
        if not self._has_slim:
            return two_tier, two_tier
        best = cheapest(exact_points(self._replay, True, self._seed))
        # 0 matches: no slim pass, the very same as two tiers.
        return two_tier if best.setting.full_matches == 0.0 else self._priced(best), two_tier

    def _priced(self, point: Point) -> tuple[Setting, Measured]:
        found = self._trials.measure(self._calibration, point.setting, self._fit)
        return replace(point.setting, cost=found.cost_per_token), found

    def _lossy_pair(
        self, agreement: float
    ) -> tuple[tuple[Setting, Measured], tuple[Setting, Measured]]:
        if self._lines is None:
            self._lines = self._make_lines()
        own, two_tier = self._lines
        beside = two_tier.meet(agreement)
        return own.meet(agreement) if self._has_slim else beside, beside

    def _make_lines(self) -> tuple[_Line, _Line]:
        two_tier = two_tier_points(self._replay)
        exact = cheapest([point for point in two_tier if point.setting.full_ratio == 1.0])
        lowest = self._lossy[-1] - _BELOW
        own = two_tier
        if self._has_slim:
            own = two_tier + lossy_points(self._replay, self._lossy, self._seed)
        arguments = self._trials, self._calibration, self._fit
        first, second = (
            _Line([exact, *_without(exact, frontier(points, lowest, _POINTS))], *arguments)
            for points in (own, two_tier)
        )
        return first, second


def _without(exact: Point, points: Sequence[Point]) -> list[Point]:
    return [point for point in points if point.cost < exact.cost]
