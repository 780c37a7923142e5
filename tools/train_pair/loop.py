# SPDX-License-Identifier: Apache-2.0
"""What target and drafter training share: processes, data, schedule, checkpoints, the log."""

from __future__ import annotations

import csv
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from muon import Muon
from network import Network
from torch import Tensor
from writing import write

#: Learning rates at full height: of matrices (Muon), of embeddings and norms (AdamW).
MATRIX_RATE, OTHER_RATE = 0.02, 4e-3
WARMUP_STEPS = 40


class Batches:
    """Random rows of a token file; the draws depend on seed, rank and step alone."""

    def __init__(self, tokens: np.ndarray, seed: int, rank: int) -> None:
        """Rows come from anywhere in `tokens`."""
        self.tokens, self.seed, self.rank = tokens, seed, rank

    def rows(self, step: int, count: int, length: int, purpose: int = 0) -> Tensor:
        """Token ids [count, length], int64; other purposes of one step draw other rows."""
        draw = np.random.default_rng([self.seed, self.rank, step, purpose])
        starts = draw.integers(0, len(self.tokens) - length, count)
        rows = np.stack([self.tokens[start : start + length] for start in starts])
        return torch.from_numpy(rows.astype(np.int64))


class OwnText:
    """Rows that a network wrote itself after training text, made anew every so many steps."""

    PROMPT, ROWS, SAMPLED, EVERY = 64, 192, 64, 50

    def __init__(self, network: Network, batches: Batches, length: int) -> None:
        """Two thirds of the rows [length] are greedy, the others sampled at temperature 1."""
        self._network, self._batches, self._length = network, batches, length
        self._made: tuple[int, Tensor] | None = None

    def write(self, rows: Tensor, sampled: int = 0, seed: int = 0) -> Tensor:
        """The beginnings of `rows` and what the network makes of them, [B, length]."""
        random = torch.Generator().manual_seed(seed)
        count = self._length - self.PROMPT
        return write(self._network, rows[:, : self.PROMPT], count, sampled, random)

    def rows(self, step: int, count: int) -> Tensor:
        """Token ids [count, length] for a step."""
        batches, turn = self._batches, step // self.EVERY
        if self._made is None or self._made[0] != turn:
            prompts = batches.rows(step, self.ROWS, self.PROMPT, purpose=1)
            key = [batches.seed, batches.rank, step, 3]
            seed = int(np.random.default_rng(key).integers(2**62))
            self._made = turn, self.write(prompts, self.SAMPLED, seed)
        draw = np.random.default_rng([batches.seed, batches.rank, step, 2])
        return self._made[1][torch.from_numpy(draw.integers(0, self.ROWS, count))]


def chance(seed: int, step: int) -> random.Random:
    """The random choices of a step that all processes share (its kind, its route)."""
    return random.Random(f"{seed}/{step}")


