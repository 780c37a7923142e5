# SPDX-License-Identifier: Apache-2.0
"""Committed tokens of a batch on the device, and how many of them have keys and values."""

from __future__ import annotations

import torch


class DeviceText:
    """Rows of tokens that grow and are cut by tensors, without the host reading a length.

    Attributes:
        lengths: [B] int64, tokens per row.
        cached: [B] int64, leading tokens whose keys and values are in the drafter's arena.
        drafted: [B, K] int64, tokens drafted after a row's last one, and cached with it; -1 = none.
    """

    def __init__(self, rows: int, capacity: int, drafted: int, device: torch.device) -> None:
        """Allocates.

        Args:
            rows: batch rows B.
            capacity: most tokens per row.
            drafted: K.
            device: of all tensors.
        """
        self._capacity = capacity
        # The last column takes what is no token.
        self._tokens = torch.zeros(rows, capacity + 1, dtype=torch.int64, device=device)
        self.lengths = torch.zeros(rows, dtype=torch.int64, device=device)
        self.cached = torch.zeros_like(self.lengths)
        self.drafted = torch.full((rows, drafted), -1, device=device)

    def restart(self, tokens: torch.Tensor, lengths: torch.Tensor) -> None:
        """Takes prompts of which all but the last token are cached.

        Args:
            tokens: [B, S] int64, at most `capacity` columns.
            lengths: [B].
        """
        self._tokens[:, : tokens.shape[1]] = tokens
        self.lengths.copy_(lengths)
        self.cached.copy_(self.lengths - 1)
        self.drafted.fill_(-1)

    def pending(self, steps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The tokens without keys and values, the last token always among them.

        Args:
            steps: [P] int64, 0 .. P - 1.

        Returns:
            ids [B, P], 0 where there is none, and their number [B], in 1 .. P.
        """
        torch.minimum(self.cached, self.lengths - 1, out=self.cached)
        counts = (self.lengths - self.cached).clamp(max=len(steps))
        places = (self.cached[:, None] + steps).clamp(max=self._capacity)
        ids = self._tokens.gather(1, places)
        return ids.masked_fill(steps >= counts[:, None], 0), counts

    def commit(self, token_ids: torch.Tensor, counts: torch.Tensor) -> None:
        """Appends tokens; those that were drafted are cached, up to the first that was not.

        Args:
            token_ids: [B, C] int64.
            counts: [B], how many of a row's C tokens count.
        """
        steps = torch.arange(token_ids.shape[1], device=token_ids.device)
        counted = steps < counts[:, None]
        width = min(token_ids.shape[1], self.drafted.shape[1])
        same = counted[:, :width] & (token_ids[:, :width] == self.drafted[:, :width])
        matched = same.to(torch.int64).cumprod(1).sum(1)
        # A row with a gap in its keys and values was drafted behind the gap.
        self.cached += matched * (self.cached == self.lengths)
        places = (self.lengths[:, None] + steps).masked_fill(~counted, self._capacity)
        self._tokens.scatter_(1, places.clamp(max=self._capacity), token_ids)
        self.lengths += counts
        self.drafted.fill_(-1)

    def rollback(self, lengths: torch.Tensor) -> None:
        """Cuts rows to `lengths` [B]; a row that is not longer stays as it is."""
        self.drafted.masked_fill_((lengths < self.lengths)[:, None], -1)
        torch.minimum(self.lengths, lengths, out=self.lengths)
        torch.minimum(self.cached, self.lengths, out=self.cached)
