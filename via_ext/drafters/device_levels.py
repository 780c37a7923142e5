# SPDX-License-Identifier: Apache-2.0
"""The levels of a tree as device tensors, for `DeviceDrafter`."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from via_ext.drafters.levels import tree_levels
from via_ext.tree import Tree


class DeviceLevel(NamedTuple):
    """What one level of a tree needs.

    Attributes:
        known: [M] nodes down to this level, parents first; empty for the root's.
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


def device_levels(tree: Tree, vocab_size: int, device: torch.device) -> list[DeviceLevel]:
    """The levels above the leaves, the root's first.

    Args:
        tree: the shape.
        vocab_size: of the drafter's logits; a node has no more children than that.
        device: where the tensors are made.
    """

    def tensor(values: Any) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.int64, device=device)

    levels = []
    for level in tree_levels(tree):
        known = len(level.known)
        candidates = min(level.max_children, vocab_size)
        columns: list[int] = []
        sources: list[int] = []
        for parent, children in level.children:
            used = children[:candidates]
            columns += used
            sources += range(parent * candidates, parent * candidates + len(used))
        levels.append(
            DeviceLevel(
                known=tensor(level.known),
                parents=tensor(level.shape.parents),
                depths=tensor([depth - 1 for depth in level.shape.depths]),
                rows=tensor([range(known - level.num_parents, known)]),
                candidates=candidates,
                columns=tensor(columns),
                sources=tensor(sources),
            )
        )
    return levels
