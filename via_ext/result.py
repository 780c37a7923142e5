# SPDX-License-Identifier: Apache-2.0
"""What a decoding run hands back: `DecodeResult` at its end, `StepOutput` on the way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from via_ext.stats import DecodeStats

if TYPE_CHECKING:
    from via_ext.engines.choose import AnySession


@dataclass(frozen=True)
class DecodeResult:
    """What a run produced.

    Attributes:
        sequences: [B, T + max_new_tokens] int64, prompt and new tokens from column 0 on,
            right-padded with the model's pad id, else its end-of-sequence id, else 0. T is the
            longest prompt.
        lengths: [B] int64, tokens per row, prompt included.
        logprobs: [B, max_new_tokens] float32 of the new tokens, padded 0. In mode "exact" and with
            an audit all are the full model's; else tiers 0 and 1 are the slim verifier's.
        tiers: [B, max_new_tokens] uint8 of the new tokens: 0 draft token accepted by the slim
            verifier, 1 the slim verifier's own token, 2 decided by the full model; padded 255.
        status: [B] int32, status bits of `ops.verify` or-ed over the run, 0 = nothing odd.
        stats: totals of the run.
    """

    sequences: torch.Tensor
    lengths: torch.Tensor
    logprobs: torch.Tensor
    tiers: torch.Tensor
    status: torch.Tensor
    stats: DecodeStats


@dataclass(frozen=True)
class StepOutput:
    """New tokens of one step that can no longer be rolled back; lists per batch row.

    Attributes:
        tokens: token ids, empty for rows with nothing new.
        tiers: as in `DecodeResult`.
        logprobs: as in `DecodeResult`.
        finished: True for rows that have ended.
    """

    tokens: list[list[int]]
    tiers: list[list[int]]
    logprobs: list[list[float]]
    finished: list[bool]


def confirmed(session: AnySession) -> StepOutput:
    """Takes the tokens that were confirmed since the last call."""
    output = StepOutput([], [], [], [])
    for request in session.requests:
        first, last = request.emitted, request.confirmed
        offset = request.prompt_length
        output.tokens.append(request.tokens[first:last])
        output.tiers.append(request.tiers[first - offset : last - offset])
        output.logprobs.append(request.logprobs[first - offset : last - offset])
        output.finished.append(request.finished)
        request.emitted = last
    return output


def collect(session: AnySession, max_new_tokens: int, pad: int, stats: DecodeStats) -> DecodeResult:
    """Gathers a finished session into padded tensors.

    Args:
        session: its requests are read.
        max_new_tokens: width of the per-token outputs.
        pad: id that fills `sequences`.
        stats: totals of the run.
    """
    requests = session.requests
    width = max(request.prompt_length for request in requests) + max_new_tokens
    sequences = torch.full((len(requests), width), pad, dtype=torch.int64)
    logprobs = torch.zeros(len(requests), max_new_tokens)
    tiers = torch.full((len(requests), max_new_tokens), 255, dtype=torch.uint8)
    for row, request in enumerate(requests):
        sequences[row, : len(request.tokens)] = torch.tensor(request.tokens)
        logprobs[row, : request.generated] = torch.tensor(request.logprobs)
        tiers[row, : request.generated] = torch.tensor(request.tiers, dtype=torch.uint8)
    lengths = torch.tensor([len(request.tokens) for request in requests])
    status = torch.tensor(session.status, dtype=torch.int32)
    return DecodeResult(sequences, lengths, logprobs, tiers, status, stats)
