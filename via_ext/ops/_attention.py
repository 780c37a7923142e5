# SPDX-License-Identifier: Apache-2.0
"""ops.tree_attention."""

from __future__ import annotations

from typing import Any, Literal, overload

import torch
from torch import Tensor

from via_ext.ops._common import _C, require_tensor, tracing


def empty_outputs(query: Tensor, return_lse: bool) -> tuple[Tensor, Tensor]:
    """`out` like the query, and the log-sum-exp of the scores (no elements if not wanted)."""
    out = torch.empty(query.shape, dtype=query.dtype, device=query.device)
    size = query.shape[:3] if return_lse else (0,)
    return out, torch.empty(size, dtype=torch.float32, device=query.device)


def run(query: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
    """`tree_attention` on real tensors, every argument positional."""
    require_tensor("tree_attention", "query", query)
    return_lse = args[-1]
    out, lse = empty_outputs(query, return_lse)
    outputs = [out, lse if return_lse else None, torch.get_num_threads()]
    _C.tree_attention(*[query, *args[:-1], *outputs])
    return out, lse


@overload
def tree_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    context_lens: Tensor,
    *,
    parents: Tensor | None = ...,
    num_tokens: Tensor | None = ...,
    scale: float | None = ...,
    softcap: float | None = ...,
    window: int | None = ...,
    page_table: Tensor | None = ...,
    return_lse: Literal[False] = ...,
) -> Tensor: ...


@overload
def tree_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    context_lens: Tensor,
    *,
    parents: Tensor | None = ...,
    num_tokens: Tensor | None = ...,
    scale: float | None = ...,
    softcap: float | None = ...,
    window: int | None = ...,
    page_table: Tensor | None = ...,
    return_lse: Literal[True],
) -> tuple[Tensor, Tensor]: ...


def tree_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    context_lens: Tensor,
    *,
    parents: Tensor | None = None,
    num_tokens: Tensor | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    window: int | None = None,
    page_table: Tensor | None = None,
    return_lse: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Attention of the new tokens of a draft tree to a KV cache and to their own ancestors.

    Token i of row b stands at text position context_lens[b] + depth(i), where a root of the forest
    has depth 0. It sees the cache positions below context_lens[b], its ancestors among the new
    tokens and itself: out = softmax(cap(scale * query . keys)) @ values, summed in float32. The new
    keys and values are written to the caches at positions context_lens[b] + i, in place.

    A token's result depends on what it sees alone: not on the batch, on tokens it does not see, or
    on the number of threads. A row with a parent outside [-1, i), num_tokens outside [0, M],
    context_lens negative or without room for its tokens, or, among the pages that its tokens see
    or are written to, one outside the pool: nothing is written to the cache, out is 0, lse -inf.

    Runs on the device of the tensors; CUDA: on the current stream, without synchronisation; may be
    captured in a graph.

    Args:
        query: [B, M, Hq, D] float32, float16 or bfloat16; M <= 128, D in {64, 80, 96, 128, 256}.
        key: [B, M, Hkv, D] of the same dtype, after RoPE; Hq is a multiple of Hkv, and query head h
            belongs to key head h // (Hq / Hkv).
        value: [B, M, Hkv, D].
        key_cache: [B, S, Hkv, D], or paged [pages, page_size, Hkv, D]; any strides without overlap,
            the last dimension contiguous. Hugging Face's [B, H, T, D] enters as transpose(1, 2).
        value_cache: like key_cache; may be a view of the same storage if no element is shared.
        context_lens: [B] int32 or int64, positions in the cache before the call.
        parents: [M] or [B, M] int32 or int64, index among the new tokens, below the token's own;
            -1 = sees the cache only. None = a chain.
        num_tokens: [B] int32 or int64; later tokens are ignored: nothing is written for them, their
            out is 0, their lse -inf. None = M.
        scale: of the scores, finite, > 0. None = 1 / sqrt(D).
        softcap: finite, > 0: cap(x) = softcap * tanh(x / softcap). None = off.
        window: >= 1: only positions > own position - window are seen. None = all.
        page_table: [B, max_pages] int32, the page of each run of page_size positions; page_size
            is a power of two; a page that is written stands in the table once.
        return_lse: also return the log-sum-exp of the scores.

    Returns:
        out [B, M, Hq, D], contiguous, of the dtype of the query; with return_lse a tuple of it and
        lse [B, M, Hq] float32, natural logarithm.

    Raises:
        TypeError: wrong dtype or argument type.
        ValueError: wrong shape, stride, device or range, or memory shared with a cache.
        RuntimeError: CUDA failed, or CUDA tensors in a build without CUDA.
    """
    call = run
    if tracing():
        from via_ext import torch_ops

        call = torch_ops.tree_attention
    arguments = (key, value, key_cache, value_cache, context_lens, parents, num_tokens)
    out, lse = call(query, *arguments, scale, softcap, window, page_table, return_lse)
    return (out, lse) if return_lse else out
