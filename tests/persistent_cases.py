# SPDX-License-Identifier: Apache-2.0
"""Toy models in bfloat16, and the persistent engine in the simulation, for its tests."""

from __future__ import annotations

import copy
from typing import Any

import torch

from tests import simulation
from tests.models import random_model
from via_ext import Decoder, SlimRoute, ViaConfig
from via_ext.engines.choose import PersistentEngine

VOCAB_SIZE = 512
BLOCKS = 3
# Layer 0 is shared; the second layer keeps its MLP only.
ROUTE = SlimRoute((True, False), (True, True))
NO_WINDOWS = {
    "qwen2": {"use_sliding_window": False, "sliding_window": None},
    "mistral": {"sliding_window": None},
}

available = hasattr(simulation.module(), "Persistent")


def toy_model(family: str = "llama", num_layers: int = 2, seed: int = 0, **changes: Any) -> Any:
    """A random bfloat16 model with heads of 64, two query heads for each key-value head."""
    sizes = {
        "hidden_size": 256,
        "intermediate_size": 192,
        "head_dim": 64,
        "vocab_size": VOCAB_SIZE,
    }
    options = sizes | NO_WINDOWS.get(family, {}) | changes
    if family == "qwen2":
        del options["head_dim"]
    return random_model(family, num_layers, seed, **options).to(torch.bfloat16)


def toy_pair(family: str = "llama", agreement: float = 0.4, **changes: Any) -> tuple[Any, Any]:
    """A target of two layers and a drafter that is its first layer.

    Args:
        family: of both.
        agreement: scale of what the second layer adds; with a small one drafter, slim verifier and
            target agree often.
        changes: of the configuration.
    """
    target = toy_model(family, **changes)
    second = target.model.layers[1]
    with torch.no_grad():
        second.self_attn.o_proj.weight.mul_(agreement)
        second.mlp.down_proj.weight.mul_(agreement)
    drafter = copy.deepcopy(target)
    drafter.model.layers = drafter.model.layers[:1]
    drafter.config.num_hidden_layers = 1
    if getattr(drafter.config, "layer_types", None):
        drafter.config.layer_types = drafter.config.layer_types[:1]
    return target, drafter


@torch.no_grad()
def margin(target: Any, tokens: torch.Tensor, *, slim: bool) -> float:
    """Between the two best logits behind tokens [n]; of the target, or of its slim verifier."""
    if slim:  # with two layers, a slim pass over all tokens gives what it gives over full KV
        target = copy.deepcopy(target)
        target.model.layers[1].self_attn.o_proj.weight.zero_()
    best = target(tokens[None]).logits[0, -1].float().topk(2).values
    return float(best[0] - best[1])


def simulate(monkeypatch: Any) -> None:
    """Sends the launches of the persistent engine to the simulated module."""
    for name in ("persistent", "persistent_launch"):
        monkeypatch.setattr(f"via_ext.engines.{name}._C", simulation.module())


def decoder(
    target: Any,
    drafter: Any,
    route: SlimRoute | None,
    config: ViaConfig,
    engine: str,
    blocks: int = BLOCKS,
) -> Decoder:
    """A decoder; its launches have few blocks, which run the same code as many."""
    made = Decoder(target, drafter, route, config, engine=engine)
    if isinstance(made._device, PersistentEngine):
        made._device.grid = blocks
    return made
