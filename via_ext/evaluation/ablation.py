# SPDX-License-Identifier: Apache-2.0
"""Ablations: mode "via" at the paper's thresholds, with one choice varied."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import torch

from via_ext.evaluation.methods import METHODS, Method
from via_ext.route import SlimRoute

#: Names of the ablations: what each varies.
ABLATIONS = {
    "seeds": "routes that searches with other seeds find",
    "masks": "random routes that skip as many sublayers as the route",
    "skip": "evenly spread routes of several skip ratios",
    "drafts": "draft lengths",
    "gate": "draft gates (draft_threshold), with sampled drafts",
}
_RANDOM_ROUTES = 3
_SEARCHES = 3
#: Routes scored by one search, or three for every sublayer where those are more.
_TRIALS = 60
_SKIP_RATIOS = (0.25, 0.35, 0.45, 0.55)
_DRAFT_LENGTHS = (2, 3, 4, 6, 8)
_GATES = (None, 0.9, 0.7, 0.5)


def ablation_methods(
    names: Sequence[str],
    route: SlimRoute,
    seed: int = 0,
    *,
    target: Any = None,
    text: Sequence[torch.Tensor] = (),
) -> list[Method]:
    """The methods of some ablations, to be given to `evaluate` beside the usual ones.

    Args:
        names: of `ABLATIONS`; "all" among them = all.
        route: the slim verifier that is varied.
        seed: of the random routes, and the first of the searches.
        target: the full model; "seeds" only, which searches routes here and takes its time.
        text: token ids to search on, each [T]; "seeds" only. Not the prompts of the evaluation.

    Raises:
        ValueError: an unknown name, a route that skips nothing, or no text to search on.
    """
    makers = {"masks": _masks, "skip": _skip, "drafts": _drafts, "gate": _gate}
    makers["seeds"] = lambda route, seed: _seeds(route, seed, target, text)
    every = ablation_names(names)
    if route.is_full:
        raise ValueError(
            "evaluate: ablation must have a route that skips something, got a full one"
        )
    return [method for name in every for method in makers[name](route, seed)]


def ablation_names(names: Sequence[str]) -> list[str]:
    """Ablations by name, each once; "all" means all.

    Raises:
        ValueError: an unknown name.
    """
    for name in names:
        if name not in ABLATIONS and name != "all":
            known = ", ".join([*ABLATIONS, "all"])
            raise ValueError(f"evaluate: ablation must be of {known}, got {name!r}")
    return list(ABLATIONS if "all" in names else dict.fromkeys(names))


def _variant(ablation: str, key: str, label: str, **changes: Any) -> Method:
    settings = {**METHODS["via"].settings, **changes.pop("settings", {})}
    more = {"tiers": "slim", "settings": settings, "ablation": ablation, **changes}
    return Method(f"{ablation}-{key}", label, **more)


def _seeds(route: SlimRoute, seed: int, target: Any, text: Sequence[torch.Tensor]) -> list[Method]:
    from via_ext.search import search_route

    if target is None or not text:
        raise ValueError("evaluate: text must be given for the ablation of seeds, got none")
    trials = max(_TRIALS, 6 * route.num_layers)
    found = []
    for number in range(seed + 1, seed + 1 + _SEARCHES):
        searched = search_route(
            target, list(text), skip_ratio=route.skip_ratio, trials=trials, seed=number
        )
        found.append(_variant("seeds", str(number), f"seed {number}", route=searched.route))
    return found


def _masks(route: SlimRoute, seed: int) -> list[Method]:
    return [
        _variant("masks", str(number), f"random route {number}", route=_random(route, seed, number))
        for number in range(1, _RANDOM_ROUTES + 1)
    ]


def _random(route: SlimRoute, seed: int, number: int) -> SlimRoute:
    """A route that skips as many sublayers of each kind; first and last layer are kept."""
    generator = random.Random(f"{seed}/{number}")
    inner = range(1, route.num_layers - 1)

    def draw(keep: tuple[bool, ...]) -> tuple[bool, ...]:
        gone = set(generator.sample(inner, min(len(inner), keep.count(False))))
        return tuple(layer not in gone for layer in range(route.num_layers))

    return SlimRoute(draw(route.keep_attention), draw(route.keep_mlp))


def _skip(route: SlimRoute, _: int) -> list[Method]:
    found = []
    for ratio in _SKIP_RATIOS:
        try:
            even = SlimRoute.evenly(route.num_layers, ratio)
        except ValueError:
            continue  # so small a model has no such route
        if not even.is_full:
            found.append(_variant("skip", f"{ratio:.2f}", f"evenly, skips {ratio:.2f}", route=even))
    return found


def _drafts(_: SlimRoute, __: int) -> list[Method]:
    return [
        _variant("drafts", str(n), f"{n} drafts", settings={"num_draft_tokens": n})
        for n in _DRAFT_LENGTHS
    ]


def _gate(_: SlimRoute, __: int) -> list[Method]:
    # A gate is a probability: it needs drafts that were drawn from a distribution.
    return [
        _variant(
            "gate",
            "off" if gate is None else f"{gate:.1f}",
            "no gate" if gate is None else f"gate {gate:.1f}",
            settings={"draft_threshold": gate},
            draft_temperature=1.0,
        )
        for gate in _GATES
    ]
