# SPDX-License-Identifier: Apache-2.0
"""`PromptLookupDrafter` against a search written the slow way, and the drafter protocol."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from via_ext.drafters import Drafter, DraftTokens, PromptLookupDrafter
from via_ext.tree import Tree


def propose(drafter, tree, batch=1):
    keys = torch.zeros(batch, dtype=torch.int64)
    return drafter.propose(tree, keys, keys)


def drafted(drafter, depth=5, batch=1):
    """Drafts as lists, after checking shape, type and padding."""
    draft = propose(drafter, Tree.chain(depth), batch)
    assert isinstance(draft, DraftTokens) and draft.probs is None and draft.parents is None
    assert draft.token_ids.shape == (batch, depth)
    assert draft.token_ids.dtype == draft.num_nodes.dtype == torch.int64
    rows = []
    for ids, count in zip(draft.token_ids.tolist(), draft.num_nodes.tolist(), strict=True):
        assert all(token >= 0 for token in ids[:count])
        assert all(token == -1 for token in ids[count:])
        rows.append(ids[:count])
    return rows


def slow(tokens, depth, max_ngram, min_ngram):
    for size in range(max_ngram, min_ngram - 1, -1):
        for start in range(len(tokens) - size - 1, -1, -1):
            if tokens[start : start + size] == tokens[len(tokens) - size :]:
                return tokens[start + size : start + size + depth]
    return []


def test_is_a_drafter():
    assert isinstance(PromptLookupDrafter(), Drafter)
    assert not isinstance(object(), Drafter)


def test_longest_then_latest():
    drafter = PromptLookupDrafter()
    drafter.prefill(torch.tensor([[1, 2, 3, 4, 9, 2, 3, 5, 1, 2, 3]]))
    assert drafted(drafter) == [[4, 9, 2, 3, 5]]  # three tokens beat the later match of two
    drafter.prefill(torch.tensor([[7, 1, 7, 2, 7]]))
    assert drafted(drafter) == [[2, 7]]  # the latest of two single tokens; short near the end
    drafter.prefill(torch.tensor([[1, 2, 3]]))
    assert drafted(drafter) == [[]]


def test_min_ngram():
    drafter = PromptLookupDrafter(max_ngram=3, min_ngram=2)
    drafter.prefill(torch.tensor([[7, 1, 7]]))
    assert drafted(drafter) == [[]]
    drafter.prefill(torch.tensor([[7, 1, 3, 7, 1]]))
    assert drafted(drafter) == [[3, 7, 1]]


def test_tree_gets_a_chain_of_its_depth():
    drafter = PromptLookupDrafter()
    drafter.prefill(torch.arange(10).repeat(2)[None, :15])
    tree = Tree.from_widths([4, 2, 1])
    draft = propose(drafter, tree)
    assert draft.token_ids.tolist() == [[5, 6, 7]] and draft.parents is None
    assert draft.num_nodes.tolist() == [3]
    assert propose(drafter, Tree.chain(0)).token_ids.shape == (1, 0)


def test_padding_on_either_side():
    rows = torch.tensor([[0, 0, 5, 6, 5], [5, 6, 5, 0, 0], [1, 5, 6, 2, 5]])
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    drafter = PromptLookupDrafter()
    drafter.prefill(rows, mask)
    assert drafted(drafter, batch=3) == [[6, 5], [6, 5], [6, 2, 5]]


def test_commit_and_rollback_per_row():
    drafter = PromptLookupDrafter()
    drafter.prefill(torch.tensor([[1, 2], [3, 4]]))
    drafter.commit(torch.tensor([[9, 1], [5, -1]]), torch.tensor([2, 0]))
    assert drafted(drafter, batch=2) == [[2, 9, 1], []]
    drafter.rollback(torch.tensor([3, 2]))
    drafter.commit(torch.tensor([[2], [3]]), torch.tensor([1, 1]))
    assert drafted(drafter, batch=2) == [[9, 2], [4, 3]]
    with pytest.raises(ValueError, match=r"lengths\[1\] must be in \[0, 3\], got 4"):
        drafter.rollback(torch.tensor([2, 4]))


def test_inputs_stay_and_prefill_forgets():
    ids = torch.tensor([[1, 2, 1]])
    drafter = PromptLookupDrafter()
    drafter.prefill(ids)
    drafter.rollback(torch.tensor([2]))
    drafter.commit(torch.tensor([[8]]), torch.tensor([1]))
    assert ids.tolist() == [[1, 2, 1]]
    drafter.prefill(torch.tensor([[4, 4]]))
    assert drafted(drafter) == [[4]]


@given(
    st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=12), min_size=1, max_size=8),
    st.integers(1, 4),
    st.integers(0, 6),
    st.data(),
)
def test_equals_slow_search(chunks, max_ngram, depth, data):
    """Same drafts as the slow search over commits and rollbacks in any order."""
    min_ngram = data.draw(st.integers(1, max_ngram))
    drafter = PromptLookupDrafter(max_ngram, min_ngram)
    tokens = list(chunks[0])
    drafter.prefill(torch.tensor([tokens]))
    for chunk in chunks[1:]:
        keep = data.draw(st.integers(1, len(tokens)))
        tokens = tokens[:keep] + chunk
        drafter.rollback(torch.tensor([keep]))
        drafter.commit(torch.tensor([chunk]), torch.tensor([len(chunk)]))
        assert drafted(drafter, depth) == [slow(tokens, depth, max_ngram, min_ngram)]


@pytest.mark.parametrize(
    ("sizes", "error", "words"),
    [
        ((3, 0), ValueError, "min_ngram must be at least 1, got 0"),
        ((2, 3), ValueError, "max_ngram must be at least min_ngram = 3, got 2"),
        ((2.0, 1), TypeError, "max_ngram must be an int, got 2.0"),
    ],
)
def test_bad_sizes(sizes, error, words):
    with pytest.raises(error, match=words):
        PromptLookupDrafter(*sizes)
