# SPDX-License-Identifier: Apache-2.0
"""Drafters: proposers of tokens. `ModelDrafter` is loaded on first use, it needs transformers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from via_ext.drafters.prompt_lookup import PromptLookupDrafter
from via_ext.drafters.protocol import Drafter, DraftTokens

if TYPE_CHECKING:
    from via_ext.drafters.model import ModelDrafter

__all__ = ["DraftTokens", "Drafter", "ModelDrafter", "PromptLookupDrafter"]


def __getattr__(name: str) -> Any:
    if name == "ModelDrafter":
        from via_ext.drafters.model import ModelDrafter

        return ModelDrafter
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
