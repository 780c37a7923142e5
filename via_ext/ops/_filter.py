# SPDX-License-Identifier: Apache-2.0
"""ops.filtered_probs and ops.draft_sample: what a drafter draws from, and its draws."""

from __future__ import annotations

from typing import Any, Literal, overload

import torch
from torch import Tensor

from via_ext.ops._common import _C, PerRow, int32_rows, require_tensor, tracing


def _flat(value: Any, *last: int) -> Any:
    """Leading dimensions of a tensor merged into one; anything else as it is."""
    return value.reshape(-1, *last) if isinstance(value, Tensor) else value


def _rows_of(out: Tensor, logits: Tensor) -> Tensor:
    """`out` as [R, V], without a copy."""
    require_tensor("filtered_probs", "out", out)
    if out.shape != logits.shape:
        shape, got = list(logits.shape), list(out.shape)
        raise ValueError(f"filtered_probs: out must have shape {shape} like logits, got {got}")
    try:
        return out.view(-1, out.shape[-1])
    except RuntimeError:
        raise ValueError(
            "filtered_probs: out must have leading dimensions that one stride can step through, "
            f"got strides {list(out.stride())}"
        ) from None


def run_filtered_probs(logits: Tensor, *args: Any) -> Tensor:
    """`filtered_probs` on real tensors, every argument positional."""
    require_tensor("filtered_probs", "logits", logits)
    temperature, top_k, top_p, min_p, allowed, out = args
    probs: Tensor = out
    if out is None:
        probs = torch.empty(logits.shape, dtype=torch.float32, device=logits.device)
    rows = probs
    if logits.ndim != 2 and logits.ndim > 0 and logits.shape[-1] > 0:
        if isinstance(allowed, Tensor) and allowed.ndim > 0:
            allowed = _flat(allowed, allowed.shape[-1])
        temperature, top_k, top_p, min_p = map(_flat, (temperature, top_k, top_p, min_p))
        rows = _rows_of(probs, logits)
        logits = _flat(logits, logits.shape[-1])
    _C.filtered_probs(
        *("filtered_probs", logits, temperature, int32_rows(top_k), top_p, min_p, allowed),
        *(None, None, 0, rows, None, torch.get_num_threads()),
    )
    return probs


def _outputs(logits: Tensor, return_probs: bool, out: Any) -> tuple[Tensor, Tensor | None]:
    """Where `draft_sample` writes."""
    if out is None:
        probs = None
        if return_probs:
            probs = torch.empty(logits.shape, dtype=torch.float32, device=logits.device)
        return torch.empty(logits.shape[:1], dtype=torch.int64, device=logits.device), probs
    if not isinstance(out, tuple) or len(out) != 2:
        what = f"{len(out)} elements" if isinstance(out, tuple) else type(out).__name__
        raise TypeError(f"draft_sample: out must be a pair (token_ids, probs), got {what}")
    require_tensor("draft_sample", "out[0]", out[0])
    if return_probs:
        require_tensor("draft_sample", "out[1]", out[1])
    elif out[1] is not None:
        raise ValueError("draft_sample: out[1] must be None with return_probs=False, got a tensor")
    return out[0], out[1]


def run_draft_sample(logits: Tensor, *args: Any) -> tuple[Tensor, Tensor | None]:
    """`draft_sample` on real tensors, every argument positional."""
    require_tensor("draft_sample", "logits", logits)
    temperature, top_k, top_p, min_p, allowed, seed, position, column, return_probs, out = args
    token_ids, probs = _outputs(logits, return_probs, out)
    _C.filtered_probs(
        *("draft_sample", logits, temperature, int32_rows(top_k), top_p, min_p, allowed),
        *(seed, position, column, probs, token_ids, torch.get_num_threads()),
    )
    return token_ids, probs


