# SPDX-License-Identifier: Apache-2.0
"""The levels of a tree as device tensors, for `DeviceDrafter`."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from via_ext.drafters.model import _levels
from via_ext.tree import Tree


class Level(NamedTuple):
    """What one level of a tree needs, as tensors.

    Attributes:
        known: [M] nodes down to this level, parents first; empty above the first level.
        parents: [M] their parents among the known ones.
        depths: [M] below the first level's.
        rows: [1, R] this level's places among the known nodes.
        candidates: how many candidates each of the R nodes gives.
        columns: [C] the children, nodes of the tree.
        sources: [C] the candidate each takes, an index into [R * candidates].
    """

    known: torch.Tensor
    parents: torch.Tensor
    depths: torch.Tensor
    rows: torch.Tensor
    candidates: int
    columns: torch.Tensor
    sources: torch.Tensor


def level_tensors(tree: Tree, vocab_size: int, device: torch.device) -> list[Level]:
    """The levels above the leaves, the root's first."""

    def tensor(values: Any) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.int64, device=device)

    levels = []
    for level in _levels(tree):
        known = len(level.known)
        count = min(level.max_children, vocab_size)
        columns: list[int] = []
        sources: list[int] = []
        for parent, children in level.children:
            used = children[:count]
            columns += used
            sources += range(parent * count, parent * count + len(used))
        levels.append(
            Level(
                tensor(level.known),
                tensor(level.shape.parents),
                tensor([depth - 1 for depth in level.shape.depths]),
                tensor([range(known - level.num_parents, known)]),
                count,
                tensor(columns),
                tensor(sources),
            )
        )
    return levels
