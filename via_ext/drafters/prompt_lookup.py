# SPDX-License-Identifier: Apache-2.0
"""`PromptLookupDrafter`: draft by copying what followed the same words before."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from via_ext.drafters.protocol import DraftTokens
from via_ext.tree import Tree

Tokens = npt.NDArray[np.int64]


class PromptLookupDrafter:
    """Proposes the continuation of the latest earlier occurrence of the last tokens.

    The longest suffix of the committed tokens, of `max_ngram` down to `min_ngram` tokens, that
    occurred before is looked up in the row's own tokens; what followed there is the draft, one-hot.
    It needs no model and pays where text repeats: code, quotation, editing.

    A draft is a chain of at most `tree.max_depth` nodes whatever the tree, shorter where the
    occurrence is close to the end, empty where nothing matches. Tokens are kept on the host: on an
    accelerator `commit` waits for the device.
    """

    def __init__(self, max_ngram: int = 3, min_ngram: int = 1) -> None:
        """Set the sizes.

        Args:
            max_ngram: longest suffix to look for, >= `min_ngram`.
            min_ngram: shortest, >= 1.

        Raises:
            TypeError, ValueError: a bad n-gram size.
        """
        for name, value in (("max_ngram", max_ngram), ("min_ngram", min_ngram)):
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"PromptLookupDrafter: {name} must be an int, got {value!r}")
        if min_ngram < 1:
            raise ValueError(f"PromptLookupDrafter: min_ngram must be at least 1, got {min_ngram}")
        if max_ngram < min_ngram:
            rule = f"be at least min_ngram = {min_ngram}"
            raise ValueError(f"PromptLookupDrafter: max_ngram must {rule}, got {max_ngram}")
        self.max_ngram = max_ngram
        self.min_ngram = min_ngram
        self._rows: list[Tokens] = []
        self._lengths: list[int] = []
        self._device = torch.device("cpu")

    def prefill(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> None:
        """Take the prompts; see `Drafter.prefill`."""
        self._device = input_ids.device
        ids = input_ids.cpu().numpy()
        if attention_mask is None:
            self._rows = [row.astype(np.int64) for row in ids]
        else:
            mask = attention_mask.cpu().numpy().astype(bool)
            self._rows = [row[keep].astype(np.int64) for row, keep in zip(ids, mask, strict=True)]
        self._lengths = [len(row) for row in self._rows]

    def propose(self, tree: Tree, seed: torch.Tensor, position: torch.Tensor) -> DraftTokens:
        """Copy what followed the last n-gram; see `Drafter.propose`. Draws nothing."""
        depth = tree.max_depth
        token_ids = np.full((len(self._rows), depth), -1, dtype=np.int64)
        num_nodes = np.zeros(len(self._rows), dtype=np.int64)
        for batch_idx, (row, length) in enumerate(zip(self._rows, self._lengths, strict=True)):
            draft = self._continuation(row[:length])[:depth]
            token_ids[batch_idx, : len(draft)] = draft
            num_nodes[batch_idx] = len(draft)
        return DraftTokens(
            token_ids=torch.from_numpy(token_ids).to(self._device),
            num_nodes=torch.from_numpy(num_nodes).to(self._device),
        )

    def commit(
        self,
        token_ids: torch.Tensor,
        counts: torch.Tensor,
        hidden_states: torch.Tensor | None = None,
    ) -> None:
        """Append emitted tokens; see `Drafter.commit`."""
        ids = token_ids.cpu().numpy()
        for batch_idx, count in enumerate(counts.tolist()):
            self._append(batch_idx, ids[batch_idx, :count])

    def rollback(self, lengths: torch.Tensor) -> None:
        """Cut the rows; see `Drafter.rollback`."""
        for batch_idx, length in enumerate(lengths.tolist()):
            if not 0 <= length <= self._lengths[batch_idx]:
                rule = f"be in [0, {self._lengths[batch_idx]}]"
                raise ValueError(f"rollback: lengths[{batch_idx}] must {rule}, got {length}")
            self._lengths[batch_idx] = length

    def _append(self, batch_idx: int, tokens: Tokens) -> None:
        row, length = self._rows[batch_idx], self._lengths[batch_idx]
        end = length + len(tokens)
        if end > len(row):
            # Doubling keeps appending cheap: a row is copied log2(length) times.
            grown = np.empty(max(2 * len(row), end, 64), dtype=np.int64)
            grown[:length] = row[:length]
            self._rows[batch_idx] = row = grown
        row[length:end] = tokens
        self._lengths[batch_idx] = end

    def _continuation(self, tokens: Tokens) -> Tokens:
        """What followed the latest earlier occurrence of the longest known suffix."""
        length = len(tokens)
        # Where the last token stands before; narrowed by one token to the left at a time.
        ends = np.flatnonzero(tokens[: max(length - 1, 0)] == tokens[length - 1 :])
        best = ends if self.min_ngram == 1 else ends[:0]
        for size in range(2, self.max_ngram + 1):
            ends = ends[ends >= size - 1]
            if not ends.size:
                break
            ends = ends[tokens[ends - (size - 1)] == tokens[length - size]]
            if ends.size and size >= self.min_ngram:
                best = ends
        return tokens[int(best[-1]) + 1 :] if best.size else tokens[:0]
