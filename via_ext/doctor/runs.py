# SPDX-License-Identifier: Apache-2.0
"""Short decodes of the prompts: what they emit, what they count, how long their steps take."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from via_ext.decode import Decoder
from via_ext.doctor.figures import Counts
from via_ext.engines.verify import TIER_FULL


class SampleRun(NamedTuple):
    """One decode of one prompt.

    Attributes:
        tokens: prompt and new tokens.
        counts: what was done.
        seconds: of all steps.
        forward_seconds: the part of it inside the models' forward passes.
        steady_tokens: emitted after the first output: a drafter reads the prompt before that.
        steady_seconds: of the steps that emitted these.
    """

    tokens: list[int]
    counts: Counts
    seconds: float
    forward_seconds: float
    steady_tokens: int
    steady_seconds: float


def sample_run(decoder: Decoder, prompt: torch.Tensor) -> SampleRun:
    """Decodes one prompt ([T] int64)."""
    outputs = decoder.stream(prompt[None])
    began, forward_began = decoder.step_seconds, decoder.forward_seconds
    first: tuple[float, int] | None = None
    new: list[int] = []
    slim_tokens = 0
    for output in outputs:
        new += output.tokens[0]
        slim_tokens += sum(tier != TIER_FULL for tier in output.tiers[0])
        if first is None:
            first = decoder.step_seconds, len(new)
    stats = decoder.stats
    assert stats is not None and first is not None
    ended = decoder.step_seconds
    counts = Counts(
        tokens=len(new),
        steps=stats.steps,
        slim_passes=stats.slim_passes,
        full_passes=stats.full_passes,
        drafted=stats.drafted,
        slim_tokens=slim_tokens,
    )
    return SampleRun(
        prompt.tolist() + new,
        counts,
        ended - began,
        decoder.forward_seconds - forward_began,
        len(new) - first[1],
        ended - first[0],
    )


@torch.inference_mode()
def agreed_tokens(target: Any, tokens: list[int], new: int) -> int:
    """Of the last `new` tokens, those that are the full model's first choice after the others."""
    logits = target(torch.tensor([tokens[:-1]]), use_cache=False).logits[0, -new:]
    return int((logits.argmax(-1) == torch.tensor(tokens[-new:])).sum())


def host_seconds(runs: Sequence[SampleRun]) -> float:
    """Seconds of a step outside forward passes."""
    steps = sum(run.counts.steps for run in runs)
    spent = sum(run.seconds - run.forward_seconds for run in runs)
    return max(0.0, spent / steps)


@dataclass(frozen=True)
class Check:
    """A prediction and what a decode took.

    Attributes:
        name: of the way.
        predicted: tokens per second by the cost model.
        measured: tokens per second, without the step that reads the prompt.
        error: predicted / measured - 1.
        setting: what was run.
    """

    name: str
    predicted: float
    measured: float
    error: float
    setting: str


def check_predictions(
    decoders: dict[str, tuple[Decoder, str]],
    seconds: dict[str, float],
    prompts: Sequence[torch.Tensor],
    progress: Callable[[], None] = lambda: None,
) -> list[Check]:
    """Decodes every prompt in every way, in turn, and compares.

    Args:
        decoders: by name of the way, with a word on their setting.
        seconds: predicted, per token, by name.
        prompts: token ids, each [T].
        progress: called after each decode.
    """
    spent = dict.fromkeys(decoders, 0.0)
    tokens = dict.fromkeys(decoders, 0)
    for prompt in prompts:
        for name, (decoder, _) in decoders.items():
            run = sample_run(decoder, prompt)
            spent[name] += run.steady_seconds
            tokens[name] += run.steady_tokens
            progress()
    found = []
    for name, (_, setting) in decoders.items():
        if tokens[name] == 0:
            continue  # every text ended with its first output
        measured, predicted = tokens[name] / spent[name], 1.0 / seconds[name]
        found.append(Check(name, predicted, measured, predicted / measured - 1.0, setting))
    return found
