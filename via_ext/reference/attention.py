# SPDX-License-Identifier: Apache-2.0
"""Tree attention: the new tokens of a draft tree over a KV cache and their own ancestors."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

Place = tuple[int, int]
"""Index of a position in the two leading dimensions of a cache."""


class _Row(NamedTuple):
    """One well-formed batch row.

    Attributes:
        context: positions in the cache before the call.
        depths: of each new token; a root of the forest has 0.
        paths: of each new token, its ancestors and itself, ascending.
        places: of the positions from `first` on, the new ones included.
        first: the lowest position that any token sees.
    """

    context: int
    depths: list[int]
    paths: list[list[int]]
    places: list[Place]
    first: int


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
    """Writes the new keys and values to the cache, then attends, all in float64.

    Token i stands at position context + depth(i); it sees the positions below the context, its
    ancestors and itself, with a window only positions > own position - window. Its key and value
    are written at context + i. A row with num_tokens outside [0, M], with a parent outside [-1, i),
    with positions outside the cache, or whose tokens see or write a page outside the pool, writes
    nothing and gets zeros, as do tokens from num_tokens on; their log-sum-exp is -inf.

    Args:
        query: [B, M, Hq, D].
        key: [B, M, Hkv, D], after RoPE; query head h belongs to key head h // (Hq / Hkv).
        value: [B, M, Hkv, D].
        key_cache: [B, S, Hkv, D], or paged [pages, page_size, Hkv, D]; written.
        value_cache: like key_cache; written.
        context_lens: [B] int.
        parents: [M] or [B, M] int, -1 = attends to the cache only; None = chain.
        num_tokens: [B] int; None = M.
        scale: of the scores; None = 1 / sqrt(D).
        softcap: scores become softcap * tanh(score / softcap).
        window: positions seen, the own one included.
        page_table: [B, max_pages] int32: page of the positions from i * page_size on.
        return_lse: also return the log-sum-exp of the scores.

    Returns:
        out [B, M, Hq, D] float64; with return_lse also lse [B, M, Hq] float64.
    """
    batch_size, num_new, num_heads, head_dim = query.shape
    factor = head_dim**-0.5 if scale is None else scale
    out = torch.zeros(query.shape, dtype=torch.float64)
    lse = torch.full(query.shape[:3], -math.inf, dtype=torch.float64)
    for b in range(batch_size):
        chain = torch.arange(-1, num_new - 1)
        tree = (chain if parents is None else parents).expand(batch_size, -1)[b].tolist()
        count = num_new if num_tokens is None else int(num_tokens[b])
        row = _read_row(int(context_lens[b]), tree, count, window, key_cache, b, page_table)
        if row is None:
            continue
        for i in range(count):
            key_cache[row.places[row.context - row.first + i]] = key[b, i]
            value_cache[row.places[row.context - row.first + i]] = value[b, i]
        for i in range(count):
            seen = _seen(row, i, window)
            keys, values = key_cache[seen].double(), value_cache[seen].double()
            for head in range(num_heads):
                kv_head = head // (num_heads // key.shape[2])
                scores = factor * (keys[:, kv_head] @ query[b, i, head].double())
                if softcap is not None:
                    scores = softcap * (scores / softcap).tanh()
                out[b, i, head] = scores.softmax(0) @ values[:, kv_head]
                lse[b, i, head] = scores.logsumexp(0)
    return (out, lse) if return_lse else out


def _read_row(
    context: int,
    tree: list[int],
    count: int,
    window: int | None,
    cache: Tensor,
    b: int,
    page_table: Tensor | None,
) -> _Row | None:
    """The row, or None if it is malformed."""
    if not 0 <= count <= len(tree) or context < 0:
        return None
    size = cache.shape[1]
    capacity = size if page_table is None else page_table.shape[1] * size
    if context + count > capacity:
        return None
    depths: list[int] = []
    paths: list[list[int]] = []
    for i, parent in enumerate(tree[:count]):
        if not -1 <= parent < i:
            return None
        depths.append(0 if parent < 0 else depths[parent] + 1)
        paths.append([*([] if parent < 0 else paths[parent]), i])
    # The roots see furthest back.
    first = 0 if window is None else max(context - window + 1, 0)
    places: list[Place] = []
    for position in range(first, context + count):
        if page_table is None:
            places.append((b, position))
            continue
        page = int(page_table[b, position // size])
        if not 0 <= page < cache.shape[0]:
            return None
        places.append((page, position % size))
    return _Row(context, depths, paths, places, first)


def _seen(row: _Row, i: int, window: int | None) -> tuple[list[int], list[int]]:
    """Where the keys stand that token i sees: an index into a cache, [n, Hkv, D]."""
    own = row.context + row.depths[i]
    after = -1 if window is None else own - window
    cached = [p for p in range(row.first, row.context) if p > after]
    new = [row.context + j for j in row.paths[i] if row.context + row.depths[j] > after]
    places = [row.places[position - row.first] for position in cached + new]
    return [block for block, _ in places], [slot for _, slot in places]
