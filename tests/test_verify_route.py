# SPDX-License-Identifier: Apache-2.0
"""Rule route by hand: ratios, tiers, the walk, what a step ends with."""

import math

import pytest
import torch

from tests.verify_runner import log_rows, mask_words

FLAT = [0.25, 0.25, 0.25, 0.25]


def test_three_tiers_on_a_chain(verify):
    # Ratios 1, 0.75, 0.6, 0.25 against thresholds 0.7 and 0.5.
    logits = log_rows(
        [0.8, 0.2, 0, 0], [0.4, 0.3, 0.2, 0.1], [0.5, 0.3, 0.2, 0], [0.4, 0.1, 0.4, 0.1], FLAT
    )
    result = verify(torch.tensor([[0, 1, 1, 1]]), logits, rule="route")
    torch.testing.assert_close(result.ratios, torch.tensor([[1.0, 0.75, 0.6, 0.25]]))
    assert result.tiers.tolist() == [[0, 0, 1, 2]]
    assert result.path.tolist() == [[0, 1, -1, -1]]
    assert result.num_accepted.tolist() == [2]
    # Regenerated at row 2, from the verifier itself.
    assert result.next_token.tolist() == [0]
    assert result.next_row.tolist() == [2]
    assert result.escalate.tolist() == [False]
    expected = torch.tensor([[0.8, 0.3, 0.5]]).log()
    torch.testing.assert_close(result.logprobs[:, :3], expected)
    assert result.logprobs[0, 3:].tolist() == [0.0, 0.0]
    assert result.status.tolist() == [0]


def test_escalation_stops_without_a_token(verify):
    logits = log_rows([0.8, 0.2, 0, 0], [0.1, 0.4, 0.4, 0.1], FLAT)
    result = verify(torch.tensor([[0, 3]]), logits, rule="route")
    assert result.tiers.tolist() == [[0, 2]]
    assert result.path.tolist() == [[0, -1]]
    assert result.escalate.tolist() == [True]
    assert result.next_token.tolist() == [-1]
    assert result.next_row.tolist() == [1]
    torch.testing.assert_close(result.logprobs, torch.tensor([[math.log(0.8), 0.0, 0.0]]))


def test_all_accepted_emits_the_bonus_token(verify):
    logits = log_rows([0.8, 0.2, 0, 0], [0.1, 0.8, 0.1, 0], [0.1, 0.2, 0.3, 0.4])
    result = verify(torch.tensor([[0, 1]]), logits, rule="route")
    assert result.path.tolist() == [[0, 1]]
    assert result.next_token.tolist() == [3]
    assert result.next_row.tolist() == [2]
    torch.testing.assert_close(result.logprobs, torch.tensor([[0.8, 0.8, 0.4]]).log())


def test_no_nodes_emits_the_bonus_token(verify):
    result = verify(torch.empty(1, 0, dtype=torch.int64), log_rows([0.2, 0.7, 0.1]), rule="route")
    assert result.ratios.shape == result.tiers.shape == result.path.shape == (1, 0)
    assert result.next_token.tolist() == [1]
    assert result.next_row.tolist() == [0]
    assert result.escalate.tolist() == [False]


@pytest.mark.parametrize("tokens", [[], [0], [0, 0]])
def test_accept_above_one_escalates_everywhere(verify, tokens):
    # Regenerate is still there between the thresholds, but a leaf or an empty step escalates.
    logits = log_rows(*[[0.7, 0.3]] * (len(tokens) + 1))
    ids = torch.tensor([tokens], dtype=torch.int64)
    result = verify(ids, logits, rule="route", accept_threshold=1.5, escalate_threshold=1.2)
    assert result.escalate.tolist() == [True]
    assert result.next_token.tolist() == [-1]
    assert result.next_row.tolist() == [0]
    assert result.tiers.tolist() == [[2] * len(tokens)]


def test_accept_above_one_regenerates_above_the_lower_threshold(verify):
    result = verify(
        torch.tensor([[0]]),
        log_rows([0.7, 0.3], [0.5, 0.5]),
        rule="route",
        accept_threshold=1.5,
        escalate_threshold=0.5,
    )
    assert result.tiers.tolist() == [[1]]
    assert result.escalate.tolist() == [False]
    assert result.next_token.tolist() == [0]
    assert result.num_accepted.tolist() == [0]


def test_a_gated_leaf_escalates_when_accept_is_above_one(verify):
    result = verify(
        torch.tensor([[1]]),
        log_rows([0.7, 0.3], [0.5, 0.5]),
        rule="route",
        accept_threshold=1.5,
        escalate_threshold=1.5,
        draft_threshold=0.9,
        draft_probs=torch.tensor([[[0.05, 0.95]]]),
    )
    assert result.tiers.tolist() == [[0]]
    assert result.path.tolist() == [[0]]
    assert result.escalate.tolist() == [True]
    assert result.next_row.tolist() == [1]