def filtered_probs(
    logits: Tensor,
    *,
    temperature: PerRow = 1.0,
    top_k: int | Tensor = 0,
    top_p: PerRow = 1.0,
    min_p: PerRow = 0.0,
    allowed: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """Softmax after mask, temperature, top-k, top-p and min-p, in this order.

    Args:
        logits: [..., V] float32, float16 or bfloat16.
        temperature: finite, >= 0; 0 gives one-hot rows at the argmax (lowest id on ties). A tensor
            has the leading shape of `logits`, like the next three.
        top_k: >= 0, 0 = off; keeps all ties of the k-th value.
        top_p: in (0, 1], 1 = off.
        min_p: in [0, 1], 0 = off.
        allowed: [..., ceil(V/32)] int32 bit words.
        out: [..., V] float32 to write into and return, apart from all inputs; its leading
            dimensions may have any strides that one stride can step through, such as `buffer[:, i]`
            of a [B, N, V] buffer.

    Returns:
        [..., V] float32, contiguous without `out`; rows sum to 1. A row with no finite allowed
        logit is one-hot at the lowest allowed id. On CUDA the work is queued on the current stream,
        may be captured in a graph, and nothing waits.

    Raises:
        TypeError: wrong dtype or argument type.
        ValueError: wrong shape, stride, device or range.
        RuntimeError: CUDA failures, or a build without CUDA.
    """
    call = run_filtered_probs
    if tracing():
        from via_ext import torch_ops

        call = torch_ops.filtered_probs
    return call(logits, temperature, top_k, top_p, min_p, allowed, out)


@overload
def draft_sample(
    logits: Tensor,
    *,
    temperature: PerRow = 1.0,
    top_k: int | Tensor = 0,
    top_p: PerRow = 1.0,
    min_p: PerRow = 0.0,
    allowed: Tensor | None = None,
    seed: Tensor | None = None,
    position: Tensor | None = None,
    column: int = 0,
    return_probs: Literal[True] = True,
    out: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]: ...
@overload
def draft_sample(
    logits: Tensor,
    *,
    temperature: PerRow = 1.0,
    top_k: int | Tensor = 0,
    top_p: PerRow = 1.0,
    min_p: PerRow = 0.0,
    allowed: Tensor | None = None,
    seed: Tensor | None = None,
    position: Tensor | None = None,
    column: int = 0,
    return_probs: Literal[False],
    out: tuple[Tensor, None] | None = None,
) -> tuple[Tensor, None]: ...
def draft_sample(
    logits: Tensor,
    *,
    temperature: PerRow = 1.0,
    top_k: int | Tensor = 0,
    top_p: PerRow = 1.0,
    min_p: PerRow = 0.0,
    allowed: Tensor | None = None,
    seed: Tensor | None = None,
    position: Tensor | None = None,
    column: int = 0,
    return_probs: bool = True,
    out: tuple[Tensor, Tensor | None] | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Draws one token per row from `filtered_probs`, from the drafter's own random stream.

    The token is the smallest id t with cumsum(probs)[t] > u * sum(probs), where u is
    Philox4x32-10 of (seed; position, column, purpose 2): disjoint from every coin of `verify`.

    Args:
        logits: [B, V] float32, float16 or bfloat16.
        temperature: a number or [B] float32, finite, >= 0; 0 takes the argmax.
        top_k: a number or [B], >= 0, 0 = off.
        top_p: a number or [B] float32, in (0, 1], 1 = off.
        min_p: a number or [B] float32, in [0, 1], 0 = off.
        allowed: [B, ceil(V/32)] int32 bit words.
        seed: [B] int64; needed unless temperature is 0.
        position: [B] int64, number of the verify call that will judge the draft.
        column: which draw of that call, >= 0.
        return_probs: False draws without writing the distribution: each logit is read once.
        out: (token_ids, probs) to write into and return, probs None with return_probs=False. Apart
            from all inputs; rows may lie apart: columns `[:, i]` of [B, N] and [B, N, V] buffers.

    Returns:
        token_ids [B] int64, and probs [B, V] float32, the distribution they were drawn from, or
        None with return_probs=False. On CUDA the work is queued on the current stream, may be
        captured in a graph, and nothing waits.

    Raises:
        TypeError: wrong dtype or argument type.
        ValueError: wrong shape, stride, device, range, or no seed.
        RuntimeError: CUDA failures, or a build without CUDA.
    """
    call = run_draft_sample
    if tracing():
        from via_ext import torch_ops

        call = torch_ops.draft_sample
    filters = (temperature, top_k, top_p, min_p, allowed)
    return call(logits, *filters, seed, position, column, return_probs, out)
