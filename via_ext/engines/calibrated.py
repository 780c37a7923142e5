# SPDX-License-Identifier: Apache-2.0
"""A run under a calibrated setting: what a configuration's `agreement` picks from a route."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch

from via_ext.calibration import Calibration
from via_ext.config import ViaConfig
from via_ext.drafters.scores import Scoring
from via_ext.route import SlimRoute


class Calibrated(NamedTuple):
    """The parts of a setting that apply to a run; the others are off.

    Attributes:
        calibration: the models.
        router: packed [27] for the slim walk; None where its rule is another (mode "exact", two
            tiers).
        scoring: what the drafter is asked for.
        full_matches: see `Setting`; inf when sampling: there a row's draft must not be looked at
            before it is judged.
        audit_survival: see `Setting`; 0 where nothing is provisional.
        full_ratio: see `Setting`; 1 in mode "exact".
    """

    calibration: Calibration
    router: torch.Tensor | None
    scoring: Scoring
    full_matches: float
    audit_survival: float
    full_ratio: float


def check_device(config: ViaConfig, target: Any) -> None:
    """Refuses on CUDA what only the engine of the CPU does.

    Raises:
        ValueError: the configuration asks for it.
    """
    if next(target.parameters()).device.type != "cuda":
        return
    if config.agreement is not None:
        rule = "be None on CUDA (calibrated routing runs on the CPU engine so far)"
        raise ValueError(f"Decoder: agreement must {rule}, got {config.agreement:g}")
    if config.auto_tier:
        rule = "be False on CUDA (it is measured by the CPU engine so far)"
        raise ValueError(f"Decoder: auto_tier must {rule}, got True")


def choose_setting(
    config: ViaConfig, route: SlimRoute | None, drafter: Any, *, has_slim: bool
) -> Calibrated | None:
    """What a run follows, None without `agreement`.

    Args:
        config: the run's.
        route: with the calibration; a full one for two tiers.
        drafter: None, or what will propose.
        has_slim: there will be a slim verifier.

    Raises:
        ValueError: the route has no calibration, or none for this agreement; or the models weigh
            scores that the drafter does not give.
    """
    if config.agreement is None:
        return None
    calibration = None if route is None else route.calibration
    if calibration is None:
        got = "None" if route is None else "a route without one"
        rule = "hold a calibration where agreement is set (run `via-ext calibrate`)"
        raise ValueError(f"Decoder: route must {rule}, got {got}")
    setting = calibration.setting(config.agreement)
    router = calibration.router(config.agreement)
    via = config.mode == "via"
    survival = setting.audit_survival if has_slim and not via else 0.0
    needed = router.uses_draft and ((has_slim and via) or survival > 0.0)
    if needed and drafter is not None and not hasattr(drafter, "set_scoring"):
        rule = "have set_scoring where the calibration weighs its scores"
        raise ValueError(f"Decoder: drafter must {rule}, got {type(drafter).__name__}")
    matches = setting.full_matches if has_slim and not config.is_sampling else math.inf
    stop = calibration.acceptance if setting.draft_stop > 0.0 else None
    return Calibrated(
        calibration,
        router.pack() if has_slim and via else None,
        Scoring(needed or math.isfinite(matches), stop, setting.draft_stop),
        matches,
        survival,
        setting.full_ratio if via else 1.0,
    )
