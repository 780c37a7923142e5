# SPDX-License-Identifier: Apache-2.0
"""A pass over a part of the model whose lengths and tree are device tensors: `TreePass`.

The counterpart of `LayerPass` for CUDA graphs: shapes depend on arguments' shapes only, nothing is
read back by the host, and attention is `ops.tree_attention` on the arena in place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from via_ext.models.arena import KVArena
from via_ext.models.attention import NewTokens, register
from via_ext.models.families import layer_windows, mask_by_layer_type
from via_ext.models.view import KeptLayer, layer_view


def take_rows(values: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """[B, R, X]: per batch row, the rows [B, R] int64 of [B, M, X], clamped to [0, M)."""
    index = rows.clamp(0, values.shape[1] - 1)[:, :, None]
    return values.gather(1, index.expand(-1, -1, values.shape[2]))


class _RowHead(torch.nn.Module):
    """The LM head, on chosen rows only.

    It stands where the view's head was, so that scales and caps of the logits, which the model
    applies after its head, stay.
    """

    def __init__(self, head: torch.nn.Module) -> None:
        super().__init__()
        self.head = head
        self.rows: torch.Tensor | None = None

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        if self.rows is not None:
            hidden = take_rows(hidden, self.rows)
        logits: torch.Tensor = self.head(hidden)
        return logits


class TreePass:
    """A part of the model, callable on new tokens that form a chain or a tree.

    The model keeps its attention backend: only this view's copies of its modules have another.

    Attributes:
        hidden: [B, M, hidden_size] of the last call, after `capture_after` layers of this part.
            Recorded into a CUDA graph, it is memory of that graph: copy it within the recording.
    """

    def __init__(
        self, model: Any, layers: Sequence[KeptLayer], capture_after: int | None = None
    ) -> None:
        """Makes the view.

        Args:
            model: the full model, of a supported family, on one device.
            layers: the layers and sublayers of this part, ascending.
            capture_after: number of leading layers of this part after which the hidden states are
                kept; 0 keeps the input embeddings, None keeps nothing.
        """
        view: Any = layer_view(model, layers)
        view.config._attn_implementation = register()
        for block in view.model.layers:
            # A skipped attention sublayer has no layer index and asks for no backend.
            if hasattr(block.self_attn, "full_layer_idx"):
                block.self_attn.config = view.config
        self._head = view.lm_head = _RowHead(view.lm_head)
        self._view = view
        self._embed = model.get_input_embeddings()
        self._num_ids: int = self._embed.num_embeddings
        self._windows = layer_windows(model.config)
        # A mask of four dimensions is taken as it is, so that transformers makes none.
        device = next(model.parameters()).device
        mask = torch.zeros(1, 1, 1, 1, dtype=torch.bool, device=device)
        by_type = mask_by_layer_type(model.config)
        self._mask = {"full_attention": mask, "sliding_attention": mask} if by_type else mask
        self._capture_embeddings = capture_after == 0
        self.hidden: torch.Tensor | None = None
        if capture_after:
            view.model.layers[capture_after - 1].register_forward_hook(self._keep_hidden)

    def _keep_hidden(self, _module: torch.nn.Module, _inputs: Any, output: torch.Tensor) -> None:
        self.hidden = output

    @torch.no_grad()
    def __call__(
        self,
        arena: KVArena,
        *,
        token_ids: torch.Tensor | None = None,
        hidden: torch.Tensor | None = None,
        context_lens: torch.Tensor,
        depths: torch.Tensor,
        parents: torch.Tensor | None = None,
        num_tokens: torch.Tensor | None = None,
        logit_rows: torch.Tensor | None = None,
        want_logits: bool = True,
    ) -> torch.Tensor | None:
        """Runs the part over M new tokens per row of the arena, all rows at once.

        Keys and values of token i are written at position context_lens + i. No host
        synchronisation; on CUDA the work goes to the current stream and may be recorded in a graph.

        Args:
            arena: KV of the session, from `tree_arena`, with B rows.
            token_ids: [B, M] int64, ids outside the embedding count as 0; or
            hidden: [B, M, hidden_size], the input of this part's first layer.
            context_lens: [B] int32 or int64, positions before the new tokens.
            depths: [M] or [B, M] int64; a token's text position is context_lens + depth.
            parents: [M] or [B, M] int32 or int64, index among the new tokens, -1 = sees the context
                only; None = a chain. Depths must agree: 0 for -1, else the parent's plus 1.
            num_tokens: [B] int32 or int64, later tokens are padding: not written, their results
                finite and without meaning; None = M.
            logit_rows: [B, R] int64, the tokens whose logits are wanted, clamped to [0, M); None =
                all.
            want_logits: False skips final norm and LM head of the model's own forward.

        Returns:
            Logits [B, R, V] or [B, M, V], None unless wanted.
        """
        if token_ids is not None:
            unknown = (token_ids < 0) | (token_ids >= self._num_ids)
            hidden = self._embed(token_ids.masked_fill(unknown, 0))
        if self._capture_embeddings:
            self.hidden = hidden
        arguments = {
            "inputs_embeds": hidden,
            "attention_mask": self._mask,
            "position_ids": context_lens.to(torch.int64)[:, None] + depths,
            "use_cache": False,
            "new_tokens": NewTokens(arena, self._windows, context_lens, parents, num_tokens),
        }
        if not want_logits:
            self._view.model(**arguments)
            return None
        self._head.rows = logit_rows
        logits: torch.Tensor = self._view(**arguments).logits
        return logits
