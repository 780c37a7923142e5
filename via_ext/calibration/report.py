# SPDX-License-Identifier: Apache-2.0
"""What a calibration reports: per agreement, and about its models."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from via_ext.calibration.decode import Measured
from via_ext.calibration.fit import FitQuality
from via_ext.calibration.stored import Setting
from via_ext.route import SlimRoute


@dataclass(frozen=True)
class SettingReport:
    """One agreement, decoded on held-out prompts. Costs are modelled, in full passes per token.

    Attributes:
        agreement: asked for.
        setting: chosen; its `cost` is that on the calibration prompts.
        measured: agreement on the held-out prompts.
        interval: its 95 % confidence interval, clustered by prompt.
        cost: on the held-out prompts; plain decoding costs 1.
        two_tier_cost: of calibrated two-tier decoding for the same agreement on the same prompts;
            None where two tiers are what was calibrated.
        two_tier_measured: its agreement there.
        accept: share of the slim verifier's verdicts; the same for the next two. All 0 without.
        regenerate: see `accept`.
        escalate: see `accept`.
        straight: share of the steps without a slim pass.
    """

    agreement: float
    setting: Setting
    measured: float
    interval: tuple[float, float]
    cost: float
    two_tier_cost: float | None
    two_tier_measured: float | None
    accept: float
    regenerate: float
    escalate: float
    straight: float

    @property
    def speedup(self) -> float:
        """Modelled, over plain decoding."""
        return 1.0 / self.cost

    @property
    def gain(self) -> float | None:
        """Modelled speed-up over calibrated two tiers, None if that was not measured."""
        return None if self.two_tier_cost is None else self.two_tier_cost / self.cost

    @property
    def skips_slim(self) -> bool:
        """True if the setting never makes a slim pass: two tiers are the cheaper choice."""
        return self.straight == 1.0

    def to_dict(self) -> dict[str, Any]:
        """All fields and the speed-ups, ready for JSON."""
        data = asdict(self)
        setting = data["setting"]
        if setting["full_matches"] == float("inf"):
            setting["full_matches"] = None
        return {**data, "speedup": self.speedup, "gain": self.gain}


@dataclass(frozen=True)
class Calibrated:
    """A route with its calibration, and how that was come by.

    Attributes:
        route: with `SlimRoute.calibration`; save it.
        reports: one per finished agreement, falling.
        quality: of each model on held-out text it was not fitted on.
        refitted: the models were fitted again on text of the lossy decoder itself, which predicted
            such text better; None if that was not tried.
        finished: False if interrupted: the reports are those of the agreements done by then.
    """

    route: SlimRoute
    reports: tuple[SettingReport, ...]
    quality: dict[str, FitQuality]
    refitted: bool | None
    finished: bool = True

    def to_dict(self) -> dict[str, Any]:
        """Reports and qualities, ready for JSON."""
        return {
            "reports": [report.to_dict() for report in self.reports],
            "quality": {name: found.to_dict() for name, found in self.quality.items()},
            "refitted": self.refitted,
            "finished": self.finished,
        }


def make_report(setting: Setting, found: Measured, two_tier: Measured | None) -> SettingReport:
    """The report of a setting that was decoded on held-out prompts."""
    slim = found.slim_passes / found.steps if found.steps else 0.0
    accept, regenerate, escalate = found.shares
    return SettingReport(
        setting.agreement,
        setting,
        found.agreement,
        found.interval(),
        found.cost_per_token,
        None if two_tier is None else two_tier.cost_per_token,
        None if two_tier is None else two_tier.agreement,
        accept,
        regenerate,
        escalate,
        1.0 - slim,
    )