def test_thresholds_include_their_value(verify, generator):
    ids = torch.randint(0, 7, (4, 5), generator=generator)
    logits = torch.randn(4, 6, 7, generator=generator)
    ratios = verify(ids, logits, rule="route").ratios[:, 0].clone()
    above = ratios.nextafter(torch.tensor(2.0))
    at = {"accept_threshold": ratios, "escalate_threshold": ratios}
    assert verify(ids, logits, rule="route", **at).tiers[:, 0].tolist() == [0] * 4
    over = {"accept_threshold": above, "escalate_threshold": ratios}
    assert verify(ids, logits, rule="route", **over).tiers[:, 0].tolist() == [1] * 4
    over = {"accept_threshold": above, "escalate_threshold": above}
    assert verify(ids, logits, rule="route", **over).tiers[:, 0].tolist() == [2] * 4


def test_the_candidate_has_the_largest_ratio(verify):
    # Children of the root: tokens 2, 1, 3 with ratios 0.6, 1, 0.25; node 3 hangs under node 1.
    logits = log_rows([0, 0.4, 0.24, 0.1], FLAT, [0.1, 0.6, 0.2, 0.1], FLAT, [0, 0, 0, 1.0])
    parents = torch.tensor([-1, -1, -1, 1])
    result = verify(torch.tensor([[2, 1, 3, 1]]), logits, rule="route", parents=parents)
    torch.testing.assert_close(result.ratios, torch.tensor([[0.6, 1.0, 0.25, 1.0]]))
    assert result.tiers.tolist() == [[1, 0, 2, 0]]
    assert result.path.tolist() == [[1, 3, -1, -1]]
    assert result.next_token.tolist() == [3]
    assert result.next_row.tolist() == [4]


def test_ties_go_to_the_lowest_node(verify):
    logits = log_rows([0.1, 0.3, 0.3, 0.3], *[FLAT] * 3)
    parents = torch.tensor([-1, -1, -1])
    result = verify(torch.tensor([[3, 1, 2]]), logits, rule="route", parents=parents)
    assert result.ratios.tolist() == [[1.0, 1.0, 1.0]]
    assert result.path.tolist() == [[0, -1, -1]]


def test_the_draft_gate_accepts_whatever_the_ratio(verify):
    logits = log_rows(*[[0.5, 0.4, 0.1, 0]] * 2, *[[0.5, 0.3, 0.1, 0.1]] * 3)
    probs = torch.tensor([[0.05, 0.05, 0.9, 0], [0, 0, 0.1, 0.9], [0.2, 0.2, 0.5, 0.1], FLAT])[None]
    tokens = torch.tensor([[2, 3, 2, 2]])
    parents = torch.tensor([-1, 0, 0, 2])
    plain = verify(tokens, logits, rule="route", parents=parents, draft_probs=probs)
    assert plain.tiers.tolist() == [[2, 2, 2, 2]]
    gate = {"parents": parents, "draft_probs": probs, "draft_threshold": 0.5}
    result = verify(tokens, logits, rule="route", **gate)
    # Node 1 has ratio 0: no gate accepts it. Nodes 0 and 2 pass, node 3 (0.25) does not.
    assert result.tiers.tolist() == [[0, 2, 0, 2]]
    assert result.path.tolist() == [[0, 2, -1, -1]]
    assert result.escalate.tolist() == [True]
    assert result.next_row.tolist() == [3]


def test_the_draft_gate_reads_draft_logits_and_the_id_map(verify):
    # Columns 0 and 2 of the drafter both mean token 1: 0.3 + 0.3 passes a gate of 0.55.
    draft = torch.tensor([[[0.3, 0.4, 0.3]]]).log()
    arguments = {
        "draft_logits": draft,
        "draft_to_target": torch.tensor([1, 3, 1]),
        "accept_threshold": 1.0,
        "escalate_threshold": 0.0,
    }
    logits = log_rows([0.5, 0.2, 0.2, 0.1], FLAT)
    passed = verify(torch.tensor([[1]]), logits, rule="route", draft_threshold=0.55, **arguments)
    assert passed.tiers.tolist() == [[0]]
    missed = verify(torch.tensor([[1]]), logits, rule="route", draft_threshold=0.65, **arguments)
    assert missed.tiers.tolist() == [[1]]


def test_a_ratio_of_zero_is_never_accepted(verify):
    logits = log_rows([0.5, 0.5, 0], [0.5, 0.5, 0])
    result = verify(
        torch.tensor([[2]]), logits, rule="route", accept_threshold=0.0, escalate_threshold=0.0
    )
    assert result.ratios.tolist() == [[0.0]]
    assert result.tiers.tolist() == [[1]]
    assert result.next_token.tolist() == [0]


