# SPDX-License-Identifier: Apache-2.0
"""The engine-owned KV cache: every layer at full length, addressed by row and position.

One arena serves the slim and the full verifier. Rollback is overwriting: nothing is cropped, a
sliding window is a mask, addresses stay while a session runs.
"""

from __future__ import annotations

from typing import Any

import torch


def head_dim(config: Any) -> int:
    """Size of one attention head."""
    own: int | None = getattr(config, "head_dim", None)
    return own or config.hidden_size // config.num_attention_heads


class KVArena:
    """Keys and values of every layer, `[rows, capacity, Hkv, D]` each.

    Attributes:
        keys: one tensor per layer of the full model, keys after RoPE.
        values: likewise.
    """

    def __init__(self, model: Any, rows: int, capacity: int, width: int | None = None) -> None:
        """Allocates the arena on the model's device.

        Args:
            model: the full model; gives sizes, dtype and device.
            rows: batch rows.
            capacity: positions per row, drafts included.
            width: elements per head, at least the model's head size D, which is the default; those
                behind D stay zero.
        """
        config = model.config
        parameter = next(model.parameters())
        shape = (rows, capacity, config.num_key_value_heads, width or head_dim(config))

        # Zeros, not empty: masked positions get weight 0, and 0 * NaN would be NaN.
        def allocate() -> list[torch.Tensor]:
            count = config.num_hidden_layers
            return [parameter.new_zeros(shape, requires_grad=False) for _ in range(count)]

        self.keys = allocate()
        self.values = allocate()

    @property
    def capacity(self) -> int:
        """Positions per row."""
        return self.keys[0].shape[1]

    @property
    def tensors(self) -> list[torch.Tensor]:
        """All cache tensors, for `ops.compact_kv`."""
        return [*self.keys, *self.values]

    def grow(self, capacity: int) -> None:
        """Re-allocates with more positions per row, keeping the contents."""

        def enlarge(old: torch.Tensor) -> torch.Tensor:
            new = old.new_zeros((old.shape[0], capacity, *old.shape[2:]))
            new[:, : old.shape[1]] = old
            return new

        self.keys = [enlarge(tensor) for tensor in self.keys]
        self.values = [enlarge(tensor) for tensor in self.values]


class ArenaCache:
    """What a view's attention sublayers see as `past_key_values` during one pass.

    It implements the one method that attention calls. Masks and positions are given explicitly, so
    transformers never asks it for a length.
    """

    def __init__(
        self, arena: KVArena, slots: list[int], rows: list[int], starts: list[int], num_tokens: int
    ) -> None:
        """Says where the pass writes and how far it reads.

        Args:
            arena: the KV arena of the full model.
            slots: arena layer of each attention sublayer of the view.
            rows: arena rows of the pass, ascending.
            starts: first position written, per row.
            num_tokens: tokens per row, M; positions starts[i] .. starts[i] + M - 1 are written.
        """
        self._arena = arena
        self._slots = slots
        self.length = max(starts) + num_tokens
        device = arena.keys[0].device
        contiguous = rows[-1] - rows[0] + 1 == len(rows)
        self._read_rows = (
            slice(rows[0], rows[-1] + 1) if contiguous else torch.tensor(rows, device=device)
        )
        self._write: tuple[Any, Any]
        if contiguous and starts.count(starts[0]) == len(starts):
            self._write = (self._read_rows, slice(starts[0], starts[0] + num_tokens))
        else:
            columns = torch.tensor(starts)[:, None] + torch.arange(num_tokens)
            self._write = (torch.tensor(rows, device=device)[:, None], columns.to(device))

    def update(
        self, key: torch.Tensor, value: torch.Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Writes the new keys and values, returns all that attention may read.

        Args:
            key: [B, Hkv, M, D] after RoPE.
            value: [B, Hkv, M, D].
            layer_idx: attention slot of the view.

        Returns:
            Keys and values [B, Hkv, length, D]; views of the arena where rows are contiguous.
        """
        layer = self._slots[layer_idx]
        # A wider arena shows the D elements of a head; what pads them is never written.
        keys = self._arena.keys[layer][..., : key.shape[-1]]
        values = self._arena.values[layer][..., : value.shape[-1]]
        keys[self._write] = key.transpose(1, 2)
        values[self._write] = value.transpose(1, 2)
        return (
            keys[self._read_rows, : self.length].transpose(1, 2),
            values[self._read_rows, : self.length].transpose(1, 2),
        )
