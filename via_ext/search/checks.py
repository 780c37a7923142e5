# SPDX-License-Identifier: Apache-2.0
"""What `search_route` refuses before any work."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any

import torch

from via_ext.models.families import check_supported
from via_ext.route import SlimRoute
from via_ext.search.costs import SublayerCosts
from via_ext.search.objective import OBJECTIVES
from via_ext.search.proposals import require_optuna
from via_ext.search.space import RouteSpace

PROPOSALS = ("swaps", "bayes")
#: What optuna takes.
SEEDS = 2**32


def _reject(kind: type[Exception], name: str, rule: str, got: object) -> Exception:
    return kind(f"search_route: {name} must {rule}, got {got}")


def check_types(options: Mapping[str, Any]) -> None:
    """Raises TypeError.

    Args:
        options: arguments of `search_route` by name, all but target, text, drafter and those that
            `RouteSpace` checks.
    """
    whole, number, text = (int, "an int"), (int | float, "a number"), (str, "a string")
    path = (str | os.PathLike, "a path or None")
    rules: dict[str, tuple[Any, str]] = {
        **dict.fromkeys(("seed", "max_backlog", "draft_length", "trials"), whole),
        **dict.fromkeys(("alpha", "beta"), number),
        **dict.fromkeys(("objective", "proposals"), text),
        "patience": (int, "an int or None"),
        "draft_cost": (int | float, "a number or None"),
        "costs": (SublayerCosts, "SublayerCosts or None"),
        "initial": (SlimRoute, "a SlimRoute or None"),
        "study": path,
    }
    for name, (kind, what) in rules.items():
        value = options[name]
        if value is None and what.endswith("or None"):
            continue
        if isinstance(value, bool) or not isinstance(value, kind):
            raise _reject(TypeError, name, f"be {what}", repr(value))
    if options["progress"] is not None and not callable(options["progress"]):
        rule = "be callable or None"
        raise _reject(TypeError, "progress", rule, repr(options["progress"]))


def check_values(options: Mapping[str, Any], skip_ratio: float | None, space: RouteSpace) -> None:
    """Raises ValueError, or ImportError where optuna is needed and missing.

    Args:
        options: see `check_types`.
        skip_ratio: of `search_route`.
        space: the routes that it may find.
    """
    for name, known in (("objective", OBJECTIVES), ("proposals", PROPOSALS)):
        if options[name] not in known:
            raise _reject(ValueError, name, f"be one of {', '.join(known)}", options[name])
    if skip_ratio is None and options["objective"] != "latency":
        rule = "be a number unless objective is latency (skipping nothing is best otherwise)"
        raise _reject(ValueError, "skip_ratio", rule, None)
    if not 0.0 <= options["alpha"] < 1.0:
        raise _reject(ValueError, "alpha", "be in [0, 1)", options["alpha"])
    if not 0.0 < options["beta"] <= 1.0:
        raise _reject(ValueError, "beta", "be in (0, 1]", options["beta"])
    if not 0 <= options["seed"] < SEEDS:
        raise _reject(ValueError, "seed", "be in [0, 2**32)", options["seed"])
    least = len(space.sublayers) + 2
    why = f" ({least - 2} sublayers alone, and 2)"
    limits = {"trials": (least, why), "patience": (1, ""), "draft_length": (1, "")}
    for name, (low, reason) in (limits | {"max_backlog": (0, "")}).items():
        if options[name] is not None and options[name] < low:
            raise _reject(ValueError, name, f"be at least {low}{reason}", options[name])
    cost, costs = options["draft_cost"], options["costs"]
    if cost is not None and not 0.0 <= cost < math.inf:
        raise _reject(ValueError, "draft_cost", "be finite and at least 0", cost)
    if costs is not None:
        layers = (len(costs.attention), len(costs.mlp))
        if layers != (space.num_layers, space.num_layers):
            got = f"{layers[0]} and {layers[1]}"
            rule = f"have {space.num_layers} attention and MLP sublayers each"
            raise _reject(ValueError, "costs", rule, got)
        values = (*costs.attention, *costs.mlp, costs.rest)
        if not all(0.0 <= value < math.inf for value in values) or not sum(values):
            rule = "be finite, none below 0 and not all 0"
            raise _reject(ValueError, "costs", rule, values)
    if options["proposals"] == "bayes":
        require_optuna()


def check_text(tokens: list[torch.Tensor], max_backlog: int) -> None:
    """Raises ValueError if no sequence is as long as a backlog and one token more."""
    longest = max(map(len, tokens))
    if longest <= max_backlog:
        rule = (
            f"hold one of max_backlog + 1 = {max_backlog + 1} tokens, so that every backlog occurs"
        )
        raise _reject(ValueError, "sequences", rule, f"{longest} tokens at most")


def check_drafter(drafter: Any, target: Any) -> None:
    """Raises TypeError or ValueError if it is no supported model of the target's vocabulary."""
    check_supported(drafter, "drafter")
    own, vocabulary = drafter.config.vocab_size, target.config.vocab_size
    if own != vocabulary:
        rule = f"have the target's vocabulary of {vocabulary} ids"
        raise _reject(ValueError, "drafter", rule, own)
