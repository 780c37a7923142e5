# SPDX-License-Identifier: Apache-2.0
"""Drafters: proposers of tokens. Those that run a model are loaded on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from via_ext.drafters.prompt_lookup import PromptLookupDrafter
from via_ext.drafters.protocol import Drafter, DraftTokens

if TYPE_CHECKING:
    from via_ext.drafters.model import ModelDrafter
    from via_ext.drafters.slim import SlimDrafter

__all__ = ["DraftTokens", "Drafter", "ModelDrafter", "PromptLookupDrafter", "SlimDrafter"]


def __getattr__(name: str) -> Any:
    if name == "ModelDrafter":
        from via_ext.drafters.model import ModelDrafter

        return ModelDrafter
    if name == "SlimDrafter":
        from via_ext.drafters.slim import SlimDrafter

        return SlimDrafter
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
