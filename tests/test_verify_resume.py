# SPDX-License-Identifier: Apache-2.0
"""Resuming after an escalation: rows copied through, rows continued, the path kept."""

import pytest
import torch

from tests.verify_runner import log_rows, same_bits

STEEP = [0.01, 0.97, 0.01, 0.01]
FLAT = [0.25, 0.25, 0.25, 0.25]
TWO = [0.05, 0.05, 0.6, 0.3]


def route_then(verify, slim, full, ids, rule, **arguments):
    first = verify(ids, slim, rule="route")
    return first, verify(ids, full, rule=rule, resume=first, **arguments)


def test_a_chain_continues_with_the_full_logits(verify):
    ids = torch.tensor([[1, 3, 2, 2]])
    slim = log_rows(STEEP, STEEP, FLAT, FLAT, FLAT)
    # Row 0 of the full model disagrees with node 0; it was accepted and is not judged again.
    full = log_rows(TWO, [0.1, 0.1, 0.2, 0.6], TWO, [0.7, 0.1, 0.1, 0.1], FLAT)
    first, result = route_then(verify, slim, full, ids, "greedy")
    assert first.escalate.tolist() == [True] and first.next_row.tolist() == [1]
    assert result.path.tolist() == [[0, 1, 2, -1]]
    assert result.num_accepted.tolist() == [3]
    assert result.next_token.tolist() == [0]
    assert result.next_row.tolist() == [3]
    assert result.escalate.tolist() == [False]
    assert same_bits(result.ratios, first.ratios) and same_bits(result.tiers, first.tiers)
    expected = torch.tensor([[0.97, 0.6, 0.6, 0.7]]).log()
    torch.testing.assert_close(result.logprobs[:, :4], expected)
    assert result.logprobs[0, 4] == 0.0


def test_rows_that_did_not_escalate_are_copied(verify, generator):
    ids = torch.tensor([[1, 3], [1, 1], [1, 0]])
    slim = torch.cat([log_rows(STEEP, STEEP, FLAT)] * 3)
    full = torch.randn(3, 3, 4, generator=generator)
    full[1] = torch.nan  # not looked at: row 1 did not escalate
    first, result = route_then(verify, slim, full, ids, "greedy")
    assert first.escalate.tolist() == [True, False, True]
    assert same_bits(
        type(first)(*(field[1] for field in first)), type(first)(*(field[1] for field in result))
    )
    assert result.escalate.tolist() == [False] * 3
    assert result.status.tolist() == [0] * 3


def test_a_tree_continues_at_the_last_accepted_node(verify):
    parents = torch.tensor([-1, -1, 1, 1, 3])
    ids = torch.tensor([[0, 1, 2, 3, 2]])
    slim = log_rows(STEEP, FLAT, STEEP, FLAT, FLAT, FLAT)
    first = verify(ids, slim, rule="route", parents=parents)
    assert first.path.tolist() == [[1, -1, -1, -1, -1]]
    full = log_rows(FLAT, FLAT, [0.1, 0.1, 0.2, 0.6], FLAT, TWO, STEEP)
    result = verify(ids, full, rule="greedy", resume=first, parents=parents)
    assert result.path.tolist() == [[1, 3, 4, -1, -1]]
    assert result.next_token.tolist() == [1]
    assert result.next_row.tolist() == [5]


@pytest.mark.parametrize(("coin", "path", "token"), [(0.59, [0, 1], 3), (0.61, [0], 3)])
def test_sampling_uses_the_column_of_the_row_it_continues_at(verify, coin, path, token):
    ids = torch.tensor([[1, 2]])
    slim = log_rows(STEEP, STEEP, FLAT)
    first = verify(ids, slim, rule="route", temperature=1.0, uniform_samples=torch.zeros(1, 3))
    assert first.escalate.tolist() == [True]
    result = verify(
        ids,
        log_rows(FLAT, TWO, FLAT),
        rule="sample",
        temperature=1.0,
        resume=first,
        uniform_samples=torch.tensor([[0.0, coin, 0.9]]),
    )
    assert result.path.tolist() == [path + [-1] * (2 - len(path))]
    assert result.next_token.tolist() == [token]


def test_sampling_with_a_distribution_uses_the_column_of_the_node(verify):
    ids = torch.tensor([[1, 2]])
    first = verify(ids, log_rows(STEEP, STEEP, FLAT), rule="route")
    probs = torch.tensor([[FLAT, [0.0, 0.0, 1.0, 0.0]]])
    for coin, kept in [(0.59, 2), (0.61, 1)]:
        result = verify(
            ids,
            log_rows(FLAT, TWO, FLAT),
            rule="sample",
            temperature=1.0,
            resume=first,
            draft_probs=probs,
            uniform_samples=torch.tensor([[0.99, coin, 0.0]]),
        )
        assert result.num_accepted.tolist() == [kept]


