# SPDX-License-Identifier: Apache-2.0
"""Train the target: next tokens with random sublayers skipped, then its slim path distilled.

Phases, by step count. Up to 0.3 of the steps: half of them skip 30 to 70 % of the sublayers, half
train full model and slim path on the text. Then the slim path learns the full model's distribution,
and the full model leans towards it (`objective.Weights`). From 0.7 on rows are longer; for a short
while then half of the steps use text that the model wrote itself, which is where a verifier works.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from loop import Batches, OwnText, Trainer, chance, start
from network import Network, Shape
from objective import LAYERS, Weights, both, dropped, held_out, joint, own_text, random_route
from torch import Tensor

#: Tokens of a row and rows of a process's batch, by phase.
SHORT, LONG = (256, 16), (512, 8)
DISTIL, LONGER = 0.3, 0.7
#: Kept short: a step of Muon is as long for the small gradients of own text as for those of text,
#: and with half of the steps the held-out loss rose by 0.15 nats within 60 of them.
OWN = 0.7, 1600 / 2200
FLAT = 0.4


def train(
    rank: int,
    processes: int,
    port: int,
    folder: Path,
    tokens: tuple[np.ndarray, np.ndarray],
    steps: int,
    seed: int,
    weights: Weights,
    compiled: bool,
) -> None:
    """One process of the training; see the module's text."""
    start(rank, processes, port)
    torch.manual_seed(seed)
    network = Network(Shape(LAYERS), torch.bfloat16, compiled)
    trainer = Trainer(network, folder, "target", steps, FLAT, seed)
    batches = Batches(tokens[0], seed, rank)
    check = Batches(tokens[1], 0, 0).rows(0, 48, SHORT[0] + 1)
    routes = [random_route(chance(seed, -1 - i), 0.45) for i in range(4)]
    own = OwnText(network, batches, SHORT[0])

    def step_loss(step: int) -> tuple[Tensor, int]:
        share, choice = step / steps, chance(seed, step)
        length, count = LONG if share >= LONGER else SHORT
        rows = batches.rows(step, count, length + 1)
        ids, targets = rows[:, :-1], rows[:, 1:].flatten()
        kind = choice.random()
        if kind < (0.5 if share < DISTIL else 0.15):
            low, high = (0.3, 0.7) if share < DISTIL else (0.1, 0.55)
            return dropped(network, ids, targets, choice, low, high), ids.numel()
        if OWN[0] <= share < OWN[1] and kind < 0.6 and weights.distils:
            own_ids = own.rows(step, SHORT[1])
            return own_text(network, own_ids, weights), own_ids.numel()
        return joint(network, ids, targets, weights, share >= DISTIL), ids.numel()

    def measure() -> dict[str, float]:
        found = held_out(network, check, routes)
        text = own.write(check[:32])
        with torch.no_grad():
            choices = [logits.argmax(-1).view(text.shape) for logits in both(network, text)]
        same = choices[0] == choices[1]
        found["own_agreement"] = same[:, OwnText.PROMPT - 1 :].float().mean().item()
        return found

    trainer.run(step_loss, measure, 100)
