# SPDX-License-Identifier: Apache-2.0
"""The methods that an evaluation compares, and why some of them cannot run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from via_ext.calibration import Calibration
from via_ext.config import ViaConfig
from via_ext.route import SlimRoute


@dataclass(frozen=True)
class Method:
    """One way to decode.

    Attributes:
        key: names it in options and files.
        label: names it for people.
        kind: "ours" (a `Decoder`), "peer" (transformers' generate) or "oracle" (simulated).
        drafts: "model", "lookup" or "none".
        tiers: "two", "slim" (three), "calibrated two" (`SlimRoute.full` with a calibration) or
            "slim alone" (no full model).
        settings: fields of `ViaConfig`; for a peer, of its generation.
        route: a slim verifier of its own, instead of the evaluation's.
        draft_temperature: of the drafter; None = greedy drafts.
        ablation: the ablation that it belongs to, "" for none.
    """

    key: str
    label: str
    kind: str = "ours"
    drafts: str = "model"
    tiers: str = "two"
    settings: dict[str, Any] = field(default_factory=dict)
    route: SlimRoute | None = None
    draft_temperature: float | None = None
    ablation: str = ""

    @property
    def exact(self) -> bool:
        """True if its tokens have to be the full model's."""
        return self.tiers != "slim alone" and self.settings.get("mode", "exact") == "exact"

    def to_dict(self) -> dict[str, Any]:
        """For results.json."""
        data = asdict(self)
        del data["route"]
        if self.route is not None:
            data["keep_attention"] = list(self.route.keep_attention)
            data["keep_mlp"] = list(self.route.keep_mlp)
        return data


@dataclass(frozen=True)
class Subject:
    """What is evaluated.

    Attributes:
        target: the full model.
        drafter: a model.
        route: the slim verifier, None = methods with three tiers are left out.
        two_tier: `SlimRoute.full` with a calibration of the two tiers, None = methods that need
            one are left out.
    """

    target: Any
    drafter: Any
    route: SlimRoute | None
    two_tier: SlimRoute | None


def _via(accept: float, escalate: float, **more: Any) -> dict[str, Any]:
    return {"mode": "via", "accept_threshold": accept, "escalate_threshold": escalate, **more}


def _calibrated(agreement: float) -> dict[str, Any]:
    return {"mode": "exact" if agreement == 1.0 else "via", "agreement": agreement}


def _exact(num_draft_tokens: int) -> dict[str, Any]:
    return {"mode": "exact", "num_draft_tokens": num_draft_tokens}


#: Baselines by preference: the first that ran is what ratios are taken over.
BASELINE = "two-tier-calibrated"
FIXED_LENGTHS = ("two-tier-2", "two-tier-4", "two-tier-6", "two-tier-8")
PLAIN = "greedy"

_ALL = (
    Method(PLAIN, "plain greedy", drafts="none", settings=_exact(0)),
    Method("transformers", "transformers' generate", "peer", "none"),
    Method("assisted", "transformers' assisted generation", "peer"),
    Method(
        "assisted-5",
        "transformers' assisted, 5 drafts",
        "peer",
        settings={"num_assistant_tokens": 5},
    ),
    *(
        Method(key, f"two-tier exact, {key[-1]} drafts", settings=_exact(int(key[-1])))
        for key in FIXED_LENGTHS
    ),
    Method(
        BASELINE,
        "two-tier exact, calibrated drafts",
        tiers="calibrated two",
        settings=_calibrated(1.0),
    ),
    Method("lookup", "two-tier exact, prompt lookup", drafts="lookup", settings=_exact(5)),
    Method("via", "via .7/.5 (the paper's)", tiers="slim", settings=_via(0.7, 0.5)),
    Method("via-conservative", "via .8/.6", tiers="slim", settings=_via(0.8, 0.6)),
    Method("via-aggressive", "via .6/.4", tiers="slim", settings=_via(0.6, 0.4)),
    *(
        Method(f"via-{a:.2f}", f"via calibrated {a:.2f}", tiers="slim", settings=_calibrated(a))
        for a in (0.99, 0.95, 0.90)
    ),
    Method("exact", "exact three-tier, backlog 32", tiers="slim", settings=_exact(5)),
    Method(
        "exact-backlog-4",
        "exact three-tier, backlog 4",
        tiers="slim",
        settings={**_exact(5), "max_backlog": 4},
    ),
    Method(
        "exact-calibrated",
        "exact three-tier, calibrated audit",
        tiers="slim",
        settings=_calibrated(1.0),
    ),
    *(
        Method(
            f"two-tier-{a:.2f}",
            f"two-tier calibrated {a:.2f}",
            tiers="calibrated two",
            settings=_calibrated(a),
        )
        for a in (0.99, 0.95, 0.90)
    ),
    Method("slim", "slim verifier alone", drafts="none", tiers="slim alone", settings=_exact(0)),
    Method("oracle-two-tier", "oracle draft length, two-tier", "oracle"),
    Method("oracle", "oracle router, three-tier", "oracle", tiers="slim"),
)
METHODS: dict[str, Method] = {method.key: method for method in _ALL}


def choose(names: Sequence[str | Method] | None) -> list[Method]:
    """The methods of some names, in the order of `METHODS`; plain greedy is always among them.

    Args:
        names: keys of `METHODS`, or methods; None = all.

    Raises:
        TypeError: an entry is neither.
        ValueError: a name is unknown or given twice.
    """
    asked = list(METHODS) if names is None else list(names)
    chosen: dict[str, Method] = {PLAIN: METHODS[PLAIN]}
    seen = set()
    for name in asked:
        if isinstance(name, Method):
            method = name
        elif not isinstance(name, str):
            raise TypeError(f"evaluate: methods must hold names, got {name!r}")
        elif name not in METHODS:
            known = ", ".join(METHODS)
            raise ValueError(f"evaluate: methods must be of {known}, got {name!r}")
        else:
            method = METHODS[name]
        if method.key in seen:
            raise ValueError(f"evaluate: methods must differ, got {method.key!r} twice")
        seen.add(method.key)
        chosen[method.key] = method
    order = {key: place for place, key in enumerate(METHODS)}
    return sorted(chosen.values(), key=lambda method: order.get(method.key, len(order)))


def reason_against(method: Method, subject: Subject) -> str | None:
    """Why a method cannot run on a subject, None if it can."""
    route = method.route or subject.route
    if method.tiers in ("slim", "slim alone") and (route is None or route.is_full):
        return "there is no slim verifier: give a route"
    agreement: float | None = method.settings.get("agreement")
    if agreement is None:
        return None
    if method.tiers == "calibrated two":
        if subject.two_tier is None:
            return "there is no calibration of two tiers: give a calibrated SlimRoute.full"
        return _missing(subject.two_tier.calibration, agreement)
    return _missing(None if route is None else route.calibration, agreement)


def _missing(calibration: Calibration | None, agreement: float) -> str | None:
    if calibration is None:
        return "the route has no calibration: run `via-ext calibrate`"
    try:
        calibration.setting(agreement)
    except ValueError as error:
        return str(error)
    return None


def config_of(method: Method, subject: Subject, max_new_tokens: int, seed: int) -> ViaConfig:
    """The configuration of one of our methods; a calibrated one has its calibration's lengths."""
    route = subject.two_tier if method.tiers == "calibrated two" else method.route or subject.route
    settings: dict[str, Any] = {}
    if "agreement" in method.settings and route is not None and route.calibration is not None:
        for name in ("num_draft_tokens", "max_backlog"):
            if name in route.calibration.facts:
                settings[name] = route.calibration.facts[name]
    return ViaConfig(max_new_tokens=max_new_tokens, seed=seed, **settings, **method.settings)


def baseline_of(costs: dict[str, float], keys: Iterable[str]) -> str:
    """The method that ratios are taken over.

    Args:
        costs: modelled cost per token of the methods that ran.
        keys: of these.

    Returns:
        Two tiers with calibrated drafts; else the fixed draft length that is cheapest on these very
        prompts, a choice that favours the baseline; else plain greedy.
    """
    known = set(keys)
    if BASELINE in known:
        return BASELINE
    fixed = [key for key in FIXED_LENGTHS if key in known]
    return min(fixed, key=lambda key: costs[key]) if fixed else PLAIN
