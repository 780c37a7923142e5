# SPDX-License-Identifier: Apache-2.0
"""One forward pass of a part of the model over new tokens of some rows, with a tree mask.

The parts of the full model, all views over the same weights and the same arena: prefix (the shared
leading layers), slim (prefix and kept sublayers), tail (every layer after the prefix), full.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from via_ext.models.arena import ArenaCache, KVArena
from via_ext.models.families import layer_windows, mask_by_layer_type
from via_ext.models.view import KeptLayer, arena_layers, layer_view


class TokenBlock(NamedTuple):
    """New tokens of some rows: a chain, or a chain followed by a tree, in arena order.

    Attributes:
        rows: arena rows, ascending.
        starts: position of each row's first new token; everything before it is attended to.
        depths: [B, M] int64; a token's text position is starts + depth.
        ancestors: None for a chain; else [B, M, M] bool, own column included.
    """

    rows: list[int]
    starts: list[int]
    depths: torch.Tensor
    ancestors: torch.Tensor | None


_CPU = torch.device("cpu")
_counting: dict[torch.device, torch.Tensor] = {}


def _count(first: int, last: int, device: torch.device = _CPU) -> torch.Tensor:
    """Counts first .. last - 1: a slice of one tensor that grows, cheaper than a new arange."""
    found = _counting.get(device)
    if found is None or last > found.numel():
        found = _counting[device] = torch.arange(max(2 * last, 1024), device=device)
    return found[first:last]


def chain_block(rows: list[int], starts: list[int], num_tokens: int) -> TokenBlock:
    """A block in which every token follows the one before."""
    return TokenBlock(rows, starts, _count(0, num_tokens).expand(len(rows), -1), None)


class LayerPass:
    """A part of the model, callable on a `TokenBlock`.

    Attributes:
        hidden: [B, M, hidden_size] of the last call, after `capture_after` layers of this part.
        seconds: time spent in the model's own forward passes, in all calls.
        calls: number of calls.
    """

    def __init__(
        self, model: Any, layers: Sequence[KeptLayer], capture_after: int | None = None
    ) -> None:
        """Makes the view.

        Args:
            model: the full model.
            layers: the layers and sublayers of this part, ascending.
            capture_after: number of leading layers of this part after which the hidden states are
                kept; 0 keeps the input embeddings, None keeps nothing.
        """
        self._view: Any = layer_view(model, layers)
        self._embed = model.get_input_embeddings()
        self._slots = arena_layers(self._view)
        self._windows = layer_windows(model.config)
        self._by_type = mask_by_layer_type(model.config)
        self._additive = model.config._attn_implementation == "eager"
        parameter = next(model.parameters())
        self._dtype, self._device = parameter.dtype, parameter.device
        self._capture_embeddings = capture_after == 0
        self.hidden: torch.Tensor | None = None
        self.seconds = 0.0
        self.calls = 0
        if capture_after:
            self._view.model.layers[capture_after - 1].register_forward_hook(self._keep_hidden)

    def _keep_hidden(self, _module: torch.nn.Module, _inputs: Any, output: torch.Tensor) -> None:
        self.hidden = output

    def _finish(self, visible: torch.Tensor) -> torch.Tensor:
        if not self._additive:
            return visible
        # Eager attention adds its mask; a boolean one would be silently wrong there.
        bias = torch.zeros(visible.shape, dtype=self._dtype, device=visible.device)
        return bias.masked_fill_(~visible, torch.finfo(self._dtype).min)

    def _masks(
        self, block: TokenBlock, positions: torch.Tensor, length: int
    ) -> torch.Tensor | dict[str, torch.Tensor]:
        visible = _visible(block, length)
        window = next((width for width in self._windows if width is not None), None)
        if window is None:
            mask = self._finish(visible)
            return {"full_attention": mask} if self._by_type else mask
        windowed = self._finish(visible & _near(block, positions, length, window))
        if not self._by_type:
            return windowed
        return {"full_attention": self._finish(visible), "sliding_attention": windowed}

    def __call__(
        self,
        arena: KVArena,
        block: TokenBlock,
        *,
        token_ids: torch.Tensor | None = None,
        hidden: torch.Tensor | None = None,
        num_logits: int = 0,
    ) -> torch.Tensor | None:
        """Runs the part over the new tokens and writes their keys and values into the arena.

        Ids, depths and ancestors may be on the host: they are copied to the model's device, where
        everything else is made.

        Args:
            arena: KV of the session.
            block: rows, positions and tree structure of the M new tokens.
            token_ids: [B, M] int64, or
            hidden: [B, M, hidden_size], the input of this part's first layer.
            num_logits: trailing tokens whose logits are wanted; 0 skips the LM head.

        Returns:
            Logits [B, num_logits, V], or None where none are wanted.
        """
        block = _on_device(block, self._device)
        positions = _positions(block)
        cache = ArenaCache(arena, self._slots, block.rows, block.starts, block.depths.shape[1])
        masks = self._masks(block, positions, cache.length)
        begin = time.perf_counter()
        inputs = hidden if token_ids is None else self._embed(token_ids.to(self._device))
        if self._capture_embeddings:
            self.hidden = inputs
        arguments = {
            "inputs_embeds": inputs,
            "attention_mask": masks,
            "position_ids": positions,
            "past_key_values": cache,
            "use_cache": True,
        }
        logits: torch.Tensor | None = None
        if num_logits == 0:
            self._view.model(**arguments)
        else:
            logits = self._view(**arguments, logits_to_keep=num_logits).logits
        self.seconds += time.perf_counter() - begin
        self.calls += 1
        return logits


def _on_device(block: TokenBlock, device: torch.device) -> TokenBlock:
    """The block with its tensors on `device`."""
    ancestors = None if block.ancestors is None else block.ancestors.to(device)
    return block._replace(depths=block.depths.to(device), ancestors=ancestors)


def _positions(block: TokenBlock) -> torch.Tensor:
    """[B, M] text positions; [1, M] where all rows are the same chain."""
    start = block.starts[0]
    if block.ancestors is None and block.starts.count(start) == len(block.starts):
        return _count(start, start + block.depths.shape[1], block.depths.device)[None]
    return torch.tensor(block.starts, device=block.depths.device)[:, None] + block.depths


def _visible(block: TokenBlock, length: int) -> torch.Tensor:
    """[B or 1, 1, M, length] bool: what each new token attends to, without a window."""
    num_tokens = block.depths.shape[1]
    columns = _count(0, length, block.depths.device)
    if block.ancestors is None:
        return (columns <= _positions(block)[:, :, None])[:, None]
    starts = torch.tensor(block.starts, device=block.depths.device)[:, None, None]
    visible = (columns < starts).expand(-1, num_tokens, -1).contiguous()
    for index, start in enumerate(block.starts):
        visible[index, :, start : start + num_tokens] = block.ancestors[index]
    return visible[:, None]


def _near(block: TokenBlock, positions: torch.Tensor, length: int, window: int) -> torch.Tensor:
    """[B, 1, M, length] bool: within the window; a draft's position is its tree depth."""
    positions = positions.expand(len(block.rows), -1)
    keys = _count(0, length, block.depths.device).repeat(len(block.rows), 1)
    for index, start in enumerate(block.starts):
        keys[index, start : start + positions.shape[1]] = positions[index]
    return (keys[:, None, :] > positions[:, :, None] - window)[:, None]