def test_escalation_at_a_leaf_emits_the_full_models_token(verify):
    ids = torch.tensor([[1]])
    first = verify(
        ids,
        log_rows(STEEP, FLAT),
        rule="route",
        accept_threshold=2.0,
        escalate_threshold=2.0,
        draft_threshold=0.5,
        draft_probs=torch.tensor([[[0.0, 1.0, 0.0, 0.0]]]),
    )
    assert first.path.tolist() == [[0]] and first.escalate.tolist() == [True]
    result = verify(ids, log_rows(FLAT, TWO), rule="greedy", resume=first)
    assert result.path.tolist() == [[0]]
    assert result.next_token.tolist() == [2]
    assert result.next_row.tolist() == [1]


def test_escalation_without_nodes(verify):
    ids = torch.empty(1, 0, dtype=torch.int64)
    first = verify(ids, log_rows(STEEP), rule="route", accept_threshold=2.0, escalate_threshold=2.0)
    assert first.escalate.tolist() == [True]
    result = verify(ids, log_rows(TWO), rule="greedy", resume=first)
    assert result.next_token.tolist() == [2]
    assert result.ratios.shape == (1, 0)


def test_status_bits_are_joined(verify):
    ids = torch.tensor([[1, 99]])
    slim = log_rows(STEEP, STEEP, FLAT)
    slim[0, 0, 0] = torch.nan
    first = verify(ids, slim, rule="route", accept_threshold=1.5, escalate_threshold=1.5)
    assert first.status.tolist() == [1 | 2] and first.escalate.tolist() == [True]
    full = log_rows([0.0, 0.0, 0.0, 0.0], FLAT, FLAT)
    result = verify(torch.tensor([[1, 3]]), full, rule="greedy", resume=first)
    assert result.status.tolist() == [1 | 2 | 4]


def test_a_bad_parameter_accepts_nothing_more(verify):
    ids = torch.tensor([[1, 3, 2], [1, 3, 2]])
    slim = log_rows(STEEP, STEEP, FLAT, FLAT).expand(2, -1, -1)
    first = verify(ids, slim, rule="route")
    assert first.num_accepted.tolist() == [1, 1] and first.escalate.all()
    full = log_rows(FLAT, [0.0, 0.0, 0.1, 0.9], TWO, TWO).expand(2, -1, -1)
    result = verify(
        ids,
        full,
        rule="sample",
        resume=first,
        temperature=torch.tensor([torch.nan, 1.0]),
        uniform_samples=torch.zeros(2, 4),
    )
    assert result.status.tolist() == [16, 0]
    assert result.path.tolist() == [[0, -1, -1], [0, 1, 2]]
    assert result.next_token.tolist() == [3, 0]
    assert result.next_row.tolist() == [1, 3]


def test_a_path_that_does_not_lie_in_the_tree(verify):
    # Such a result cannot come from a call on this draft: the row starts again without nodes.
    ids = torch.tensor([[1, 3]] * 5)
    first = verify(ids, log_rows(STEEP, STEEP, FLAT).expand(5, -1, -1), rule="route")
    assert first.path.tolist() == [[0, -1]] * 5 and first.escalate.all()
    broken = first._replace(
        path=torch.tensor([[0, -1], [1, -1], [7, -1], [-1, -1], [0, 0]], dtype=torch.int32),
        num_accepted=torch.tensor([1, 1, 1, 1, 100], dtype=torch.int32),
    )
    result = verify(ids, log_rows(TWO, STEEP, FLAT).expand(5, -1, -1), rule="greedy", resume=broken)
    assert result.status.tolist() == [0, 8, 8, 8, 8]
    assert result.path.tolist() == [[0, -1]] + [[-1, -1]] * 4
    assert result.next_token.tolist() == [1, 2, 2, 2, 2]
    assert result.next_row.tolist() == [1, 0, 0, 0, 0]


def test_resuming_the_result_of_another_rule_has_no_ratios(verify):
    # No such call escalates, so everything is copied.
    ids = torch.tensor([[1, 3]])
    first = verify(ids, log_rows(STEEP, STEEP, FLAT), rule="greedy")
    result = verify(ids, log_rows(FLAT, FLAT, FLAT), rule="greedy", resume=first)
    assert same_bits(tuple(result), tuple(first))


def test_a_row_cut_by_the_caller_continues_where_it_was_cut(verify):
    # An engine may hand over earlier than the rule: it marks the row as escalated at its path.
    ids = torch.tensor([[1, 1, 1]])
    first = verify(ids, log_rows(STEEP, STEEP, STEEP, STEEP), rule="route")
    assert first.num_accepted.tolist() == [3]
    cut = first._replace(
        path=torch.tensor([[0, -1, -1]], dtype=torch.int32),
        num_accepted=torch.tensor([1], dtype=torch.int32),
        next_token=torch.tensor([-1]),
        next_row=torch.tensor([1], dtype=torch.int32),
        escalate=torch.tensor([True]),
        logprobs=first.logprobs * torch.tensor([1.0, 0, 0, 0]),
    )
    result = verify(ids, log_rows(TWO, STEEP, TWO, TWO), rule="greedy", resume=cut)
    assert result.path.tolist() == [[0, 1, -1]]
    assert result.next_token.tolist() == [2]
    expected = torch.tensor([[0.97, 0.97, 0.6, 1.0]]).log()
    torch.testing.assert_close(result.logprobs, expected, atol=1e-6, rtol=1e-6)
