# SPDX-License-Identifier: Apache-2.0
"""What a route search returns: the route, how it was found, every trial, two figures."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from via_ext.route import SlimRoute
from via_ext.search.space import Sublayer

#: Kinds of trials: a start without knowledge (or the caller's), one sublayer skipped alone, the
#: least sensitive ones skipped, a step of the local search, a jump of it, a proposal of TPE.
KINDS = ("initial", "sensitivity", "start", "swap", "restart", "tpe")
_UNITS = {"latency": "full passes per token"}


@dataclass(frozen=True)
class Trial:
    """One route that was scored.

    Attributes:
        number: 0 for the first.
        kind: one of `KINDS`.
        route: its masks.
        value: of the objective, smaller is better.
        agreement: share of tokens where slim and full verifier have the same first choice.
        seconds: that scoring took; where a study was resumed, when it was first scored.
        candidate: False if the search may not return it, having another number of skips.
    """

    number: int
    kind: str
    route: SlimRoute
    value: float
    agreement: float
    seconds: float
    candidate: bool


@dataclass(frozen=True)
class RouteSearch:
    """Result of `search_route`.

    Attributes:
        route: the best one, with the model's fingerprint; `route.facts` tells how it was found.
        cost: its value of the objective: nats per token, or full passes per token.
        delta: C(q || p) - C(s || p) - C(q || s) over the text, in nats: the slim tier should pay
            if it is positive. None without a drafter, or where the search was interrupted.
        trials: every one, in order.
        interrupted: True if it was stopped by Ctrl-C.
    """

    route: SlimRoute
    cost: float
    delta: float | None
    trials: tuple[Trial, ...]
    interrupted: bool = False

    @property
    def sensitivity(self) -> dict[Sublayer, float]:
        """The objective with one sublayer skipped, for those the search may skip."""
        found = {}
        for trial in self.trials:
            if trial.kind == "sensitivity":
                masks = (("attention", trial.route.keep_attention), ("mlp", trial.route.keep_mlp))
                for part, mask in masks:
                    if not all(mask):
                        found[Sublayer(mask.index(False), part)] = trial.value
        return found

    @property
    def best_values(self) -> list[float]:
        """The best value of a candidate so far, after each trial; infinite before the first."""
        best, found = float("inf"), []
        for trial in self.trials:
            if trial.candidate:
                best = min(best, trial.value)
            found.append(best)
        return found

    def table(self) -> str:
        """The result as aligned lines."""
        facts = self.route.facts
        rows: dict[str, Any] = {name: value for name, value in facts.items() if value is not None}
        rows["skipped attention"] = _layers(self.route.keep_attention)
        rows["skipped mlp"] = _layers(self.route.keep_mlp)
        width = max(map(len, rows))
        return "\n".join(f"{name:<{width}}  {_show(value)}" for name, value in rows.items())

    def plot(self, folder: str | os.PathLike[str]) -> list[Path]:
        """Draw the best value against the trials, and the sensitivity of each sublayer.

        Args:
            folder: made where it is missing.

        Returns:
            The two PNG files written.

        Raises:
            ImportError: matplotlib is not installed.
        """
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            raise ImportError(
                'RouteSearch.plot needs matplotlib: pip install "via_ext[plot]"', name="matplotlib"
            ) from error
        place = Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        name = self.route.facts["objective"]
        label = f"{name.replace('_', ' ')}, {_UNITS.get(name, 'nats per token')}"
        paths = [place / "route_search_trials.png", place / "route_search_sensitivity.png"]
        for path, draw in zip(paths, (self._draw_trials, self._draw_sensitivity), strict=True):
            # Not pyplot: it keeps figures, and may want a display.
            figure = Figure(figsize=(7.0, 4.0), layout="constrained")
            axes = figure.subplots()
            draw(axes)
            axes.set_ylabel(label)
            figure.savefig(path, dpi=150)
        return paths

    def _draw_trials(self, axes: Any) -> None:
        for kind in KINDS:
            shown = [trial for trial in self.trials if trial.kind == kind and trial.candidate]
            if shown:
                numbers, values = zip(*((t.number, t.value) for t in shown), strict=True)
                axes.scatter(numbers, values, s=12, label=kind)
        axes.plot(range(len(self.trials)), self.best_values, color="black", label="best")
        axes.set_xlabel("trial")
        axes.legend()

    def _draw_sensitivity(self, axes: Any) -> None:
        for part, shift in (("attention", -0.2), ("mlp", 0.2)):
            bars = {s.layer: value for s, value in self.sensitivity.items() if s.part == part}
            places = [layer + shift for layer in bars]
            axes.bar(places, list(bars.values()), width=0.4, label=f"{part} skipped")
        axes.set_xlabel("layer")
        axes.legend()


def _layers(mask: tuple[bool, ...]) -> str:
    return " ".join(str(layer) for layer, keep in enumerate(mask) if not keep) or "-"


def _show(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
