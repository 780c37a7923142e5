# SPDX-License-Identifier: Apache-2.0
"""The table of `via-ext demo`: ways to decode the same prompts, measured side by side."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import torch

from via_ext.config import ViaConfig
from via_ext.decode import Decoder
from via_ext.demo import EmbeddedPair
from via_ext.demo_methods import METHODS, Method, make_decoder, methods_for
from via_ext.models import slim_view
from via_ext.stats import DecodeStats


@dataclass
class Row:
    """Measurements of one method over all prompts.

    Attributes:
        name: of the method.
        tokens: emitted tokens.
        seconds: time of decoding steps; prompts are read before the clock starts.
        ratio: speed relative to plain greedy, 0 until `compare` has set it.
        slim_per_token: slim passes per emitted token.
        full_per_token: full passes per emitted token.
        accept: share of the slim verifier's verdicts, None without a slim verifier; the same for
            `regenerate` and `escalate`.
        rejection: share of examined draft tokens that were not kept, None without drafts.
        agreement: share of emitted tokens that are the full model's first choice in the emitted
            context.
        full_per_step: full passes per decoding step.
        tokens_per_step: emitted tokens per decoding step.
        overhead: share of `seconds` outside the models' forward passes.
        fastest: no row is faster at this agreement or a better one.
    """

    name: str
    tokens: int = 0
    seconds: float = 0.0
    ratio: float = 0.0
    slim_per_token: float = 0.0
    full_per_token: float = 0.0
    accept: float | None = None
    regenerate: float | None = None
    escalate: float | None = None
    rejection: float | None = None
    agreement: float = 0.0
    full_per_step: float = 0.0
    tokens_per_step: float = 0.0
    overhead: float = 0.0
    fastest: bool = False

    @property
    def tokens_per_second(self) -> float:
        """Emitted tokens per second of decoding."""
        return self.tokens / self.seconds if self.seconds else 0.0

    def to_dict(self) -> dict[str, Any]:
        """All fields and the speed, ready for JSON."""
        return {**asdict(self), "tokens_per_second": self.tokens_per_second}


class Run(NamedTuple):
    """One method on one prompt.

    Attributes:
        sequence: [T + new] int64, prompt and new tokens.
        new: number of new tokens.
        seconds: time of its decoding steps.
        forward_seconds: the part of it inside the models' forward passes.
        stats: totals.
    """

    sequence: torch.Tensor
    new: int
    seconds: float
    forward_seconds: float
    stats: DecodeStats


class PassCost(NamedTuple):
    """Seconds of one forward pass over a step's tokens, medians."""

    slim: float
    full: float


def run(decoder: Decoder, prompt: torch.Tensor) -> Run:
    """Decode one prompt ([T] int64) and keep what was measured."""
    steps = decoder.stream(prompt[None])  # reads the prompt, so the clocks start after it
    began, forward_began = decoder.step_seconds, decoder.forward_seconds
    new = [token for step in steps for token in step.tokens[0]]
    stats = decoder.stats
    if stats is None:
        raise RuntimeError("run: decoder must have statistics after a run, got None")
    return Run(
        torch.cat([prompt, torch.tensor(new, dtype=torch.int64)]),
        len(new),
        decoder.step_seconds - began,
        decoder.forward_seconds - forward_began,
        stats,
    )


def measure(
    pair: EmbeddedPair,
    prompts: Sequence[torch.Tensor],
    config: ViaConfig,
    progress: Callable[[], None] = lambda: None,
) -> list[Row]:
    """Run every method on every prompt, one prompt at a time, methods in turn.

    Taking turns spreads a disturbance of the machine over all rows.

    Args:
        pair: the embedded pair.
        prompts: token ids, each [T] int64.
        config: everything but mode and backlog.
        progress: called after each of the len(methods_for(pair)) * len(prompts) runs.

    Returns:
        One row per method, compared with plain greedy.
    """
    methods = list(methods_for(pair).values())
    decoders = [make_decoder(pair, method, config) for method in methods]
    runs: list[list[Run]] = [[] for _ in decoders]
    warm = replace(config, max_new_tokens=8, min_new_tokens=0)
    for method in methods:
        run(make_decoder(pair, method, warm), prompts[0])
    for ids in prompts:
        for done, decoder in zip(runs, decoders, strict=True):
            done.append(run(decoder, ids))
            progress()
    pairs = zip(methods, runs, strict=True)
    rows = [make_row(method, pair.target, done) for method, done in pairs]
    compare(rows)
    return rows


def make_row(method: Method, target: Any, runs: Sequence[Run]) -> Row:
    """Sum up the runs of one method."""
    tokens = sum(done.new for done in runs)
    seconds = sum(done.seconds for done in runs)
    stats = [done.stats for done in runs]
    steps = max(1, sum(item.steps for item in stats))
    full = sum(item.full_passes for item in stats)
    row = Row(method.name, tokens=tokens, seconds=seconds)
    row.slim_per_token = sum(item.slim_passes for item in stats) / max(1, tokens)
    row.full_per_token = full / max(1, tokens)
    row.full_per_step, row.tokens_per_step = full / steps, tokens / steps
    examined = sum(item.examined for item in stats)
    if examined:
        row.rejection = sum(item.rejection_rate * item.examined for item in stats) / examined
        if method.slim:
            # Rates are per prompt: weighted by the tokens they were taken over.
            row.accept, row.regenerate, row.escalate = (
                sum(getattr(item, f"{name}_rate") * item.examined for item in stats) / examined
                for name in ("accept", "regenerate", "escalate")
            )
    if seconds:
        row.overhead = max(0.0, 1.0 - sum(done.forward_seconds for done in runs) / seconds)
    agreed = sum(agreed_tokens(target, done.sequence, done.new) for done in runs)
    row.agreement = agreed / max(1, tokens)
    return row


@torch.inference_mode()
def agreed_tokens(target: Any, sequence: torch.Tensor, new: int) -> int:
    """Of the last `new` tokens of a [T] sequence, those that are argmax q after the ones before."""
    if not new:
        return 0
    logits = target(sequence[None, :-1], use_cache=False).logits[0, -new:]
    return int((logits.argmax(-1) == sequence[-new:]).sum())


def compare(rows: Sequence[Row]) -> None:
    """Set `ratio` (plain greedy = 1) and `fastest` in place."""
    plain = next(row for row in rows if row.name == METHODS["greedy"].name).tokens_per_second
    for row in rows:
        row.ratio = row.tokens_per_second / plain if plain else 0.0
    for row in rows:
        # Half a token in a thousand: argmax ties between two ways to sum are not disagreement.
        rivals = [other for other in rows if other.agreement >= row.agreement - 5e-4]
        row.fastest = row.ratio >= max(other.ratio for other in rivals)


@torch.inference_mode()
def pass_cost(pair: EmbeddedPair, num_tokens: int, repeats: int = 25) -> PassCost:
    """Time a slim and a full pass over `num_tokens` tokens, taking turns."""
    ids = torch.arange(num_tokens)[None]
    models = {"slim": slim_view(pair.target, pair.route), "full": pair.target}
    times: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(repeats):
        for name, model in models.items():
            began = time.perf_counter()
            model(ids, use_cache=False)
            times[name].append(time.perf_counter() - began)
    return PassCost(*(statistics.median(times[name]) for name in ("slim", "full")))
