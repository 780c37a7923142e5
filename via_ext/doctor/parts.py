# SPDX-License-Identifier: Apache-2.0
"""What `diagnose` is given, checked, and what it tries beside it: prompt lookup, even routes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from via_ext.config import MAX_PASS_TOKENS, ViaConfig
from via_ext.doctor.evidence import GIVEN, OWN_LOOKUP
from via_ext.doctor.model import MAX_BACKLOG
from via_ext.drafters import Drafter, PromptLookupDrafter
from via_ext.drafters.connect import make_drafter
from via_ext.engines.torch import TorchEngine
from via_ext.models.families import check_route, check_supported
from via_ext.prompts import read_prompts
from via_ext.route import SlimRoute

MIN_PROMPT = 8
MAX_DRAFT = MAX_PASS_TOKENS - 1 - MAX_BACKLOG
#: Skip ratios of the even routes.
RATIOS = (0.25, 0.6)


def rejected(argument: str, rule: str, got: object) -> ValueError:
    """The error of a bad argument."""
    return ValueError(f"diagnose: {argument} must {rule}, got {got}")


def check_parts(target: Any, drafter: Any, route: Any, num_draft_tokens: Any) -> None:
    """Raises TypeError or ValueError as `diagnose` says."""
    check_supported(target)
    device = next(target.parameters()).device
    if device.type != "cpu":
        raise rejected("target", "be on the CPU (recorded graphs are not timed)", device)
    if route is not None and not isinstance(route, SlimRoute):
        raise TypeError(f"diagnose: route must be a SlimRoute, got {type(route).__name__}")
    if route is not None:
        check_route(route, target)
        if route.is_full:
            raise rejected("route", "skip a sublayer", "the full model")
    if getattr(drafter, "takes_route", False):
        raise rejected("drafter", "not draft with the route", type(drafter).__name__)
    if isinstance(num_draft_tokens, bool) or not isinstance(num_draft_tokens, int):
        raise TypeError(f"diagnose: num_draft_tokens must be an int, got {num_draft_tokens!r}")
    if not 1 <= num_draft_tokens <= MAX_DRAFT:
        raise rejected("num_draft_tokens", f"be in [1, {MAX_DRAFT}]", num_draft_tokens)


def check_prompts(
    prompts: torch.Tensor | Sequence[torch.Tensor] | None, config: Any, max_new_tokens: int
) -> list[torch.Tensor]:
    """The prompts as [T] int64 tensors; raises TypeError or ValueError as `diagnose` says."""
    if prompts is None or not len(prompts):
        raise rejected("prompts", "hold at least one prompt", "none")
    rows = read_prompts(prompts, None, config, max_new_tokens)
    for index, row in enumerate(rows):
        if len(row) < MIN_PROMPT:
            raise rejected(f"prompts[{index}]", f"hold at least {MIN_PROMPT} tokens", len(row))
    return [torch.tensor(row) for row in rows]


def connected_drafters(target: Any, drafter: Any, config: ViaConfig) -> dict[str, Drafter]:
    """The given drafter, connected to the target, and prompt lookup beside it."""
    given = make_drafter(drafter, TorchEngine(target, None), None, None)
    assert given is not None
    configure = getattr(given, "configure", None)
    if configure is not None:
        configure(config, target.config.vocab_size)
    found = {GIVEN: given}
    if not isinstance(given, PromptLookupDrafter):
        found[OWN_LOOKUP] = PromptLookupDrafter()
    return found


def tried_routes(route: SlimRoute) -> dict[str, SlimRoute]:
    """The given route, and even ones beside it."""
    found = {GIVEN: route}
    for ratio in RATIOS:
        try:
            even = SlimRoute.evenly(route.num_layers, ratio)
        except ValueError:
            continue  # too few layers for so many skips
        if not even.is_full and even not in found.values():
            found[f"evenly, skip ratio {ratio:g}"] = even
    return found
