# SPDX-License-Identifier: Apache-2.0
"""Drop-in for rejection_sample of vllm/v1/sample/rejection_sampler.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from via_ext.compat._common import MAX_NODES, Arguments, emitted_tokens, view_rows
from via_ext.ops._verification import Verification
from via_ext.ops._verify import verify_rows

__all__ = ["PLACEHOLDER_TOKEN_ID", "rejection_sample"]

PLACEHOLDER_TOKEN_ID = -1

_OP = "rejection_sample"


def rejection_sample(
    draft_token_ids: Tensor,
    num_draft_tokens: list[int],
    max_spec_len: int,
    cu_num_draft_tokens: Tensor,
    draft_probs: Tensor | None,
    target_probs: Tensor,
    bonus_token_ids: Tensor,
    sampling_metadata: Any,
) -> Tensor:
    """Lossless acceptance of ragged chains of drafts, greedy and random requests mixed.

    Random requests: draft x passes iff u * q(x) < p(x) (q = 1 without draft_probs); the first that
    fails is replaced by a draw from max(p - q, 0), or from p without x. Greedy requests: a draft
    passes iff it is the row's argmax, which replaces it otherwise. If all pass, the request's
    bonus token follows. CUDA: no host synchronisation.

    Unlike vLLM: only the rows on the way to the first rejection are read, and one token is drawn
    per request instead of one per draft; a draft whose q is 0 is judged like any other (u * 0 <
    p), not rejected; NaN rows give ids inside the vocabulary; -1 and other ids outside it are
    never accepted; counts that do not fit are cut. Uniforms are float32 of torch.rand, or of the
    request's generator: num_draft_tokens of them, then one for the draw; a request without drafts
    takes none. The numbers that follow from a seed are not vLLM's.

    Args:
        draft_token_ids: [T] int32 or int64, all requests' drafts one after the other.
        num_draft_tokens: drafts of each of the B requests; T together.
        max_spec_len: at least the largest of them, K <= 127.
        cu_num_draft_tokens: [B] int32 or int64, sums up to and with each request.
        draft_probs: [T, V] distribution each draft was drawn from, or None (one-hot).
        target_probs: [T, V]; where all requests are greedy, logits will do.
        bonus_token_ids: [B, 1] or [B] int32 or int64; any ids.
        sampling_metadata: has `all_greedy`, `all_random`, `temperature` ([B] float; a request with
            temperature <= 0 is greedy, unless all_random) and `generators` (request ->
            torch.Generator).

    Returns:
        [B, K+1] int32, padded -1.

    Raises:
        TypeError: wrong dtype or argument type.
        ValueError: wrong shape, device or range.
        RuntimeError: CUDA failed, or CUDA tensors in a build without CUDA.
    """
    arguments = Arguments(_OP, target_probs, "target_probs")
    probs = arguments.rows("target_probs", target_probs, (None, None), "[T, V]")
    num_tokens, vocab_size = probs.shape
    ids = arguments.ids("draft_token_ids", draft_token_ids, (num_tokens,), "[T]")
    if not isinstance(num_draft_tokens, Sequence):
        got = type(num_draft_tokens).__name__
        raise TypeError(f"{_OP}: num_draft_tokens must be a list of integers, got {got}")
    batch_size = len(num_draft_tokens)
    if isinstance(max_spec_len, bool) or not isinstance(max_spec_len, int):
        got = type(max_spec_len).__name__
        raise TypeError(f"{_OP}: max_spec_len must be an integer, got {got}")
    largest = max(num_draft_tokens, default=0)
    if max_spec_len < largest:
        raise ValueError(f"{_OP}: max_spec_len must be at least {largest}, got {max_spec_len}")
    arguments.at_most("max_spec_len", max_spec_len, MAX_NODES)
    ends = arguments.ids("cu_num_draft_tokens", cu_num_draft_tokens, (batch_size,), "[B]").long()
    bonus = arguments.tensor("bonus_token_ids", bonus_token_ids)
    sizes = (batch_size,) if bonus.dim() == 1 else (batch_size, 1)
    bonus = arguments.ids("bonus_token_ids", bonus, sizes, "[B, 1] or [B]").reshape(-1).long()
    draft = None
    if draft_probs is not None:
        draft = arguments.rows("draft_probs", draft_probs, (num_tokens, vocab_size), "[T, V]")
    temperature = _temperature(arguments, sampling_metadata, batch_size)
    if batch_size == 0 or num_tokens == 0:
        drafts = torch.full((batch_size, max_spec_len), -1, device=arguments.device)
        accepted = torch.zeros(batch_size, dtype=torch.int64, device=arguments.device)
        return emitted_tokens(drafts, accepted, bonus, torch.int32)
    # Where the drafts of request b are; what lies past its count is cut by num_nodes.
    ends = ends.clamp(0, num_tokens)
    starts = torch.nn.functional.pad(ends[:-1], (1, 0))
    counts = (ends - starts).clamp(0, max_spec_len)
    steps = torch.arange(max_spec_len + 1, device=arguments.device)
    index = (starts[:, None] + steps).clamp(max=num_tokens - 1)
    drafts = ids[index[:, :-1]]
    common: dict[str, Any] = {"num_nodes": counts, "logits_offsets": index * probs.stride(0)}
    rows = view_rows(probs, batch_size, max_spec_len + 1)
    result: Verification
    if temperature is None:
        result = verify_rows(drafts, rows, "greedy", temperature=0.0, **common)
    else:
        if draft is not None:
            common["draft_probs"] = view_rows(draft, batch_size, max_spec_len)
            common["draft_offsets"] = index[:, :-1].contiguous() * draft.stride(0)
        result = verify_rows(
            drafts,
            rows,
            "sample",
            temperature=temperature,
            uniform_samples=_uniforms(arguments, sampling_metadata, num_draft_tokens, max_spec_len),
            logits_are_probs=True,
            **common,
        )
    next_token = torch.where(result.num_accepted >= counts, bonus, result.next_token)
    return emitted_tokens(drafts, result.num_accepted, next_token, torch.int32)


def _temperature(arguments: Arguments, metadata: Any, batch_size: int) -> Tensor | float | None:
    """None: all greedy. Otherwise 1 (the probabilities are ready), and 0 for greedy requests."""
    if metadata.all_greedy:
        return None
    if metadata.all_random:
        return 1.0
    given = metadata.temperature
    if given is None:
        where = "be given unless all_greedy or all_random"
        raise ValueError(f"{_OP}: sampling_metadata.temperature must {where}, got None")
    given = arguments.floats("sampling_metadata.temperature", given, (batch_size,), "[B]")
    return (given > 0).float()


def _uniforms(arguments: Arguments, metadata: Any, counts: Sequence[int], columns: int) -> Tensor:
    """[B, K+1]: a coin for each draft, the final draw in the last column."""
    device = arguments.device
    uniforms = torch.rand((len(counts), columns + 1), dtype=torch.float32, device=device)
    generators: Mapping[int, torch.Generator] = getattr(metadata, "generators", None) or {}
    for request, generator in generators.items():
        count = counts[request] if 0 <= request < len(counts) else 0
        if count == 0:
            continue
        own = torch.rand(count + 1, generator=generator, dtype=torch.float32, device=device)
        uniforms[request, :count] = own[:-1]
        uniforms[request, columns] = own[-1]
    return uniforms
