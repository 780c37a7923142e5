# SPDX-License-Identifier: Apache-2.0
"""`calibrate`: the routing that keeps a requested agreement, learned from a model's own text.

The model of a step and what is minimised: docs/design.md, section 14.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from via_ext.calibration.choice import Chooser
from via_ext.calibration.cost import pass_costs
from via_ext.calibration.decode import BATCH, Trials
from via_ext.calibration.learn import Learner
from via_ext.calibration.models import fit_models, judge_models
from via_ext.calibration.replay import Replay
from via_ext.calibration.report import Calibrated, SettingReport
from via_ext.calibration.search import cheapest, lossy_points
from via_ext.calibration.stored import Calibration
from via_ext.config import ViaConfig
from via_ext.drafters import ModelDrafter
from via_ext.fingerprint import fingerprint
from via_ext.models.families import check_route, check_supported
from via_ext.prompts import read_prompts
from via_ext.route import SlimRoute

AGREEMENTS = (1.0, 0.99, 0.95, 0.90)
#: Prompts to fit on: the interval needs some to see how they differ.
MIN_PROMPTS = 4


def calibrate(
    target: Any,
    drafter: Any,
    route: SlimRoute | None,
    prompts: Sequence[torch.Tensor],
    *,
    agreements: Sequence[float] = AGREEMENTS,
    held_out: float | Sequence[torch.Tensor] = 0.3,
    max_new_tokens: int = 96,
    num_draft_tokens: int = 5,
    max_backlog: int = 32,
    seed: int = 0,
    progress: Callable[[str, float], None] | None = None,
) -> Calibrated:
    """Fits a route's models on text that the target writes, and finds a setting per agreement.

    A setting is the cheapest whose agreement on the calibration prompts, decoded for real, is at
    least one standard error above the request. It is then measured on held-out prompts.

    Args:
        target: a supported `transformers` causal language model.
        drafter: a small model of the same vocabulary, or a `ModelDrafter`.
        route: the slim verifier; None or full calibrates two tiers.
        prompts: token ids, each [T] int32 or int64.
        agreements: shares of tokens in (0, 1] that shall be the full model's choice; at 1 decoding
            is exact and only its speed is tuned.
        held_out: share of the prompts, in (0, 1), kept for measuring; or other prompts for that.
        max_new_tokens: text per prompt.
        num_draft_tokens: longest chain, here and later in `ViaConfig`.
        max_backlog: as in `ViaConfig`.
        seed: of the split and of the search; the same seed gives the same settings.
        progress: called with what is being done and the share that is done.

    Returns:
        The route with its calibration, and reports. After an interrupt (KeyboardInterrupt) those of
        the agreements that were done, if there are any.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an agreement is out of range; the route is another model's; the model is not
            supported; the text is too short.
    """
    wanted = _check_agreements(agreements)
    _check_types(route, prompts, held_out, seed)
    check_supported(target)
    if isinstance(drafter, torch.nn.Module):
        drafter = ModelDrafter(drafter)
    if not isinstance(drafter, ModelDrafter):
        got = type(drafter).__name__
        raise TypeError(
            f"calibrate: drafter must be a model or a ModelDrafter, got {got}: there are no scores "
            f"of others on given text to learn from. Calibrate with a small model of the target's "
            f"vocabulary, or decode with this drafter uncalibrated (ViaConfig without agreement)"
        )
    if route is None:
        route = SlimRoute.full(target.config.num_hidden_layers)
    check_route(route, target)
    config = ViaConfig(
        mode="exact",
        num_draft_tokens=num_draft_tokens,
        max_backlog=max_backlog,
        max_new_tokens=max_new_tokens,
    )
    fit, held = _split(prompts, held_out, seed)
    if len(fit) < MIN_PROMPTS:
        rule = f"leave at least {MIN_PROMPTS} to fit on"
        raise ValueError(f"calibrate: prompts must {rule}, got {len(fit)}")
    for texts in (fit, held):
        read_prompts(texts, None, target.config, max_new_tokens)
    batches = -(-len(fit) // BATCH) * (4 * len(wanted)) + -(-len(held) // BATCH) * 2 * len(wanted)
    show = _Progress(progress, batches)
    costs = pass_costs(target, drafter.model, route)
    trials = Trials(target, drafter, route, costs, config, show.tick)
    learner = Learner(target, drafter, route, trials, fit, held, config)
    show.stage("the target's own text")
    trace, other = learner.own_text()
    models = fit_models(trace, num_draft_tokens, not route.is_full)
    replay = Replay(trace, models, costs, num_draft_tokens, max_backlog)
    lossy = [value for value in wanted if value < 1.0]
    refitted = None
    if lossy and not route.is_full:
        show.stage("text of the lossy decoder")
        point = cheapest([p for p in lossy_points(replay, lossy, seed) if p.agreement >= lossy[-1]])
        models, trace, refitted = learner.refit(models, trace, point.setting, lossy[-1])
        replay = Replay(trace, models, costs, num_draft_tokens, max_backlog)
    quality = judge_models(models, other, num_draft_tokens, not route.is_full)
    calibration = Calibration(*models, (), learner.facts(len(trace), refitted, quality))
    chooser = Chooser(replay, trials, calibration, fit, held, lossy, seed, not route.is_full)
    reports: list[SettingReport] = []
    finished = False
    try:
        for agreement in wanted:
            show.stage(f"agreement {agreement:g}")
            reports.append(chooser.choose(agreement))
        finished = True
    except KeyboardInterrupt:
        if not reports:
            raise
    settings = tuple(report.setting for report in reports)
    calibration = replace(calibration, settings=settings)
    named = route.fingerprint or fingerprint(target)
    route = replace(route, calibration=calibration, fingerprint=named)
    return Calibrated(route, tuple(reports), quality, refitted, finished)


def _check_agreements(values: Sequence[float]) -> list[float]:
    """The agreements by falling value."""
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise TypeError(f"calibrate: agreements must be a sequence of numbers, got {values!r}")
    if not values:
        raise ValueError("calibrate: agreements must hold at least one number, got none")
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TypeError(f"calibrate: agreements must hold numbers, got {value!r}")
        if not 0.0 < value <= 1.0:
            raise ValueError(f"calibrate: agreements must be in (0, 1], got {value:g}")
    return sorted({float(value) for value in values}, reverse=True)


def _check_types(route: object, prompts: object, held_out: object, seed: object) -> None:
    if route is not None and not isinstance(route, SlimRoute):
        raise TypeError(f"calibrate: route must be a SlimRoute or None, got {route!r}")
    texts = (Sequence, torch.Tensor)
    if isinstance(prompts, str) or not isinstance(prompts, texts):
        raise TypeError(f"calibrate: prompts must be a sequence of tensors, got {prompts!r}")
    if isinstance(held_out, bool | str) or not isinstance(held_out, (int, float, *texts)):
        rule = "be a number or a sequence of tensors"
        raise TypeError(f"calibrate: held_out must {rule}, got {held_out!r}")
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise TypeError(f"calibrate: seed must be an int, got {seed!r}")


def _split(
    prompts: Sequence[torch.Tensor], held_out: float | Sequence[torch.Tensor], seed: int
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Prompts to fit on and prompts to measure on."""
    if not isinstance(held_out, int | float):
        if not len(held_out):
            raise ValueError("calibrate: held_out must hold at least one prompt, got none")
        return list(prompts), list(held_out)
    if not 0.0 < held_out < 1.0:
        raise ValueError(f"calibrate: held_out must be in (0, 1), got {held_out:g}")
    order = list(range(len(prompts)))
    random.Random(seed).shuffle(order)
    count = min(held_out_count(len(order), held_out), len(order))
    return [prompts[i] for i in order[count:]], [prompts[i] for i in order[:count]]


def held_out_count(prompts: int, share: float) -> int:
    """Prompts kept for measuring."""
    return max(1, round(share * prompts))


class _Progress:
    """Turns decoded batches into the share that is done."""

    def __init__(self, call: Callable[[str, float], None] | None, batches: int) -> None:
        self._call, self._batches = call, batches
        self._done, self._stage = 0, ""

    def stage(self, name: str) -> None:
        self._stage = name
        self._show()

    def tick(self) -> None:
        self._done += 1
        self._show()

    def _show(self) -> None:
        # How many batches a bisection needs is not known before.
        if self._call is not None:
            self._call(self._stage, min(0.99, self._done / self._batches))
