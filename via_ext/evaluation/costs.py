# SPDX-License-Identifier: Apache-2.0
"""Modelled cost of a run, in full passes: every pass costs the weight bytes that it reads.

That is the cost of one request on a device bound by memory bandwidth; a pass over several tokens
costs as much as one over a single token. Not counted: KV, activations, the verify operations, the
host. It says what the routing saves, not what this machine's clock shows.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from via_ext.route import SlimRoute


class Passes(NamedTuple):
    """Forward passes of a run; those that read the prompt are not among them.

    Attributes:
        full: of the full model, resumed ones included.
        resumed: those of them that read the layers after the shared prefix only.
        slim: of the slim verifier.
        draft: of the drafter.
    """

    full: float
    resumed: float
    slim: float
    draft: float


class PassCosts(NamedTuple):
    """Weight bytes relative to those of a full pass.

    Attributes:
        slim: of a slim pass.
        prefix: of the layers that slim and full pass share at their beginning.
        draft: of a drafter's pass.
    """

    slim: float
    prefix: float
    draft: float

    def total(self, passes: Passes) -> float:
        """Cost of all passes, in full passes."""
        saved = passes.resumed * self.prefix
        return passes.full - saved + passes.slim * self.slim + passes.draft * self.draft


def pass_costs(target: Any, drafter: Any, route: SlimRoute | None) -> PassCosts:
    """The costs of a target's slim pass and of its drafter's pass.

    Args:
        target: the full model.
        drafter: a model, or None for drafts that read no weights.
        route: the slim verifier, None = there is none.
    """
    draft = 0.0 if drafter is None else weight_bytes(drafter) / weight_bytes(target)
    if route is None or route.is_full:
        return PassCosts(0.0, 0.0, draft)
    layers = route.num_layers
    # cost() counts the LM head in every route: all but the first layer differ by layers only.
    layer = (1.0 - SlimRoute.prefix(layers, 1).cost(target.config)) / max(1, layers - 1)
    return PassCosts(route.cost(target.config), layer * route.shared_prefix, draft)


def weight_bytes(model: Any) -> int:
    """Bytes of the weights that one pass reads: matrices without an untied embedding's rows."""
    skipped = set()
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    if embedding is not None and (head is None or head.weight is not embedding.weight):
        skipped.add(id(embedding.weight))
    parameters: list[torch.Tensor] = [p for p in model.parameters() if id(p) not in skipped]
    return sum(p.numel() * p.element_size() for p in parameters if p.dim() > 1)
