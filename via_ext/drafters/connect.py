# SPDX-License-Identifier: Apache-2.0
"""How a decoder takes a drafter: what it becomes, and what it is told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from via_ext.drafters.protocol import Drafter
from via_ext.route import SlimRoute

if TYPE_CHECKING:
    from via_ext.engines.torch import TorchEngine


def verifier_route(drafter: Any, route: SlimRoute | None) -> SlimRoute | None:
    """The slim verifier's route: none where the drafter takes it to draft with."""
    return None if getattr(drafter, "takes_route", False) else route


def make_drafter(
    drafter: Any, engine: TorchEngine, route: SlimRoute | None, tokenizer: Any
) -> Drafter | None:
    """Makes a drafter of what the caller gave, and connects it.

    Args:
        drafter: a `Drafter`, a `transformers` model (becomes a `ModelDrafter`), or None.
        engine: the decoder's.
        route: the decoder's, given to a drafter that takes it.
        tokenizer: the decoder's, or None.

    Raises:
        TypeError: it is none of these.
        ValueError: it does not fit the target, the route or the tokenizer.
    """
    if isinstance(drafter, torch.nn.Module):
        from via_ext.drafters.model import ModelDrafter

        drafter = ModelDrafter(drafter)
    if drafter is not None and not isinstance(drafter, Drafter):
        raise TypeError(
            f"Decoder: drafter must be a Drafter, a model or None, got {type(drafter).__name__}"
        )
    # Built-in drafters want to know the target.
    connect = getattr(drafter, "connect", None)
    if connect is not None:
        connect(engine, route, tokenizer)
    return drafter
