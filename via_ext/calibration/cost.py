# SPDX-License-Identifier: Apache-2.0
"""Modelled costs: passes priced by the bytes of weights they read (docs/design.md, section 14)."""

from __future__ import annotations

from typing import Any, NamedTuple

from via_ext.route import SlimRoute


class PassCosts(NamedTuple):
    """Modelled costs of passes in full passes, by bytes of weights.

    Attributes:
        draft: a drafter's pass.
        slim: a slim pass.
        resumed: a full pass that resumes from a slim pass's hidden states.
    """

    draft: float
    slim: float
    resumed: float

    def of(self, stats: Any) -> float:
        """Cost of a run in full passes, from its `DecodeStats`."""
        fresh = stats.full_passes - stats.resumed_passes
        resumed = stats.resumed_passes * self.resumed
        return float(
            fresh + resumed + stats.slim_passes * self.slim + stats.draft_passes * self.draft
        )


def weights_read(model: Any) -> int:
    """Weights that a pass of a model reads: all but embedding rows, the LM head once."""
    embedding = model.get_input_embeddings().weight
    total = sum(p.numel() for p in model.parameters() if p is not embedding)
    tied = model.get_output_embeddings().weight is embedding
    return int(total + (embedding.numel() if tied else 0))


def pass_costs(target: Any, drafter_model: Any, route: SlimRoute | None) -> PassCosts:
    """The costs for a target, its drafter and a slim route; None or full = no slim pass."""
    draft = weights_read(drafter_model) / weights_read(target)
    if route is None or route.is_full:
        return PassCosts(draft, 1.0, 1.0)
    layers = route.num_layers
    # All layers are alike: a prefix of one costs a layer and the head.
    layer = (1.0 - SlimRoute.prefix(layers, 1).cost(target.config)) / (layers - 1)
    return PassCosts(draft, route.cost(target.config), 1.0 - layer * route.shared_prefix)
