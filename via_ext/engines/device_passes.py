# SPDX-License-Identifier: Apache-2.0
"""The target's passes over state that stays on the device: slim, prefix, tail, full."""

from __future__ import annotations

from typing import Any

import torch

from via_ext import ops
from via_ext.engines.device_state import DeviceState
from via_ext.engines.torch import TorchEngine, feed
from via_ext.models.attention import tree_arena
from via_ext.models.tree_pass import TreePass
from via_ext.models.view import KeptLayer, route_layers


class DeviceEngine:
    """The parts of `TorchEngine` again, as passes without the host (see `TreePass`)."""

    def __init__(self, engine: TorchEngine) -> None:
        """Makes the views; no weight is copied.

        Args:
            engine: gives the model and the route.
        """
        self.base = engine
        self.target: Any = engine.target
        self.slim: TreePass | None = None
        layers = [KeptLayer(index) for index in range(self.target.config.num_hidden_layers)]
        if engine.route is None or engine.route.is_full:
            self.full = TreePass(self.target, layers)
            return
        shared = engine.route.shared_prefix
        self.slim = TreePass(self.target, route_layers(engine.route), capture_after=shared)
        self.prefix = TreePass(self.target, layers[:shared], capture_after=shared)
        self.tail = TreePass(self.target, layers[shared:])


class DevicePasses:
    """KV arena and saved hidden rows of one run, and the passes over them.

    Attributes:
        arena: keys and values.
        hidden: [B, 2 + max_backlog + N, 1, hidden_size], states at the end of the shared prefix
            from the frontier on; the last row is spare. None without a slim verifier.
        vocab_size: V.
    """

    def __init__(
        self, engine: DeviceEngine, state: DeviceState, hidden_dtype: torch.dtype | None = None
    ) -> None:
        """Allocates the arena; with a slim verifier also the hidden rows.

        Args:
            engine: the target's parts.
            state: the run's arrays.
            hidden_dtype: of the hidden rows; None = the model's.
        """
        self._engine = engine
        self._state = state
        self.vocab_size: int = engine.target.config.vocab_size
        rows = state.keys.shape[0]
        # A drafter that runs in the engine's arena looks for it there.
        engine.base.arena = None  # the last session's is freed before the new one is made
        self.arena = engine.base.arena = tree_arena(engine.target, rows, state.capacity)
        self.hidden: torch.Tensor | None = None
        if engine.slim is not None:
            parameter = next(engine.target.parameters())
            count = 2 + state.config.max_backlog + state.tree.num_nodes
            shape = (rows, count, 1, engine.target.config.hidden_size)
            self.hidden = parameter.new_zeros(
                shape, dtype=hidden_dtype or parameter.dtype, requires_grad=False
            )

    def prefill(self, prompts: list[list[int]]) -> None:
        """Computes full-model KV of every prompt but its last token, the first root."""
        rows = list(range(len(prompts)))
        feed(self._engine.base.full, self.arena, rows, [tokens[:-1] for tokens in prompts])

    def slim(self) -> torch.Tensor:
        """Slim pass over root and nodes; saves the hidden rows. Returns [B, 1 + N, V]."""
        assert self._engine.slim is not None
        logits = self._block(self._engine.slim)
        self._save_hidden(self._engine.slim)
        assert logits is not None
        return logits

    def full(self) -> torch.Tensor:
        """Full pass over root and nodes, in two-tier decoding. Returns [B, 1 + N, V]."""
        logits = self._block(self._engine.full)
        assert logits is not None
        return logits

    def prefix(self) -> None:
        """Makes the hidden rows of requests that had no slim pass."""
        self._block(self._engine.prefix, want_logits=False)
        self._save_hidden(self._engine.prefix)

    def tail(self, width: int, rows: torch.Tensor | None) -> torch.Tensor:
        """Full pass over backlog, root and nodes from the saved hidden rows on.

        Args:
            width: tokens per row, M.
            rows: [B, R] rows whose logits are wanted, None = all.

        Returns:
            [B, R or M, V].
        """
        assert self.hidden is not None
        state = self._state
        logits = self._engine.tail(
            self.arena,
            hidden=self._rows(width),
            context_lens=state.tail_context,
            depths=state.tail_depths[:, :width],
            parents=state.tail_parents[:, :width],
            num_tokens=state.tail_counts,
            logit_rows=rows,
        )
        assert logits is not None
        return logits

    def _rows(self, width: int) -> torch.Tensor:
        assert self.hidden is not None
        found = self.hidden[:, :width, 0]
        missing = width - found.shape[1]
        return torch.nn.functional.pad(found, (0, 0, 0, missing)) if missing > 0 else found

    def _block(self, part: TreePass, *, want_logits: bool = True) -> torch.Tensor | None:
        state = self._state
        return part(
            self.arena,
            token_ids=state.block_ids,
            context_lens=state.context_lens,
            depths=state.block_depths,
            parents=state.block_parents,
            num_tokens=state.block_counts,
            want_logits=want_logits,
        )

    def _save_hidden(self, part: TreePass) -> None:
        assert self.hidden is not None and part.hidden is not None
        size = part.hidden.shape[-1]
        index = self._state.hidden_index.view(-1)
        self.hidden.view(-1, size).index_copy_(0, index, part.hidden.reshape(-1, size))

    def compact(self, *, hidden: bool) -> None:
        """Moves the cache rows, and perhaps the hidden rows, of accepted paths into place."""
        state = self._state
        path = state.move_path
        ops.compact_kv(self.arena.tensors, state.move_context, path, state.move_counts)
        if hidden and self.hidden is not None:
            ops.compact_kv([self.hidden], state.hidden_context, path, state.hidden_counts)
