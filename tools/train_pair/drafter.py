# SPDX-License-Identifier: Apache-2.0
"""Train the drafter: one layer, first on the text, then on the target's distribution over it.

Distillation (forward KL at temperature 1) raises the overlap with the target, which is what
acceptance depends on, more than cross entropy does in the same time; it starts better from a
drafter that knows the text. Half of its steps use text that the target wrote itself, where drafts
are made.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from loop import Batches, OwnText, Trainer, start
from network import Network, Shape
from objective import divergence
from torch import Tensor

LENGTH, COUNT = 256, 16
#: Share of the steps on the text alone.
DISTIL = 0.3
FLAT = 0.4


def load_target(checkpoint: Path, compiled: bool) -> Network:
    """The trained target, frozen.

    Raises:
        SystemExit: its training is not finished.
    """
    if not checkpoint.is_file():
        raise SystemExit(f"{checkpoint} must exist: train the target first")
    state = torch.load(checkpoint, weights_only=True)
    if state["step"] != state["steps"]:
        raise SystemExit(f"{checkpoint} must be finished, is at step {state['step']}")
    network = Network(Shape(12), torch.bfloat16, compiled)
    network.load_state_dict(state["network"], strict=False)
    return network.requires_grad_(False)


def forward(network: Network, ids: Tensor) -> Tensor:
    """Logits [B * T, V] of all layers."""
    sublayers = list(range(2 * network.shape.num_hidden_layers))
    return network.logits(network.run(network.embed(ids), sublayers))


def train(
    rank: int,
    processes: int,
    port: int,
    folder: Path,
    tokens: tuple[np.ndarray, np.ndarray],
    steps: int,
    seed: int,
    compiled: bool,
) -> None:
    """One process of the training; see the module's text."""
    start(rank, processes, port)
    target = load_target(folder / "target.pt", compiled)
    torch.manual_seed(seed)
    network = Network(Shape(1), torch.bfloat16, compiled)
    trainer = Trainer(network, folder, "drafter", steps, FLAT, seed)
    batches = Batches(tokens[0], seed + 1, rank)
    check = Batches(tokens[1], 0, 0).rows(0, 48, LENGTH + 1)
    own = OwnText(target, batches, LENGTH)

    def step_loss(step: int) -> tuple[Tensor, int]:
        rows = batches.rows(step, COUNT, LENGTH + 1)
        ids, targets = rows[:, :-1], rows[:, 1:].flatten()
        if step < DISTIL * steps:
            return F.cross_entropy(forward(network, ids), targets), ids.numel()
        if step % 2:
            ids = own.rows(step, COUNT)
        with torch.no_grad():
            wanted = forward(target, ids)
        return divergence(wanted, forward(network, ids)), ids.numel()

    @torch.no_grad()
    def measure() -> dict[str, float]:
        losses, same, overlap = [], [], []
        for some in check.split(COUNT):
            ids = some[:, :-1]
            logits, wanted = forward(network, ids), forward(target, ids)
            losses.append(F.cross_entropy(logits, some[:, 1:].flatten()))
            same.append((logits.argmax(-1) == wanted.argmax(-1)).float().mean())
            both = torch.minimum(logits.softmax(-1), wanted.softmax(-1))
            overlap.append(both.sum(-1).mean())
        text = own.write(check[:32])
        own_same = [(forward(m, text)).argmax(-1).view(text.shape) for m in (network, target)]
        right = own_same[0] == own_same[1]
        found = {"loss": losses, "agreement": same, "overlap": overlap}
        found["own_agreement"] = [right[:, OwnText.PROMPT - 1 :].float().mean()]
        return {name: torch.stack(values).mean().item() for name, values in found.items()}

    trainer.run(step_loss, measure, 100)
