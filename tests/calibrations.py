# SPDX-License-Identifier: Apache-2.0
"""Planted calibrations for tests of the decoding loop."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from via_ext.calibration import Calibration, Setting
from via_ext.route import SlimRoute

ZERO = (0.0,) * 8
#: Spread over the probabilities of small random models: decisions fall either way.
DRAFT = (-1.0, -0.9, 0.4, -0.5, -0.3, 0.1, 0.2, -0.7)
SLIM = (-0.5, -0.2, -0.6, -0.8, 0.1, 0.1, 0.1, 0.0)
BONUS = (0.0, 0.0, -0.5, -0.9, 0.0, 0.0, 0.1, 0.0)
ACCEPTANCE = (1.5, 0.6, 0.4, -0.3)


def calibrated(
    route: SlimRoute,
    agreement: float,
    *,
    draft: tuple[float, ...] = DRAFT,
    slim: tuple[float, ...] = SLIM,
    bonus: tuple[float, ...] = BONUS,
    acceptance: tuple[float, ...] = ACCEPTANCE,
    **setting: Any,
) -> SlimRoute:
    """The route with a calibration of one setting."""
    found = Calibration(draft, slim, bonus, acceptance, (Setting(agreement, **setting),))
    return replace(route, calibration=found)
