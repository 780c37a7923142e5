# SPDX-License-Identifier: Apache-2.0
"""A draft tree by levels: what a drafter runs to find the children of the next one."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch

from via_ext.tree import Tree


class TreeLevel(NamedTuple):
    """One level of a tree whose nodes may have children.

    Attributes:
        known: nodes up to this level, parents first, this level's last; empty for the root.
        shape: the tree of the known nodes, in that order.
        num_parents: nodes of this level.
        children: (index among this level's nodes, its children) for those that have some.
        max_children: the most children of one node.
    """

    known: list[int]
    shape: Tree
    num_parents: int
    children: list[tuple[int, list[int]]]
    max_children: int


@lru_cache(maxsize=64)
def tree_levels(tree: Tree) -> list[TreeLevel]:
    """The levels above the leaves, the root's first."""
    order = sorted(range(tree.num_nodes), key=lambda node: (tree.depths[node], node))
    place = {-1: -1} | {node: index for index, node in enumerate(order)}
    levels = []
    for depth in range(tree.max_depth):
        known = [node for node in order if tree.depths[node] <= depth]
        parents = [node for node in known if tree.depths[node] == depth] if depth else [-1]
        children = [(i, list(tree.children[node + 1])) for i, node in enumerate(parents)]
        children = [(i, nodes) for i, nodes in children if nodes]
        shape = Tree.from_parents([place[tree.parents[node]] for node in known])
        most = max(len(nodes) for _, nodes in children)
        levels.append(TreeLevel(known, shape, len(parents), children, most))
    return levels


@lru_cache(maxsize=64)
def tree_parents(tree: Tree) -> torch.Tensor:
    """Parents [N] int64."""
    return torch.tensor(tree.parents)
