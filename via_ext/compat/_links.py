# SPDX-License-Identifier: Apache-2.0
"""Trees given as links (first child, next sibling) in the order that `verify` wants.

Column 0 is the root. Read as a binary tree, whose branches are the two links, parents lie above
their children and earlier siblings above later ones: sorted by their height in it, nodes follow
their parents, and siblings keep their order. Heights and parents come from pointer doubling, so
every call does the same log2(N) steps whatever the links say: a cycle never reaches the root.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

# A path's steps to children are counted above this bit, all its links below.
_DEPTH_BIT = 20


class NodeOrder(NamedTuple):
    """Nodes below the root, sorted: parents first, siblings in their order. N columns.

    Attributes:
        columns: [B, N-1] int64, where the node stands in the caller's tensors.
        parents: [B, N-1] int64, sorted index of the parent, -1 = root.
        exists: [B, N-1] bool, false for what cannot be reached.
    """

    columns: Tensor
    parents: Tensor
    exists: Tensor

    def rows(self) -> Tensor:
        """[B, N] columns of the logits rows: the root's, then the nodes'."""
        return torch.nn.functional.pad(self.columns, (1, 0))


def order_nodes(next_token: Tensor, next_sibling: Tensor, max_depth: int) -> NodeOrder:
    """Sorts the nodes of link trees.

    A link that is out of range or to the root counts as none; a node that is linked from two
    places, that the root does not lead to, or that is deeper than `max_depth`, as absent.

    Args:
        next_token: [B, N] first child, else a negative number.
        next_sibling: [B, N] next child of the same parent, else a negative number.
        max_depth: children of the root have depth 1.

    Returns:
        A `NodeOrder` of N - 1 nodes.
    """
    batch_size, size = next_token.shape
    links = torch.cat([next_token, next_sibling], 1).long()
    target = torch.where((links > 0) & (links < size), links, size)
    sources = torch.arange(2 * size, device=links.device).expand(batch_size, -1)
    counts = torch.zeros((batch_size, size + 1), dtype=torch.int64, device=links.device)
    source = torch.zeros_like(counts).scatter_add_(1, target, sources)[:, :size]
    is_linked = counts.scatter_add_(1, target, torch.ones_like(sources))[:, :size] == 1
    is_first = is_linked & (source < size)  # by next_token, so the source is the parent
    itself = torch.arange(size, device=links.device).expand(batch_size, -1)
    above = torch.where(is_linked, source % size, itself)
    height = is_linked + (is_first.long() << _DEPTH_BIT)
    first = torch.where(is_linked & ~is_first, above, itself)  # towards the first sibling
    top = above
    for _ in range((size - 1).bit_length()):
        height = height + height.gather(1, top)
        top = top.gather(1, top)
        first = first.gather(1, first)
    is_reached = is_linked & (top == 0) & (height >> _DEPTH_BIT <= max_depth)
    links_above = height & ((1 << _DEPTH_BIT) - 1)
    key = torch.where(is_reached, links_above, size)[:, 1:]
    columns = key.argsort(dim=1, stable=True) + 1
    # The root has no place of its own: its children's parent is -1.
    place = torch.full_like(itself, -1).scatter_(1, columns, itself[:, : size - 1].contiguous())
    exists = is_reached.gather(1, columns)
    parents = place.gather(1, above.gather(1, first).gather(1, columns))
    return NodeOrder(columns, torch.where(exists, parents, -1), exists)
