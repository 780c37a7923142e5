# SPDX-License-Identifier: Apache-2.0
"""Drop-in for flashinfer.sampling.chain_speculative_sampling (0.7)."""

from __future__ import annotations

import torch
from torch import Tensor

from via_ext.compat._common import MAX_NODES, Arguments, emitted_tokens
from via_ext.ops._verify import verify_rows

__all__ = ["chain_speculative_sampling"]

_OP = "chain_speculative_sampling"
# Offsets lie below; above is the batch row, so that rows of one seed never share a counter.
_ROW_BIT = 40

Counter = int | Tensor | None


def _counter(arguments: Arguments, name: str, value: int | Tensor, batch_size: int) -> Tensor:
    """`seed` or `offset` as [B] int64."""
    if isinstance(value, Tensor):
        if value.dtype not in (torch.int64, torch.uint64):
            raise TypeError(f"{_OP}: {name} must be an integer or int64, got {value.dtype}")
        if value.dim() != 1 or value.shape[0] not in (1, batch_size):
            shape = list(value.shape)
            raise ValueError(f"{_OP}: {name} must have length 1 or {batch_size}, got {shape}")
        arguments.shaped(name, value, (None,), "[1] or [B]")
        return value.view(torch.int64).expand(batch_size).contiguous()
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{_OP}: {name} must be an integer or int64, got {type(value).__name__}")
    signed = (value + 2**63) % 2**64 - 2**63
    return torch.full((batch_size,), signed, dtype=torch.int64, device=arguments.device)


def _streams(
    arguments: Arguments, seed: Counter, offset: Counter, batch_size: int
) -> tuple[Tensor, Tensor]:
    """Philox keys and counters, [B] each."""
    if seed is None:
        raise ValueError(f"{_OP}: seed must be given with offset, got None")
    if offset is not None and isinstance(seed, Tensor) != isinstance(offset, Tensor):
        kinds = f"{type(seed).__name__} and {type(offset).__name__}"
        raise ValueError(f"{_OP}: seed and offset must both be integers or tensors, got {kinds}")
    rows = torch.arange(batch_size, device=arguments.device) << _ROW_BIT
    start = _counter(arguments, "offset", 0 if offset is None else offset, batch_size)
    return _counter(arguments, "seed", seed, batch_size), start + rows


def chain_speculative_sampling(
    draft_probs: Tensor,
    draft_token_ids: Tensor,
    target_probs: Tensor,
    maybe_output_accepted_token_num: Tensor | None = None,
    maybe_output_emitted_draft_token_num: Tensor | None = None,
    deterministic: bool = True,
    generator: torch.Generator | None = None,
    seed: int | Tensor | None = None,
    offset: int | Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Lossless acceptance of a chain of drafts: draft i passes iff u_i * q(x_i) < p(x_i).

    The first draft that fails is replaced by a draw from max(p - q, 0) there; if none fails, a
    token is drawn from the last row of `target_probs`. Probabilities are used as they stand.
    CUDA: no host synchronisation, as with FlashInfer's tensor seeds; may be captured in a graph.

    Unlike FlashInfer: ids outside the vocabulary, -1 among them, are never accepted and never
    read; rows without mass give id 0 and not whatever lies in shared memory; int64 counters are
    added to as well; a seed without an offset is used, with offset 0; a row of probabilities may
    be float16 or bfloat16 and is not copied. The numbers behind a seed are Philox4x32-10 of (seed;
    offset, row, position), other ones than theirs; without a seed they come from torch.rand.

    Args:
        draft_probs: [B, K, V], the distribution each draft was drawn from (q).
        draft_token_ids: [B, K] int32 or int64, K <= 127.
        target_probs: [B, K+1, V] (p).
        maybe_output_accepted_token_num: [B] int32 or int64, added to in place.
        maybe_output_emitted_draft_token_num: [B] int32 or int64, added to in place.
        deterministic: results always are; accepted for the signature's sake.
        generator: source of the uniforms when no seed is given, of the tensors' device.
        seed: a number, or int64 of length 1 or B. The same (seed, offset) gives the same tokens.
        offset: as `seed`, and of the same kind; below 2^40.

    Returns:
        output_token_ids [B, K+1] int32, padded -1; accepted [B], drafts that pass each by itself,
        whether or not an earlier one failed; emitted [B], drafts kept. The counters are the given
        tensors, else new int32.

    Raises:
        TypeError: wrong dtype or argument type.
        ValueError: wrong shape, device or combination of arguments.
        RuntimeError: CUDA failed, or CUDA tensors in a build without CUDA.
    """
    arguments = Arguments(_OP, draft_token_ids, "draft_token_ids")
    ids = arguments.ids("draft_token_ids", draft_token_ids, (None, None), "[B, K]")
    batch_size, steps = ids.shape
    arguments.at_most("draft_token_ids.shape[1]", steps, MAX_NODES)
    target = arguments.rows(
        "target_probs", target_probs, (batch_size, steps + 1, None), "[B, K+1, V]"
    )
    vocab_size = target.shape[-1]
    draft = arguments.rows("draft_probs", draft_probs, (batch_size, steps, vocab_size), "[B, K, V]")
    counters = [
        torch.zeros(batch_size, dtype=torch.int32, device=arguments.device)
        if given is None
        else arguments.output(name, given, (batch_size,), "[B]")
        for name, given in (
            ("maybe_output_accepted_token_num", maybe_output_accepted_token_num),
            ("maybe_output_emitted_draft_token_num", maybe_output_emitted_draft_token_num),
        )
    ]
    keys = position = uniforms = None
    if seed is not None or offset is not None:
        keys, position = _streams(arguments, seed, offset, batch_size)
    elif generator is not None and generator.device.type != arguments.device.type:
        where = f"be on {arguments.device.type} as draft_token_ids is"
        raise ValueError(f"{_OP}: generator must {where}, got {generator.device}")
    if batch_size == 0:
        tokens = torch.empty((0, steps + 1), dtype=torch.int32, device=arguments.device)
        return tokens, counters[0], counters[1]
    coins = torch.empty((batch_size, steps + 1), dtype=torch.float32, device=arguments.device)
    if keys is None:
        uniforms = torch.empty_like(coins).uniform_(generator=generator)
    result = verify_rows(
        ids if ids.stride(-1) == 1 else ids.contiguous(),
        target,
        "sample",
        draft_probs=draft,
        uniform_samples=uniforms,
        seed=keys,
        position=position,
        logits_are_probs=True,
        coins=coins,
    )
    counters[0].add_(_count_passing(ids, draft, target, coins))
    counters[1].add_(result.num_accepted)
    tokens = emitted_tokens(ids, result.num_accepted, result.next_token, torch.int32)
    return tokens, counters[0], counters[1]


def _count_passing(ids: Tensor, draft: Tensor, target: Tensor, coins: Tensor) -> Tensor:
    """Drafts with u * q < p, [B]: the same test as the native one, float64."""
    exists = (ids >= 0) & (ids < target.shape[-1])
    index = ids.long().clamp(0, target.shape[-1] - 1)[..., None]
    q = draft.gather(2, index)[..., 0].double()
    p = target[:, :-1].gather(2, index)[..., 0].double()
    taken = torch.where(q > 0, q, 0.0)
    return (exists & (coins[:, :-1].double() * taken < p)).sum(1)
