# SPDX-License-Identifier: Apache-2.0
"""`Tree`: shapes by hand, and properties over random trees."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from via_ext.tree import MAX_NODES, Tree


@st.composite
def parent_lists(draw, max_nodes=MAX_NODES):
    size = draw(st.integers(0, max_nodes))
    return [draw(st.integers(-1, node - 1)) for node in range(size)]


def test_chain():
    tree = Tree.chain(4)
    assert tree.parents == (-1, 0, 1, 2)
    assert tree.depths == (1, 2, 3, 4)
    assert tree.ancestors == (0b1, 0b11, 0b111, 0b1111)
    assert tree.children == ((0,), (1,), (2,), (3,), ())
    assert tree.is_chain and tree.num_nodes == tree.max_depth == 4


def test_widths_of_the_contract():
    tree = Tree.from_widths([4, 2, 1])
    assert tree.num_nodes == 4 + 8 + 8
    assert tree.parents[:4] == (-1,) * 4
    assert tree.parents[4:12] == (0, 0, 1, 1, 2, 2, 3, 3)
    assert tree.parents[12:] == tuple(range(4, 12))
    assert tree.depths == (1,) * 4 + (2,) * 8 + (3,) * 8
    assert not tree.is_chain


def test_empty():
    for tree in (Tree.chain(0), Tree.from_widths([]), Tree.from_parents([])):
        assert (tree.num_nodes, tree.max_depth, tree.children) == (0, 0, ((),))
    assert Tree.chain(0).is_chain


def test_equality_and_hash():
    assert Tree.chain(3) == Tree.from_widths([1, 1, 1]) == Tree.from_parents([-1, 0, 1])
    assert len({Tree.chain(3), Tree.from_parents((-1, 0, 1)), Tree.chain(2)}) == 2


@given(parent_lists())
def test_depths_ancestors_children(parents):
    tree = Tree.from_parents(parents)
    assert list(tree.parents) == parents
    for node, parent in enumerate(parents):
        path = {node}
        while parent >= 0:
            path.add(parent)
            parent = parents[parent]
        assert tree.depths[node] == len(path)
        assert {j for j in range(tree.num_nodes) if tree.ancestors[node] >> j & 1} == path
    assert sorted(node for nodes in tree.children for node in nodes) == list(range(tree.num_nodes))
    for row, nodes in enumerate(tree.children):
        assert list(nodes) == [n for n, parent in enumerate(parents) if parent == row - 1]
    assert tree.max_depth == max(tree.depths, default=0)


@given(st.lists(st.integers(1, 4), max_size=4))
def test_widths_level_order(widths):
    sizes, total = [], 1
    for width in widths:
        total *= width
        sizes.append(total)
    if sum(sizes) > MAX_NODES:
        with pytest.raises(ValueError, match="at most 127 nodes"):
            Tree.from_widths(widths)
        return
    tree = Tree.from_widths(widths)
    assert list(tree.depths) == sorted(tree.depths)
    assert [tree.depths.count(level + 1) for level in range(len(widths))] == sizes
    # Children of one parent are consecutive.
    assert list(tree.parents) == sorted(tree.parents)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: Tree.from_parents([0]), ValueError, "parents[0] must be less than 0, got 0"),
        (lambda: Tree.from_parents([-1, 2, 0]), ValueError, "parents[1] must be less than 1"),
        (lambda: Tree.from_parents([-2]), ValueError, "parents[0] must be at least -1, got -2"),
        (lambda: Tree.from_parents([-1, 0.0]), TypeError, "parents[1] must be an int, got 0.0"),
        (lambda: Tree.from_parents(3), TypeError, "parents must be a sequence of ints"),
        (lambda: Tree.from_parents([-1] * 128), ValueError, "at most 127, got 128"),
        (lambda: Tree.chain(-1), ValueError, "n must be at least 0, got -1"),
        (lambda: Tree.chain(10**9), ValueError, "at most 127"),
        (lambda: Tree.chain(2.0), TypeError, "n must be an int, got 2.0"),
        (lambda: Tree.from_widths([2, 0]), ValueError, "widths[1] must be at least 1, got 0"),
        (lambda: Tree.from_widths([100] * 9), ValueError, "at most 127 nodes"),
        (lambda: Tree.from_widths("42"), TypeError, "widths must be a sequence of ints"),
    ],
)
def test_bad_input(make, error, words):
    with pytest.raises(error) as caught:
        make()
    assert str(caught.value).startswith("Tree: ") and words in str(caught.value)
