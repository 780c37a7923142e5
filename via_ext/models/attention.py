# SPDX-License-Identifier: Apache-2.0
"""transformers' attention backend "via_tree": `ops.tree_attention` over a KV arena.

A view whose config names this backend hands its new queries, keys and values to the operation,
which writes the arena and reads it up to lengths that stay on the device. There is no cache object
and no mask: what a token may see follows from context lengths, parents and the layer's window.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import torch

from via_ext import ops
from via_ext.models.arena import KVArena, head_dim

ATTENTION_BACKEND = "via_tree"

# Head sizes of `ops.tree_attention`; others are padded with zeros to the next one.
HEAD_DIMS = (64, 80, 96, 128, 256)


class NewTokens(NamedTuple):
    """What attention needs to know about the M new tokens of a pass, besides their vectors.

    Attributes:
        arena: keys and values of the session, written and read.
        windows: sliding window per layer of the full model, None = all positions.
        context_lens: [B] positions in the arena before the new tokens.
        parents: [M] or [B, M], see `ops.tree_attention`; None = a chain.
        num_tokens: [B], later tokens are padding; None = all are real.
    """

    arena: KVArena
    windows: list[int | None]
    context_lens: torch.Tensor
    parents: torch.Tensor | None
    num_tokens: torch.Tensor | None


def tree_arena(model: Any, rows: int, capacity: int) -> KVArena:
    """A KV arena that passes through `ops.tree_attention` can use, on the model's device.

    Raises:
        ValueError: the model's heads are larger than the operation takes.
    """
    size = head_dim(model.config)
    width = next((width for width in HEAD_DIMS if width >= size), None)
    if width is None:
        raise ValueError(f"tree_arena: head_dim must be at most {HEAD_DIMS[-1]}, got {size}")
    return KVArena(model, rows, capacity, width)


def tree_attention_forward(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    _attention_mask: torch.Tensor | None,
    *,
    scaling: float,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    new_tokens: NewTokens | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """The backend's function, called by an attention module of a view.

    Args:
        module: gives its layer in the full model, `full_layer_idx`.
        query: [B, Hq, M, D] after RoPE.
        key: [B, Hkv, M, D] after RoPE.
        value: [B, Hkv, M, D].
        scaling: of the scores.
        softcap: cap of the scores.
        s_aux: [Hq] sinks: one more score per head, whose value is zero.
        new_tokens: from the pass, through the model's keyword arguments.

    Returns:
        [B, M, Hq, D] and no weights.

    Raises:
        RuntimeError: the model was not called by a `TreePass`.
    """
    if new_tokens is None:
        raise RuntimeError(
            f"{ATTENTION_BACKEND}: a model with this backend runs in a TreePass only"
        )
    layer: int = module.full_layer_idx  # type: ignore[assignment]
    keys, values = new_tokens.arena.keys[layer], new_tokens.arena.values[layer]
    size, missing = query.shape[-1], keys.shape[-1] - query.shape[-1]
    parts = [query, key, value]
    if missing:
        parts = [torch.nn.functional.pad(part, (0, missing)) for part in parts]
    query, key, value = (part.transpose(1, 2) for part in parts)
    options: dict[str, Any] = {
        "parents": new_tokens.parents,
        "num_tokens": new_tokens.num_tokens,
        "scale": scaling,
        "softcap": softcap,
        "window": new_tokens.windows[layer],
    }
    inputs = (query, key, value, keys, values, new_tokens.context_lens)
    if s_aux is None:
        return ops.tree_attention(*inputs, **options)[..., :size], None
    out, lse = ops.tree_attention(*inputs, **options, return_lse=True)
    # exp(lse) / (exp(lse) + exp(sink)): what is left of the softmax beside the sink.
    share = torch.sigmoid(lse - s_aux)[..., None]
    return (out * share.to(out.dtype))[..., :size], None


def _no_mask(*_: Any, **__: Any) -> None:
    """The backend's mask: none is ever made."""


@cache
def register() -> str:
    """Makes the backend known to transformers, once; returns its name."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(ATTENTION_BACKEND, tree_attention_forward)
    AttentionMaskInterface.register(ATTENTION_BACKEND, _no_mask)
    return ATTENTION_BACKEND
