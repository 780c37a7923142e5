# SPDX-License-Identifier: Apache-2.0
"""Which pass a row takes, decided before the slim pass.

A row goes straight to the full model, which then reads its backlog and the fresh draft in one pass,
for one of these reasons: its backlog is full; `auto_tier` has the slim tier off; greedy only, the
draft looks good enough without a slim pass (`full_matches`); exact and audit only, what is
provisional has probably failed already (`audit_survival`). None of them looks at a draft whose
tokens are drawn: the reasons of exact sampling are the backlog's length, tokens that are resolved,
and time.
"""

from __future__ import annotations

import torch

from via_ext.config import ViaConfig
from via_ext.drafters.scores import predicted_acceptance
from via_ext.engines.auto_tier import TierSwitch
from via_ext.engines.calibrated import Calibrated
from via_ext.engines.draft import Draft
from via_ext.engines.request import Request
from via_ext.engines.slim import SlimWalk
from via_ext.engines.survival import walk_survival


class Plan:
    """The reasons of one run, and what they need to remember.

    Args:
        config: the run's.
        calibrated: its setting, None = no calibrated reason.
        switch: of `auto_tier`, None = always on.
        rows: batch rows.
    """

    def __init__(
        self,
        config: ViaConfig,
        calibrated: Calibrated | None,
        switch: TierSwitch | None,
        rows: int,
    ) -> None:
        """Starts with empty backlogs."""
        self._config = config
        self._calibrated = calibrated
        self._switch = switch
        self._survival = [1.0] * rows
        self._slim_is_on = True
        if switch is not None:
            switch.start_run()

    def begin_step(self) -> None:
        """Asks `auto_tier`, before anything is drafted."""
        self._slim_is_on = self._switch is None or self._switch.use_slim()

    def takes_slim(self, request: Request, draft: Draft) -> bool:
        """True if the request's step begins with a slim pass."""
        if not self._slim_is_on or request.backlog >= self._config.max_backlog:
            return False
        calibrated = self._calibrated
        if calibrated is None:
            return True
        if self._survival[request.row] < calibrated.audit_survival:
            return False
        return self._expected_matches(draft, calibrated) < calibrated.full_matches

    def note_walk(self, request: Request, draft: Draft, walk: SlimWalk) -> None:
        """Takes in the tokens that a slim walk left provisional."""
        calibrated = self._calibrated
        if calibrated is not None and calibrated.audit_survival > 0.0:
            found = walk_survival(calibrated.calibration, draft, walk, self._config.temperature)
            self._survival[request.row] *= found

    def note_full(self, request: Request) -> None:
        """A full pass has judged all of the request."""
        self._survival[request.row] = 1.0

    def end_step(
        self, seconds: float, tokens: int, escalated: int, backlog: int
    ) -> list[dict[str, int | float | bool]]:
        """Tells `auto_tier` what the step cost; arguments as of `TierSwitch.record`.

        Returns:
            The changes of this run so far.
        """
        if self._switch is None:
            return []
        self._switch.record(seconds, tokens, escalated=escalated, backlog=backlog)
        return [change.to_dict() for change in self._switch.changes]

    @staticmethod
    def _expected_matches(draft: Draft, calibrated: Calibrated) -> float:
        """Draft tokens that the full model is expected to keep.

        A node counts with the product of the acceptances on its path: siblings exclude each other.
        """
        if calibrated.full_matches == torch.inf or draft.scores is None or not draft.tokens:
            return 0.0
        weights, tree = calibrated.calibration.acceptance, draft.tree
        depths = torch.tensor(tree.depths, dtype=torch.float64)
        found = predicted_acceptance(weights, draft.scores[0].cpu(), depths)
        chances: list[float] = found.tolist()
        for node, parent in enumerate(tree.parents):
            known = chances[node] if draft.tokens[node] >= 0 else 0.0
            chances[node] = known if parent < 0 else known * chances[parent]
        return sum(chances)
