# SPDX-License-Identifier: Apache-2.0
"""The ways to decode that `via-ext demo` and the decoding benchmark compare."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

from via_ext.config import ViaConfig
from via_ext.decode import Decoder
from via_ext.demo import EmbeddedPair


class Method(NamedTuple):
    """A row of the table: which tiers take part, under which promise.

    Attributes:
        name: as shown.
        mode: `ViaConfig.mode`.
        drafts: the drafter takes part.
        slim: the slim verifier takes part.
        max_backlog: tokens between two full passes, None = the configuration's. Not looked at
            where `agreement` is used.
        agreement: of the calibrated routing, used where `is_calibrated`.
        needs_calibration: left out elsewhere.
    """

    name: str
    mode: str
    drafts: bool
    slim: bool
    max_backlog: int | None = None
    agreement: float | None = None
    needs_calibration: bool = False


METHODS = {
    "greedy": Method("plain greedy", "exact", drafts=False, slim=False),
    "two-tier": Method("two-tier exact", "exact", drafts=True, slim=False),
    "via": Method("via", "via", drafts=True, slim=True),
    "via-0.99": Method("via at .99", "via", True, True, agreement=0.99, needs_calibration=True),
    # Uncalibrated, a full pass comes when the backlog is full: a long one is often rolled back.
    "exact": Method("exact three-tier", "exact", True, True, max_backlog=8, agreement=1.0),
}


def is_calibrated(pair: Any) -> bool:
    """True if the route of `pair` (target, drafter, route) is calibrated, for a model on the CPU.

    Elsewhere calibrated routing does not run.
    """
    on_cpu = next(pair.target.parameters()).device.type == "cpu"
    return on_cpu and pair.route is not None and pair.route.calibration is not None


def methods_for(pair: Any) -> dict[str, Method]:
    """The methods that can run."""
    found = METHODS.items()
    return {k: m for k, m in found if is_calibrated(pair) or not m.needs_calibration}


def make_decoder(pair: EmbeddedPair, method: Method, config: ViaConfig) -> Decoder:
    """The decoder of one method; mode, agreement and backlog of `config` are the method's."""
    agreement = method.agreement if is_calibrated(pair) else None
    backlog = config.max_backlog if method.max_backlog is None else method.max_backlog
    if agreement is not None:
        backlog = config.max_backlog
    return Decoder(
        pair.target,
        pair.drafter if method.drafts else None,
        pair.route if method.slim else None,
        replace(config, mode=method.mode, max_backlog=backlog, agreement=agreement),
    )
