# SPDX-License-Identifier: Apache-2.0
"""`Calibration`: what `calibrate` learned about a route, as stored in the route file."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from via_ext.router import FEATURES, Router, weights_of

VERSION = 1
#: What the acceptance model sees, after its bias: of the drafter alone, before any verifier.
DRAFT_FEATURES = ("log_draft", "draft_margin", "depth")


@dataclass(frozen=True)
class Setting:
    """The routing that keeps one agreement.

    Attributes:
        agreement: asked for: the share of emitted tokens that are the full model's first choice in
            their own context, in (0, 1]; 1 is the exact mode's.
        accept_error: see `Router`; the three are not used at agreement 1.
        regenerate_error: see `Router`.
        bonus_error: see `Router`.
        draft_stop: a chain is drafted while the product of the predicted acceptances is at least
            this; 0 = always to its full length. In [0, 1].
        full_matches: the slim pass is left out and the full model judges the draft if at least so
            many draft tokens are expected to be right; inf = never. Greedy only.
        audit_survival: exact and audit only: the full pass is called, on the backlog and the fresh
            draft at once, when the whole backlog is right with less than this probability; 0 = only
            when the backlog is full. In [0, 1].
        full_ratio: the full model takes a drafted token x if q(x) / max q is at least this; 1 = its
            first choice only. In (0, 1].
        measured: agreement on held-out text, None if it was not measured.
        interval: its 95 % confidence interval, None likewise.
        cost: modelled cost in full passes per token on the calibration text, None likewise.

    Raises:
        TypeError: a field is no number, or `interval` no pair of them.
        ValueError: a number is out of its range.
    """

    agreement: float
    accept_error: float = -1.0
    regenerate_error: float = -1.0
    bonus_error: float = -1.0
    draft_stop: float = 0.0
    full_matches: float = math.inf
    audit_survival: float = 0.0
    full_ratio: float = 1.0
    measured: float | None = None
    interval: tuple[float, float] | None = None
    cost: float | None = None

    def __post_init__(self) -> None:
        """Check types and ranges."""
        for name in ("measured", "cost"):
            if getattr(self, name) is not None:
                self._number(name)
        for name, low_open in (("agreement", True), ("full_ratio", True)):
            self._unit(name, low_open)
        for name in ("draft_stop", "audit_survival"):
            self._unit(name, False)
        for name in ("accept_error", "regenerate_error", "bonus_error"):
            if not self._number(name) <= 1.0:
                raise ValueError(f"Setting: {name} must be at most 1, got {getattr(self, name)}")
        if not self._number("full_matches") >= 0.0:
            raise ValueError(f"Setting: full_matches must be at least 0, got {self.full_matches}")
        if self.interval is not None:
            ends: object = self.interval
            if not isinstance(ends, tuple | list) or not all(map(_is_number, ends)):
                raise TypeError(f"Setting: interval must be a pair of numbers, got {ends!r}")
            if len(ends) != 2:
                raise ValueError(f"Setting: interval must hold 2 numbers, got {len(ends)}")
            object.__setattr__(self, "interval", tuple(ends))

    def _number(self, name: str) -> float:
        value: object = getattr(self, name)
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise TypeError(f"Setting: {name} must be a number, got {value!r}")
        return value

    def _unit(self, name: str, low_open: bool) -> None:
        value = self._number(name)
        if not (0.0 < value <= 1.0 if low_open else 0.0 <= value <= 1.0):
            rule = f"be in {'(' if low_open else '['}0, 1]"
            raise ValueError(f"Setting: {name} must {rule}, got {value}")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


@dataclass(frozen=True)
class Calibration:
    """Models of a target, its slim route and a drafter, and a setting for each agreement.

    Attributes:
        draft: weights of `Router.draft`.
        slim: weights of `Router.slim`.
        bonus: weights of `Router.bonus`.
        acceptance: bias and weights [4] of P(the full model would choose this draft token), from
            `DRAFT_FEATURES`.
        settings: by falling agreement.
        facts: where it comes from: tokens, text hash, drafter, date; for people and reports.
    """

    draft: tuple[float, ...]
    slim: tuple[float, ...]
    bonus: tuple[float, ...]
    acceptance: tuple[float, ...]
    settings: tuple[Setting, ...]
    facts: dict[str, Any] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        """Check the weights; sort the settings."""
        for name in ("draft", "slim", "bonus"):
            object.__setattr__(self, name, weights_of("Calibration", name, getattr(self, name)))
        count = 1 + len(DRAFT_FEATURES)
        weights = weights_of("Calibration", "acceptance", self.acceptance, count)
        object.__setattr__(self, "acceptance", weights)
        for setting in self.settings:
            if not isinstance(setting, Setting):
                raise TypeError(f"Calibration: settings must hold Setting, got {setting!r}")
        if not isinstance(self.facts, dict):
            raise TypeError(f"Calibration: facts must be a dict, got {self.facts!r}")
        ordered = sorted(self.settings, key=lambda setting: -setting.agreement)
        object.__setattr__(self, "settings", tuple(ordered))

    def setting(self, agreement: float) -> Setting:
        """The setting for an agreement.

        Raises:
            ValueError: there is none; the text names those there are.
        """
        for setting in self.settings:
            if math.isclose(setting.agreement, agreement, abs_tol=1e-9):
                return setting
        known = ", ".join(f"{setting.agreement:g}" for setting in self.settings) or "none"
        rule = f"be one the route was calibrated for ({known}): run `via-ext calibrate`"
        raise ValueError(f"Calibration: agreement must {rule}, got {agreement:g}")

    def router(self, agreement: float) -> Router:
        """The router of a setting; see `setting` for the error."""
        chosen = self.setting(agreement)
        limits = (chosen.accept_error, chosen.regenerate_error, chosen.bonus_error)
        return Router(self.draft, self.slim, self.bonus, *limits)

    def to_dict(self) -> dict[str, Any]:
        """For a route file; infinite numbers become None."""
        data: dict[str, Any] = {"version": VERSION, "features": list(FEATURES)}
        data |= asdict(self)
        for setting in data["settings"]:
            if math.isinf(setting["full_matches"]):
                setting["full_matches"] = None
        return data

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Calibration:
        """What `to_dict` wrote.

        Raises:
            ValueError: another version or other features.
            TypeError, KeyError: a field is missing, unknown or of another type.
        """
        if not isinstance(data, dict):
            raise TypeError(f"calibration must be an object, got {data!r}")
        data = dict(data)
        version, features = data.pop("version"), tuple(data.pop("features"))
        if version != VERSION or features != FEATURES:
            raise ValueError(f"calibration must be of version {VERSION}, got {version!r}")
        settings = []
        for entry in data.pop("settings"):
            if not isinstance(entry, dict):
                raise TypeError(f"settings must hold objects, got {entry!r}")
            if entry.get("full_matches") is None:
                entry = {**entry, "full_matches": math.inf}
            settings.append(Setting(**entry))
        names = ("draft", "slim", "bonus", "acceptance")
        data |= {name: tuple(data[name]) for name in names}
        return cls(settings=tuple(settings), **data)
