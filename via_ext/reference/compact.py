# SPDX-License-Identifier: Apache-2.0
"""Moving the cache rows of the accepted path to where the sequence continues."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def compact_kv(
    caches: Sequence[Tensor],
    context_lens: Tensor,
    path: Tensor,
    num_accepted: Tensor,
    *,
    page_table: Tensor | None = None,
) -> None:
    """Moves position context_lens + 1 + path[i] to context_lens + 1 + i, in place.

    A path entry outside [0, N), not above the one before it, or whose source lies outside the
    cache or on a page outside [0, pages), stops the moves of its batch row there.

    Args:
        caches: tensors [B, S, H, D], or paged [pages, page_size, H, D]; any dtypes and strides.
        context_lens: [B] int, the position of the root's row.
        path: [B, N] int, accepted nodes in order, padded -1.
        num_accepted: [B] int.
        page_table: [B, max_pages] int32: page of the positions from i * page_size on.
    """
    for b in range(len(path)):
        nodes = path[b, : max(int(num_accepted[b]), 0)].tolist()
        for cache in caches:
            _compact_row(cache, b, int(context_lens[b]), nodes, path.shape[1], page_table)


def _compact_row(
    cache: Tensor, b: int, context: int, nodes: list[int], num_nodes: int, page_table: Tensor | None
) -> None:
    last = -1
    for i, node in enumerate(nodes):
        if not last < node < num_nodes:
            return
        source = _locate(cache, b, context + 1 + node, page_table)
        target = _locate(cache, b, context + 1 + i, page_table)
        if source is None or target is None:
            return
        cache[target] = cache[source].clone()
        last = node


def _locate(
    cache: Tensor, b: int, position: int, page_table: Tensor | None
) -> tuple[int, int] | None:
    """Index of a position in the two leading dimensions; None if it lies outside."""
    size = cache.shape[1]
    if position < 0:
        return None
    if page_table is None:
        return (b, position) if position < size else None
    if position >= page_table.shape[1] * size:
        return None
    page = int(page_table[b, position // size])
    return (page, position % size) if 0 <= page < cache.shape[0] else None
