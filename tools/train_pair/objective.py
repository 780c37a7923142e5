# SPDX-License-Identifier: Apache-2.0
"""What the target is trained on: next tokens, random sublayers left out, and its own slim path."""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from network import Network
from torch import Tensor

LAYERS = 12
#: The slim path: four layers kept whole, three attention sublayers, the last layer whole. 11 of 24
#: sublayers are skipped (46 %); weight bytes 0.526 of a full pass.
PREFIX = list(range(8))
SLIM_REST = [2 * 5, 2 * 7, 2 * 9, 22, 23]
FULL_REST = list(range(8, 24))


@dataclass(frozen=True)
class Weights:
    """How much the losses of a joint step count.

    Attributes:
        slim_text: cross entropy of the slim path, in the first phase only.
        slim: KL(full || slim) with the full model's logits held fixed.
        full: KL(full || slim) with the slim path's held fixed: the full model moves too. What it
            can cost the full model is bounded: at the optimum its own loss rises by at most
            `full` times the KL that it saves.
    """

    slim_text: float = 1.0
    slim: float = 2.0
    full: float = 0.5

    @property
    def distils(self) -> bool:
        """False for a control run: the same training without the slim path's losses."""
        return self.slim > 0.0 or self.full > 0.0


def divergence(full: Tensor, slim: Tensor) -> Tensor:
    """Mean KL(full || slim) of rows of logits [N, V]."""
    return F.kl_div(
        slim.log_softmax(-1), full.log_softmax(-1), log_target=True, reduction="batchmean"
    )


def both(network: Network, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Logits of the full model and of the slim path; what they share is computed once."""
    shared = network.run(network.embed(ids), PREFIX)
    full = network.logits(network.run(shared, FULL_REST))
    return full, network.logits(network.run(shared, SLIM_REST))


def joint(network: Network, ids: Tensor, targets: Tensor, weights: Weights, distil: bool) -> Tensor:
    """Cross entropy of the full model, plus what teaches the slim path (see `Weights`)."""
    if distil and not weights.distils:
        rows = network.run(network.embed(ids), PREFIX + FULL_REST)
        return F.cross_entropy(network.logits(rows), targets)
    full, slim = both(network, ids)
    loss = F.cross_entropy(full, targets)
    if not distil:
        return loss + weights.slim_text * F.cross_entropy(slim, targets)
    loss = loss + weights.slim * divergence(full.detach(), slim)
    return loss + weights.full * divergence(full, slim.detach())


def own_text(network: Network, ids: Tensor, weights: Weights) -> Tensor:
    """The two divergences alone, on text that the model wrote itself: rows [B, T] of ids."""
    full, slim = both(network, ids)
    loss = weights.slim * divergence(full.detach(), slim)
    return loss + weights.full * divergence(full, slim.detach())


def dropped(
    network: Network, ids: Tensor, targets: Tensor, chance: random.Random, low: float, high: float
) -> Tensor:
    """Cross entropy with a random share in [low, high] of all sublayers skipped.

    First and last layer are kept.
    """
    keep = random_route(chance, chance.uniform(low, high))
    return F.cross_entropy(network.logits(network.run(network.embed(ids), keep)), targets)


def random_route(chance: random.Random, share: float) -> list[int]:
    """The kept sublayers of a route that skips `share` of all 24, first and last layer kept."""
    inner = range(2, 2 * LAYERS - 2)
    skip = set(chance.sample(inner, min(round(2 * LAYERS * share), len(inner))))
    return [sublayer for sublayer in range(2 * LAYERS) if sublayer not in skip]


@torch.no_grad()
def held_out(network: Network, rows: Tensor, routes: list[list[int]]) -> dict[str, float]:
    """Losses and agreement on held-out rows [N, T + 1].

    Returns:
        full, slim: cross entropies in nats; kl: KL(full || slim); agreement: share of positions
        where both have the same first choice; random: mean cross entropy over `routes`.
    """
    parts: dict[str, list[float]] = {}
    for some in rows.split(16):
        ids, targets = some[:, :-1], some[:, 1:].flatten()
        full, slim = both(network, ids)
        found = {
            "full": F.cross_entropy(full, targets).item(),
            "slim": F.cross_entropy(slim, targets).item(),
            "kl": divergence(full, slim).item(),
            "agreement": (full.argmax(-1) == slim.argmax(-1)).float().mean().item(),
        }
        losses = [
            F.cross_entropy(network.logits(network.run(network.embed(ids), keep)), targets).item()
            for keep in routes
        ]
        if losses:
            found["random"] = sum(losses) / len(losses)
        for name, value in found.items():
            parts.setdefault(name, []).append(value)
    return {name: sum(values) / len(values) for name, values in parts.items()}