class Trainer:
    """One network, its two optimisers, and where they are kept between runs."""

    def __init__(
        self, network: Network, folder: Path, name: str, steps: int, flat: float, seed: int
    ) -> None:
        """Resumes from the newest checkpoint in `folder`, if there is one.

        Args:
            network: trained in place.
            folder: for checkpoints and the log.
            name: of the files.
            steps: in all; the learning rate falls to 0 there.
            flat: share of the steps at full learning rate, before it falls.
            seed: noted in the checkpoint: a run with another one does not resume it.
        """
        self.network, self.steps, self.flat, self.seed = network, steps, flat, seed
        self.rank = dist.get_rank() if dist.is_initialized() else 0
        self.processes = dist.get_world_size() if dist.is_initialized() else 1
        named = list(network.named_parameters())
        matrices = [p for key, p in named if p.ndim == 2 and key != "embedding"]
        others = [p for key, p in named if p.ndim != 2 or key == "embedding"]
        self.muon = Muon(matrices)
        self.adam = torch.optim.AdamW(
            others, OTHER_RATE, betas=(0.9, 0.98), weight_decay=0.0, fused=True
        )
        folder.mkdir(parents=True, exist_ok=True)
        self.checkpoint, self.log = folder / f"{name}.pt", folder / f"{name}.csv"
        self.step, self.tokens, self.seconds = 0, 0, 0.0
        if self.checkpoint.is_file():
            self._resume()
        elif self.rank == 0:
            self.log.unlink(missing_ok=True)

    def _resume(self) -> None:
        state = torch.load(self.checkpoint, weights_only=True)
        for key, mine in (("steps", self.steps), ("seed", self.seed)):
            if state[key] != mine:
                text = f"{self.checkpoint} is of a run with {key} {state[key]}, not {mine}"
                raise SystemExit(f"{text}: name another folder or remove it")
        self.network.load_state_dict(state["network"], strict=False)
        self.adam.load_state_dict(state["adam"])
        for buffer, kept in zip(self.muon.buffers, state["muon"], strict=True):
            buffer.copy_(kept)
        self.step, self.tokens, self.seconds = state["step"], state["tokens"], state["seconds"]

    def save(self) -> None:
        """Write the checkpoint; an interruption leaves the one before."""
        if self.rank:
            return
        state = {
            "network": self.network.state_dict(),
            "adam": self.adam.state_dict(),
            "muon": self.muon.buffers,
        }
        facts = {
            name: getattr(self, name) for name in ("step", "steps", "seed", "tokens", "seconds")
        }
        unfinished = self.checkpoint.with_suffix(".part")
        torch.save(state | facts, unfinished)
        os.replace(unfinished, self.checkpoint)

    @property
    def progress(self) -> float:
        """Share of the steps done."""
        return self.step / self.steps

    def update(self, loss: Tensor) -> None:
        """Gradients of `loss`, averaged over the processes, and one step of both optimisers."""
        loss.backward()
        weights = [p for p in self.network.parameters() if p.grad is not None]
        if self.processes > 1:
            flat = torch.cat([p.grad.flatten() for p in weights if p.grad is not None])
            dist.all_reduce(flat)
            flat /= self.processes
            parts = flat.split([p.numel() for p in weights])
            for p, part in zip(weights, parts, strict=True):
                p.grad = part.view_as(p)
        warm = min(1.0, (self.step + 1) / WARMUP_STEPS)
        rate = warm * min(1.0, (1.0 - self.progress) / (1.0 - self.flat))
        self.muon.step(MATRIX_RATE * rate)
        for group in self.adam.param_groups:
            group["lr"] = OTHER_RATE * rate
        self.adam.step()
        for p in self.network.parameters():
            p.grad = None
        self.step += 1

    def run(
        self,
        step_loss: Callable[[int], tuple[Tensor, int]],
        measure: Callable[[], dict[str, float]],
        every: int,
    ) -> None:
        """Train to the end.

        Args:
            step_loss: of a step's number; returns the loss and the tokens of this process.
            measure: held-out figures, called in the first process every `every` steps.
            every: also checkpoints are written then.
        """
        show = _progress(self.rank, self.steps, self.step)
        smooth: float | None = None
        start = time.monotonic() - self.seconds
        while self.step < self.steps:
            loss, tokens = step_loss(self.step)
            self.update(loss)
            self.tokens += tokens * self.processes
            smooth = loss.item() if smooth is None else 0.95 * smooth + 0.05 * loss.item()
            show(self.step, f"loss {smooth:.3f}")
            if self.step % every == 0 or self.step == self.steps:
                self.seconds = time.monotonic() - start
                if self.rank == 0:
                    facts: dict[str, Any] = {"step": self.step, "tokens": self.tokens}
                    facts |= {"seconds": round(self.seconds)}
                    facts |= {name: round(value, 4) for name, value in measure().items()}
                    _append(self.log, facts)
                    print(" ".join(f"{name} {value}" for name, value in facts.items()), flush=True)
                self.save()
                if self.processes > 1:
                    dist.barrier()


def _append(log: Path, facts: dict[str, Any]) -> None:
    new = not log.is_file()
    with log.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, facts)
        if new:
            writer.writeheader()
        writer.writerow(facts)


def _progress(rank: int, steps: int, done: int) -> Callable[[int, str], None]:
    """A progress bar where there is a terminal, in the first process."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    if rank or not console.is_terminal:
        return lambda step, text: None
    bar = Progress(console=console)
    bar.start()
    task = bar.add_task("training", total=steps, completed=done)

    def show(step: int, text: str) -> None:
        bar.update(task, completed=step, description=text)
        if step == steps:
            bar.stop()

    return show


def start(rank: int, processes: int, port: int) -> None:
    """Join the other processes; one thread each (two processes beat one with two threads)."""
    torch.set_num_threads(1)
    if processes > 1:
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        dist.init_process_group("gloo", rank=rank, world_size=processes)
