# SPDX-License-Identifier: Apache-2.0
"""Prompts as callers give them, checked and turned into lists of token ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

_ID_DTYPES = (torch.int32, torch.int64)


def _reject(argument: str, rule: str, got: object) -> ValueError:
    return ValueError(f"generate: {argument} must {rule}, got {got}")


def _check_ids(argument: str, ids: Any, ranks: tuple[int, ...]) -> None:
    if not isinstance(ids, torch.Tensor):
        raise TypeError(f"generate: {argument} must be a tensor, got {type(ids).__name__}")
    if type(ids).__torch_dispatch__ is not torch.Tensor.__torch_dispatch__ or ids.is_meta:
        raise TypeError(f"generate: {argument} must hold data, got {type(ids).__name__}")
    if ids.layout != torch.strided:
        raise TypeError(f"generate: {argument} must be dense, got {ids.layout}")
    if ids.dtype not in _ID_DTYPES:
        raise TypeError(f"generate: {argument} must be int32 or int64, got {ids.dtype}")
    if ids.dim() not in ranks:
        wanted = " or ".join(map(str, ranks))
        raise _reject(argument, f"have rank {wanted}", ids.dim())


def _unpadded(row: torch.Tensor, mask: torch.Tensor, index: int) -> list[int]:
    """Tokens of one row; the mask must be one run of ones (padding left, right or both)."""
    kept = mask.nonzero()[:, 0].tolist()
    if kept and kept[-1] - kept[0] + 1 != len(kept):
        raise _reject(f"attention_mask[{index}]", "be one run of ones", mask.tolist())
    return row[mask.bool()].tolist()


def read_prompts(
    input_ids: torch.Tensor | Sequence[torch.Tensor],
    attention_mask: torch.Tensor | None,
    model_config: Any,
    max_new_tokens: int,
) -> list[list[int]]:
    """Checks prompts and returns them without padding.

    Args:
        input_ids: [B, T] or [T] int32 or int64, or a list of 1-D tensors.
        attention_mask: [B, T] of 0 and 1, or None.
        model_config: gives vocab_size and max_position_embeddings.
        max_new_tokens: must fit the context behind every prompt.

    Raises:
        TypeError: a wrong type or dtype.
        ValueError: a wrong shape, an empty prompt or batch, an id outside the vocabulary, or no
            room in the context.
    """
    if isinstance(input_ids, torch.Tensor):
        _check_ids("input_ids", input_ids, (1, 2))
        batch = input_ids[None] if input_ids.dim() == 1 else input_ids
        if attention_mask is None:
            prompts = batch.tolist()
        else:
            if not isinstance(attention_mask, torch.Tensor):
                got = type(attention_mask).__name__
                raise TypeError(f"generate: attention_mask must be a tensor, got {got}")
            mask = attention_mask.reshape(1, -1) if attention_mask.dim() == 1 else attention_mask
            if mask.shape != batch.shape:
                raise _reject("attention_mask", f"have shape {list(batch.shape)}", list(mask.shape))
            if not bool(((mask == 0) | (mask == 1)).all()):
                raise _reject("attention_mask", "hold only 0 and 1", "other values")
            pairs = zip(batch, mask, strict=True)
            prompts = [_unpadded(row, row_mask, i) for i, (row, row_mask) in enumerate(pairs)]
    else:
        if isinstance(input_ids, str) or not isinstance(input_ids, Sequence):
            got = type(input_ids).__name__
            raise TypeError(f"generate: input_ids must be a tensor or a list of them, got {got}")
        if attention_mask is not None:
            raise _reject("attention_mask", "be None with a list of prompts", "a mask")
        for index, ids in enumerate(input_ids):
            _check_ids(f"input_ids[{index}]", ids, (1,))
        prompts = [ids.tolist() for ids in input_ids]
    if not prompts:
        raise _reject("input_ids", "hold at least one prompt", "an empty batch")
    vocab_size, context = model_config.vocab_size, model_config.max_position_embeddings
    for index, tokens in enumerate(prompts):
        if not tokens:
            raise _reject(f"input_ids[{index}]", "hold at least one token", "an empty prompt")
        if min(tokens) < 0 or max(tokens) >= vocab_size:
            bad = min(tokens) if min(tokens) < 0 else max(tokens)
            raise _reject(f"input_ids[{index}]", f"be ids in [0, {vocab_size})", bad)
        if len(tokens) + max_new_tokens > context:
            raise _reject(
                f"input_ids[{index}]",
                f"leave room for max_new_tokens = {max_new_tokens} in a context of {context}",
                f"{len(tokens)} tokens",
            )
    return prompts


def pad_prompts(prompts: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Right-padded prompt ids and their mask, [B, T] int64."""
    width = max(map(len, prompts))
    ids = torch.tensor([tokens + [0] * (width - len(tokens)) for tokens in prompts])
    mask = torch.tensor([[1] * len(t) + [0] * (width - len(t)) for t in prompts])
    return ids, mask
