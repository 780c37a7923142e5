# SPDX-License-Identifier: Apache-2.0
"""Scores a slim verifier on text as it is deployed: over the full model's keys and values.

While decoding, everything before the frontier holds full-model KV and up to `max_backlog` tokens
after it hold slim KV (docs/design.md, section 13). The text is therefore cut into blocks of
max_backlog + 1 tokens: a slim pass over a block sees full KV before the block and its own KV in it,
so that the block's rows have backlogs 0 .. max_backlog.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from via_ext.models.arena import KVArena
from via_ext.models.families import check_route, check_supported
from via_ext.models.passes import LayerPass, chain_block
from via_ext.models.view import KeptLayer, route_layers
from via_ext.route import SlimRoute

# Tokens of one full pass: its activations and logits are all that scoring adds to the KV.
PASS_TOKENS = 1024


class DeployedScorer:
    """The full model's KV and logits of some text, and any slim verifier's logits on it.

    Memory: KV and logits of the text once, the activations of one pass, and the KV of one block,
    which is put back after the slim pass that overwrote it.

    Attributes:
        lengths: tokens of each sequence.
        max_backlog: most slim tokens before a scored one.
        logits: [sum of lengths, V] the full model's, sequence after sequence, in its own dtype.
    """

    def __init__(
        self,
        target: Any,
        sequences: torch.Tensor | Sequence[torch.Tensor | Sequence[int]],
        max_backlog: int = 32,
    ) -> None:
        """Runs the full model once.

        Args:
            target: a supported `transformers` causal language model, on the CPU or a GPU.
            sequences: [B, T] token ids, or a list of sequences of any lengths.
            max_backlog: tokens that decoding lets pile up before a full pass, at least 0.

        Raises:
            TypeError: the model or an argument has the wrong type.
            ValueError: the model is not supported; there is no text, an empty sequence, an id
                outside the vocabulary, or a sequence longer than the model's context.
        """
        check_supported(target)
        if isinstance(max_backlog, bool) or not isinstance(max_backlog, int):
            raise TypeError(f"DeployedScorer: max_backlog must be an int, got {max_backlog!r}")
        if max_backlog < 0:
            raise ValueError(f"DeployedScorer: max_backlog must be at least 0, got {max_backlog}")
        tokens = read_sequences(target.config, sequences)
        self.target = target
        self.max_backlog = max_backlog
        self.lengths = [len(row) for row in tokens]
        # Longest first: the rows that reach a block are then the arena's leading ones, and a pass
        # over them reads it without copies.
        self._order = sorted(range(len(tokens)), key=lambda index: -self.lengths[index])
        self._ids = torch.zeros((len(tokens), max(self.lengths)), dtype=torch.int64)
        for row, index in enumerate(self._order):
            self._ids[row, : self.lengths[index]] = tokens[index]
        self._first = [sum(self.lengths[:index]) for index in range(len(tokens))]
        self._arena = KVArena(target, *self._ids.shape)
        layers = [KeptLayer(index) for index in range(target.config.num_hidden_layers)]
        full = LayerPass(target, layers)
        piece = max(1, PASS_TOKENS // len(tokens))
        device = next(target.parameters()).device
        store: torch.Tensor | None = None
        for begin in range(0, self._ids.shape[1], piece):
            places, logits = self._run(full, begin, piece)
            if store is None:
                store = logits.new_empty((sum(self.lengths), logits.shape[-1]))
            store[places.to(device)] = logits
        assert store is not None
        self.logits = store

    @property
    def full_logits(self) -> list[torch.Tensor]:
        """The full model's logits [T_i, V] of each sequence; views of `logits`."""
        return list(torch.split(self.logits, self.lengths))

    def slim_logits(self, route: SlimRoute) -> list[torch.Tensor]:
        """The slim verifier's logits [T_i, V] of each sequence, in the model's dtype.

        Raises:
            ValueError: the route is another model's.
        """
        store = torch.empty_like(self.logits)
        for places, logits in self.blocks(route):
            store[places] = logits
        return list(torch.split(store, self.lengths))

    def blocks(self, route: SlimRoute) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """The slim verifier's logits block by block, in no order that matters.

        Yields:
            Indices [n] into `logits`, on its device, and the slim logits [n, V] of these rows.

        Raises:
            ValueError: the route is another model's.
        """
        check_route(route, self.target)
        slim = LayerPass(self.target, route_layers(route))
        width = self.max_backlog + 1
        for begin in range(0, self._ids.shape[1], width):
            with self._keys_put_back(route, begin, width):
                places, logits = self._run(slim, begin, width)
            yield places.to(self.logits.device), logits

    @torch.no_grad()
    def _run(self, part: LayerPass, begin: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
        """A pass over positions begin .. begin + width - 1 of all rows that have such.

        Returns:
            Where the rows belong in `logits`, on the host, and their logits.
        """
        live = self._order[: self._rows_at(begin)]
        ids = self._ids[: len(live), begin : begin + width]
        width = ids.shape[1]
        block = chain_block(list(range(len(live))), [begin] * len(live), width)
        logits = part(self._arena, block, token_ids=ids, num_logits=width)
        assert logits is not None
        counts = [min(width, self.lengths[index] - begin) for index in live]
        places = [
            torch.arange(self._first[index] + begin, self._first[index] + begin + count)
            for index, count in zip(live, counts, strict=True)
        ]
        if min(counts) < width:
            rows = [logits[row, :count] for row, count in enumerate(counts)]
            return torch.cat(places), torch.cat(rows)
        return torch.cat(places), logits.flatten(0, 1)

    def _rows_at(self, position: int) -> int:
        """How many sequences reach beyond `position`; they are the arena's first rows."""
        return sum(length > position for length in self.lengths)

    @contextmanager
    def _keys_put_back(self, route: SlimRoute, begin: int, width: int) -> Iterator[None]:
        """Restores the block's keys and values, whatever happens inside."""
        place = slice(self._rows_at(begin)), slice(begin, begin + width)
        kept = [layer for layer, keep in enumerate(route.keep_attention) if keep]
        tensors = [part[layer] for part in (self._arena.keys, self._arena.values) for layer in kept]
        saved = [tensor[place].clone() for tensor in tensors]
        try:
            yield
        finally:
            for tensor, old in zip(tensors, saved, strict=True):
                tensor[place] = old


def read_sequences(
    config: Any,
    sequences: torch.Tensor | Sequence[torch.Tensor | Sequence[int]],
    caller: str = "DeployedScorer",
) -> list[torch.Tensor]:
    """Token ids as int64 tensors on the host, checked against a model's config.

    Args:
        config: of the model.
        sequences: see `DeployedScorer`.
        caller: named by errors.

    Raises:
        TypeError, ValueError: see `DeployedScorer`.
    """
    if isinstance(sequences, str) or not isinstance(sequences, torch.Tensor | Sequence):
        got = type(sequences).__name__
        raise TypeError(f"{caller}: sequences must be token ids or a list of them, got {got}")
    if not len(sequences):
        raise ValueError(f"{caller}: sequences must hold at least one sequence, got none")
    found = []
    for index, sequence in enumerate(sequences):
        name = f"sequences[{index}]"
        try:
            ids = torch.as_tensor(sequence)
        except (TypeError, ValueError, RuntimeError) as error:
            raise TypeError(f"{caller}: {name} must be token ids, got {sequence!r}") from error
        if ids.dim() != 1:
            raise ValueError(f"{caller}: {name} must have rank 1, got {ids.dim()}")
        if not ids.numel():
            raise ValueError(f"{caller}: {name} must hold at least one token, got none")
        if ids.dtype not in (torch.int32, torch.int64):
            raise TypeError(f"{caller}: {name} must be int32 or int64, got {ids.dtype}")
        ids = ids.to("cpu", torch.int64)
        low, high = int(ids.min()), int(ids.max())
        if low < 0 or high >= config.vocab_size:
            rule = f"hold ids in [0, {config.vocab_size})"
            raise ValueError(f"{caller}: {name} must {rule}, got {low if low < 0 else high}")
        context = getattr(config, "max_position_embeddings", None)
        if context is not None and ids.numel() > context:
            rule = f"fit the model's context of {context} tokens"
            raise ValueError(f"{caller}: {name} must {rule}, got {ids.numel()}")
        found.append(ids)
    return found
