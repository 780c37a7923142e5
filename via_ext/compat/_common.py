# SPDX-License-Identifier: Apache-2.0
"""What the drop-ins share: argument checks in the caller's words, row views, emitted tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

MAX_NODES = 127
INT_TYPES = (torch.int32, torch.int64)
_ROW_TYPES = (torch.float32, torch.float16, torch.bfloat16)


class Arguments:
    """Checks the tensors of one call: type, dtype, shape and device, before any work."""

    def __init__(self, op: str, like: object, name: str) -> None:
        """Takes the tensor whose device all others must share.

        Args:
            op: the function's name, for error texts.
            like: that tensor.
            name: its argument name.
        """
        self.op = op
        self.device = self.tensor(name, like).device
        self.like = name

    def tensor(self, name: str, value: object) -> Tensor:
        """`value`, or TypeError."""
        if not isinstance(value, Tensor):
            raise TypeError(f"{self.op}: {name} must be a tensor, got {type(value).__name__}")
        return value

    def shaped(self, name: str, value: object, sizes: Sequence[int | None], words: str) -> Tensor:
        """A tensor of `sizes` (None: any), spelled `words`, on the call's device; any dtype."""
        tensor = self.tensor(name, value)
        fits = tensor.dim() == len(sizes) and all(
            wanted is None or size == wanted
            for size, wanted in zip(tensor.shape, sizes, strict=True)
        )
        if not fits:
            known = "" if None in sizes else f" = {list(sizes)}"
            shape = list(tensor.shape)
            raise ValueError(f"{self.op}: {name} must have shape {words}{known}, got {shape}")
        if tensor.device != self.device:
            where = f"be on {self.device} as {self.like} is"
            raise ValueError(f"{self.op}: {name} must {where}, got {tensor.device}")
        return tensor

    def ids(self, name: str, value: object, sizes: Sequence[int | None], words: str) -> Tensor:
        """An int32 or int64 tensor."""
        tensor = self.shaped(name, value, sizes, words)
        if tensor.dtype not in INT_TYPES:
            raise TypeError(f"{self.op}: {name} must be int32 or int64, got {tensor.dtype}")
        return tensor

    def floats(self, name: str, value: object, sizes: Sequence[int | None], words: str) -> Tensor:
        """A floating tensor as float32."""
        tensor = self.shaped(name, value, sizes, words)
        if not tensor.is_floating_point():
            raise TypeError(f"{self.op}: {name} must be floating point, got {tensor.dtype}")
        return tensor.float()

    def rows(self, name: str, value: object, sizes: Sequence[int | None], words: str) -> Tensor:
        """Rows of probabilities or logits; only float64 and a strided last dimension are copied."""
        tensor = self.shaped(name, value, sizes, words)
        if not tensor.is_floating_point():
            raise TypeError(f"{self.op}: {name} must be floating point, got {tensor.dtype}")
        if tensor.shape[-1] == 0:
            shape = list(tensor.shape)
            raise ValueError(f"{self.op}: {name} must have a vocabulary, got shape {shape}")
        if tensor.dtype not in _ROW_TYPES:
            tensor = tensor.float()
        return tensor if tensor.stride(-1) == 1 else tensor.contiguous()

    def output(
        self, name: str, value: object, sizes: Sequence[int | None] | None, words: str
    ) -> Tensor:
        """An int32 or int64 tensor that is written in place (`sizes` None: any shape)."""
        tensor = self.tensor(name, value)
        self.ids(name, value, tensor.shape if sizes is None else sizes, words)
        return tensor

    def at_most(self, name: str, value: int, bound: int) -> int:
        """A size within the native limit."""
        if value > bound:
            raise ValueError(f"{self.op}: {name} must be at most {bound}, got {value}")
        return value


def view_rows(rows: Tensor, batch_size: int, columns: int) -> Tensor:
    """[B, columns, V] over the first row: the offsets say where the rows really are."""
    first = rows.as_strided((1, 1, rows.shape[-1]), (0, 0, 1))
    return first.expand(batch_size, columns, rows.shape[-1])


def emitted_tokens(
    draft_token_ids: Tensor, num_accepted: Tensor, next_token: Tensor, dtype: torch.dtype
) -> Tensor:
    """Accepted drafts of a chain, then the next token, padded -1.

    Args:
        draft_token_ids: [B, K].
        num_accepted: [B].
        next_token: [B] int64.
        dtype: of the result.

    Returns:
        [B, K+1].
    """
    batch_size, columns = draft_token_ids.shape
    tokens = torch.full(
        (batch_size, columns + 1), -1, dtype=torch.int64, device=draft_token_ids.device
    )
    count = num_accepted.long()[:, None]
    steps = torch.arange(columns, device=draft_token_ids.device)
    tokens[:, :columns] = torch.where(steps < count, draft_token_ids, -1)
    return tokens.scatter_(1, count, next_token[:, None]).to(dtype)