def test_audit_thresholds(verify):
    # accept = audit threshold, escalate = 0: every failure is tier 1, never an escalation.
    logits = log_rows([0.5, 0.3, 0.2], [0.5, 0.01, 0.49], [0.5, 0.3, 0.2])
    result = verify(
        torch.tensor([[1, 1]]), logits, rule="route", accept_threshold=0.3, escalate_threshold=0.0
    )
    assert result.tiers.tolist() == [[0, 1]]
    assert result.num_accepted.tolist() == [1]
    assert result.next_token.tolist() == [0]
    assert result.escalate.tolist() == [False]


def test_the_mask_comes_first(verify):
    # Without token 0 the maximum is token 1, and node 1 (token 0) has ratio 0.
    logits = log_rows([0.6, 0.3, 0.1], [0.6, 0.3, 0.1], [0.6, 0.3, 0.1])
    allowed = mask_words(torch.tensor([[[False, True, True]] * 3]))
    result = verify(torch.tensor([[1, 0]]), logits, rule="route", allowed=allowed)
    assert result.ratios.tolist() == [[1.0, 0.0]]
    assert result.path.tolist() == [[0, -1]]
    assert result.escalate.tolist() == [True]
    torch.testing.assert_close(result.logprobs[0, 0], torch.tensor(0.75).log())


@pytest.mark.parametrize(("temperature", "ratio"), [(0.5, 0.25), (1.0, 0.5), (2.0, 0.5**0.5)])
def test_ratios_use_the_temperature(verify, temperature, ratio):
    uniforms = torch.tensor([[0.5, 0.0]])
    result = verify(
        torch.tensor([[1]]),
        log_rows([0.6, 0.3, 0.1], [0.6, 0.3, 0.1]),
        rule="route",
        temperature=temperature,
        uniform_samples=uniforms,
    )
    torch.testing.assert_close(result.ratios, torch.tensor([[ratio]]))


def test_draws_are_filtered_and_ratios_are_not(verify):
    # top-k 1 leaves token 0; node 0 (token 1, ratio 0.75) is accepted, with log-probability -inf.
    logits = log_rows([0.4, 0.3, 0.2, 0.1], [0.1, 0.4, 0.3, 0.2])
    result = verify(
        torch.tensor([[1]]),
        logits,
        rule="route",
        temperature=1.0,
        top_k=1,
        uniform_samples=torch.tensor([[0.0, 0.99]]),
    )
    assert result.path.tolist() == [[0]]
    assert result.next_token.tolist() == [1]
    assert result.logprobs.tolist() == [[-math.inf, 0.0]]


@pytest.mark.parametrize(
    ("uniform", "token"), [(0.0, 0), (0.39, 0), (0.41, 1), (0.69, 1), (0.91, 3)]
)
def test_regeneration_draws_in_id_order(verify, uniform, token):
    # Ratio 0.5 with the default thresholds regenerates; the draft's token may come again.
    logits = log_rows([0.4, 0.3, 0.2, 0.1], FLAT)
    result = verify(
        torch.tensor([[2]]),
        logits,
        rule="route",
        temperature=1.0,
        escalate_threshold=0.4,
        uniform_samples=torch.tensor([[0.5, uniform]]),
    )
    assert result.tiers.tolist() == [[1]]
    assert result.next_token.tolist() == [token]
    torch.testing.assert_close(result.logprobs[0, 0], logits[0, 0, token])


def test_absent_nodes(verify):
    logits = log_rows(*[[0.4, 0.3, 0.2, 0.1]] * 5)
    result = verify(
        torch.tensor([[0, -1, 0, 1]]),
        logits,
        rule="route",
        num_nodes=torch.tensor([3]),
    )
    # Node 1 is none, node 2 hangs below it, node 3 is beyond num_nodes.
    assert result.tiers.tolist() == [[0, 255, 255, 255]]
    assert result.ratios.tolist() == [[1.0, 0.0, 0.0, 0.0]]
    assert result.path.tolist() == [[0, -1, -1, -1]]
    assert result.next_row.tolist() == [1]
    assert result.status.tolist() == [0]


def test_parameters_per_row(verify):
    logits = log_rows([0.6, 0.3, 0.1], [0.2, 0.2, 0.6]).expand(4, -1, -1)
    result = verify(
        torch.tensor([[1]] * 4),
        logits,
        rule="route",
        accept_threshold=torch.tensor([0.4, 0.6, 0.6, 2.0]),
        escalate_threshold=torch.tensor([0.2, 0.4, 0.55, 2.0]),
    )
    assert result.tiers.tolist() == [[0], [1], [2], [2]]
    assert result.next_token.tolist() == [2, 0, -1, -1]
    assert result.next_row.tolist() == [1, 0, 0, 0]
