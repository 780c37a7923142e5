# SPDX-License-Identifier: Apache-2.0
"""The result of ops.verify, and room for it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

_empty = torch.empty


class Verification(NamedTuple):
    """Decisions of one verify call; every element is written. B rows, N nodes.

    Attributes:
        ratios: [B, N] float32, draft-token probability ratio in [0, 1]; 0 where there is no node.
            None for rules greedy and sample without `resume`.
        tiers: [B, N] uint8: 0 accept, 1 regenerate, 2 escalate, 255 no node. None like `ratios`.
        path: [B, N] int32, accepted nodes in order, padded -1.
        num_accepted: [B] int32.
        next_token: [B] int64, the token after the accepted ones; -1 when escalating.
        next_row: [B] int32, the logits row where the walk stopped, from which next_token came.
        escalate: [B] bool, the full model has to decide from `next_row` on.
        logprobs: [B, N+1] float32, of the accepted tokens, then of the next one, padded 0.
        status: [B] int32 bit flags: 1 NaN in a used row, 2 token id outside the vocabulary, 4 no
            token left with positive mass, 8 malformed tree (treated as no nodes), 16 per-row
            parameter out of range (row greedy, nothing accepted).
    """

    ratios: Tensor | None
    tiers: Tensor | None
    path: Tensor
    num_accepted: Tensor
    next_token: Tensor
    next_row: Tensor
    escalate: Tensor
    logprobs: Tensor
    status: Tensor


def empty_verification(
    batch_size: int, num_nodes: int, device: torch.device | str = "cpu", *, ratios: bool = True
) -> Verification:
    """Allocates the outputs of `verify`, for `out=`.

    Args:
        batch_size: B.
        num_nodes: N, at most 127.
        device: where the call will run.
        ratios: True for rule "route" (and for resuming from its result).

    Returns:
        Uninitialised tensors of the shapes and dtypes of `Verification`.
    """
    nodes = (batch_size, num_nodes)
    rows = (batch_size,)
    return Verification(
        _empty(nodes, dtype=torch.float32, device=device) if ratios else None,
        _empty(nodes, dtype=torch.uint8, device=device) if ratios else None,
        _empty(nodes, dtype=torch.int32, device=device),
        _empty(rows, dtype=torch.int32, device=device),
        _empty(rows, dtype=torch.int64, device=device),
        _empty(rows, dtype=torch.int32, device=device),
        _empty(rows, dtype=torch.bool, device=device),
        _empty((batch_size, num_nodes + 1), dtype=torch.float32, device=device),
        _empty(rows, dtype=torch.int32, device=device),
    )
