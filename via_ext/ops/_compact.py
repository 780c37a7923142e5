# SPDX-License-Identifier: Apache-2.0
"""ops.compact_kv."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from via_ext.ops._common import _C, tracing


def run(caches: Sequence[Tensor], *args: Any) -> None:
    """`compact_kv` on real tensors, every argument positional."""
    arguments = [caches, *args, torch.get_num_threads()]
    _C.compact_kv(*arguments)


def compact_kv(
    caches: Sequence[Tensor],
    context_lens: Tensor,
    path: Tensor,
    num_accepted: Tensor,
    *,
    page_table: Tensor | None = None,
) -> None:
    """Moves the cache rows of the accepted path to where the sequence continues, in place.

    In every row b and for i < num_accepted[b], position context_lens[b] + 1 + i receives what
    stood at context_lens[b] + 1 + path[b, i]. A path entry that is out of range or not above the
    one before, or a position beyond the cache, ends the moves of that row. One call serves all
    layers. Views of one storage are fine as long as they share no element. CUDA: one launch per 512
    caches on the current stream of their device, no synchronisation; may be captured in a graph.

    Args:
        caches: list or tuple of [B, S, H, D], or paged [pages, page_size, H, D]; H, D and dtype
            may differ between caches; any strides without overlap, the last dimension contiguous.
        context_lens: [B] int32 or int64, the position of the root (of the last committed token).
        path: [B, N] int32 or int64, accepted nodes in ascending order, padded -1; N <= 127.
        num_accepted: [B] int32 or int64.
        page_table: [B, max_pages] int32, the page of each run of page_size positions; page_size
            is a power of two; a page in or from which rows move stands in the table once.

    Raises:
        TypeError: wrong dtype or argument type.
        ValueError: wrong shape, stride or device, or a cache listed twice.
        RuntimeError: CUDA failed, or CUDA tensors in a build without CUDA.
    """
    call = run
    if tracing():
        from via_ext import torch_ops

        call = torch_ops.compact_kv
    call(caches, context_lens, path, num_accepted, page_table)
