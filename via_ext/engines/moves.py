# SPDX-License-Identifier: Apache-2.0
"""Cache rows of accepted tree paths, moved into place once per step."""

from __future__ import annotations

from typing import NamedTuple

import torch

from via_ext import ops
from via_ext.engines.torch import Verifier


class Move(NamedTuple):
    """Cache rows to keep: the accepted path below the root at `context`.

    Attributes:
        row: batch row.
        context: position of the root.
        path: accepted nodes, in order.
        backlog: index of the root's hidden row, None where hidden rows start afresh.
    """

    row: int
    context: int
    path: list[int]
    backlog: int | None


def compact(verifier: Verifier, moves: list[Move], rows: int, num_nodes: int) -> None:
    """Moves the rows of accepted nodes behind their roots; chains lie there already.

    Args:
        verifier: its KV arena, and its hidden rows where it has some.
        moves: at most one per batch row.
        rows: batch rows.
        num_nodes: most nodes of a step.
    """
    moves = [move for move in moves if move.path != list(range(len(move.path)))]
    if not moves:
        return
    path = torch.full((rows, num_nodes), -1, dtype=torch.int32)
    counts, hidden_counts, contexts, roots = torch.zeros(4, rows, dtype=torch.int32)
    for move in moves:
        path[move.row, : len(move.path)] = torch.tensor(move.path)
        counts[move.row], contexts[move.row] = len(move.path), move.context
        if move.backlog is not None:
            hidden_counts[move.row], roots[move.row] = len(move.path), move.backlog
    ops.compact_kv(verifier.arena.tensors, contexts, path, counts)
    if verifier.hidden is not None:
        ops.compact_kv([verifier.hidden], roots, path, hidden_counts)
