# SPDX-License-Identifier: Apache-2.0
"""via_ext: speculative decoding with verification routed inside the model (VIA-SD).

Importing the package loads neither torch, transformers nor CUDA: names are imported on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from via_ext._build import build_info, require_torch

if TYPE_CHECKING:
    from via_ext import compat, demo, drafters, ops
    from via_ext.calibration.run import calibrate
    from via_ext.config import ViaConfig
    from via_ext.custom import custom_generate
    from via_ext.decode import Decoder
    from via_ext.evaluation import evaluate
    from via_ext.generation import generate
    from via_ext.models.assistant import slim_view
    from via_ext.result import DecodeResult, StepOutput
    from via_ext.route import SlimRoute
    from via_ext.search import search_route
    from via_ext.search.costs import SublayerCosts, sublayer_seconds
    from via_ext.search.result import RouteSearch
    from via_ext.stats import DecodeStats
    from via_ext.tree import Tree

require_torch()

# Public name -> module that defines it; None: the name is the module itself.
_EXPORTS: dict[str, str | None] = {
    "DecodeResult": "result",
    "DecodeStats": "stats",
    "Decoder": "decode",
    "RouteSearch": "search.result",
    "SlimRoute": "route",
    "StepOutput": "result",
    "SublayerCosts": "search.costs",
    "Tree": "tree",
    "ViaConfig": "config",
    "calibrate": "calibration.run",
    "compat": None,
    "custom_generate": "custom",
    "demo": None,
    "drafters": None,
    "evaluate": "evaluation",
    "generate": "generation",
    "ops": None,
    "search_route": "search",
    "slim_view": "models.assistant",
    "sublayer_seconds": "search.costs",
}

__all__ = [
    "DecodeResult",
    "DecodeStats",
    "Decoder",
    "RouteSearch",
    "SlimRoute",
    "StepOutput",
    "SublayerCosts",
    "Tree",
    "ViaConfig",
    "build_info",
    "calibrate",
    "compat",
    "custom_generate",
    "demo",
    "drafters",
    "evaluate",
    "generate",
    "ops",
    "search_route",
    "slim_view",
    "sublayer_seconds",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return build_info()["version"]
    if name not in _EXPORTS:
        raise AttributeError(f"module 'via_ext' has no attribute {name!r}")
    module = _EXPORTS[name]
    if module is None:
        value: Any = import_module(f"via_ext.{name}")
    else:
        value = getattr(import_module(f"via_ext.{module}"), name)
    globals()[name] = value  # the next access does not come here
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
