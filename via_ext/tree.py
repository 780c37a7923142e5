# SPDX-License-Identifier: Apache-2.0
"""`Tree`: the shape of a draft, without tokens. Node 0..N-1, every parent before its children."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

# 127 nodes and the root make 128 rows, two 64-bit ancestor words.
MAX_NODES = 127


def _size(name: str, value: object, low: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"Tree: {name} must be an int, got {value!r}")
    if value < low:
        raise ValueError(f"Tree: {name} must be at least {low}, got {value}")
    return value


def _items(name: str, values: object) -> list[object]:
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise TypeError(f"Tree: {name} must be a sequence of ints, got {values!r}")
    return list(values)


@dataclass(frozen=True)
class Tree:
    """Parents of the drafted nodes below one root.

    Make one with `chain`, `from_widths` or `from_parents`. Equal parents are equal trees.

    Attributes:
        parents: per node the index of its parent, -1 = the root, always smaller than the node.

    Raises:
        TypeError: parents is not a sequence of ints.
        ValueError: a parent is not before its node, or there are more than 127 nodes.
    """

    parents: tuple[int, ...]

    def __post_init__(self) -> None:
        """Check that parents come before their children."""
        items = _items("parents", self.parents)
        if len(items) > MAX_NODES:
            raise ValueError(f"Tree: parents must hold at most {MAX_NODES}, got {len(items)}")
        parents = tuple(_size(f"parents[{node}]", parent, -1) for node, parent in enumerate(items))
        for node, parent in enumerate(parents):
            if parent >= node:
                raise ValueError(f"Tree: parents[{node}] must be less than {node}, got {parent}")
        object.__setattr__(self, "parents", parents)

    @classmethod
    def chain(cls, n: int) -> Tree:
        """A chain of n nodes, each the only child of the one before."""
        return cls(tuple(range(-1, min(_size("n", n, 0), MAX_NODES + 1) - 1)))

    @classmethod
    def from_widths(cls, widths: Sequence[int]) -> Tree:
        """A level-order tree in which every node of level d - 1 has widths[d] children.

        `[4, 2, 1]` has 4 + 8 + 8 nodes. Children of one parent are consecutive.
        """
        parents: list[int] = []
        level = [-1]
        for depth, item in enumerate(_items("widths", widths)):
            width = _size(f"widths[{depth}]", item, 1)
            # Checked before growing: widths like [100] * 9 must not be built first.
            if len(parents) + len(level) * width > MAX_NODES:
                raise ValueError(f"Tree: widths must make at most {MAX_NODES} nodes, got {widths}")
            first = len(parents)
            parents += [parent for parent in level for _ in range(width)]
            level = list(range(first, len(parents)))
        return cls(tuple(parents))

    @classmethod
    def from_parents(cls, parents: Sequence[int]) -> Tree:
        """A tree with these parents, -1 = the root."""
        return cls(tuple(_items("parents", parents)))  # type: ignore[arg-type]

    @property
    def num_nodes(self) -> int:
        """Number of nodes; the root is not counted."""
        return len(self.parents)

    @cached_property
    def depths(self) -> tuple[int, ...]:
        """Distance of each node from the root; a child of the root has 1."""
        depths: list[int] = []
        for parent in self.parents:
            depths.append(1 if parent < 0 else depths[parent] + 1)
        return tuple(depths)

    @property
    def max_depth(self) -> int:
        """Depth of the deepest node, 0 without nodes."""
        return max(self.depths, default=0)

    @cached_property
    def ancestors(self) -> tuple[int, ...]:
        """Per node one bit word: bit j is set if node j lies on its path, itself included.

        The root has no bit. Words are Python ints of up to 127 bits.
        """
        words: list[int] = []
        for node, parent in enumerate(self.parents):
            words.append((1 << node) | (0 if parent < 0 else words[parent]))
        return tuple(words)

    @cached_property
    def children(self) -> tuple[tuple[int, ...], ...]:
        """Children in node order per logits row: entry 0 for the root, entry i + 1 for node i."""
        lists: list[list[int]] = [[] for _ in range(self.num_nodes + 1)]
        for node, parent in enumerate(self.parents):
            lists[parent + 1].append(node)
        return tuple(tuple(nodes) for nodes in lists)

    @cached_property
    def is_chain(self) -> bool:
        """True when every node is the child of the node before it."""
        return all(parent == node - 1 for node, parent in enumerate(self.parents))
