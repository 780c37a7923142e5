# SPDX-License-Identifier: Apache-2.0
"""Odd data: NaN, infinities, no mass, bad ids, bad trees, bad parameters. Other rows untouched."""

import math

import pytest
import torch

from tests.verify_runner import decisions, log_rows, mask_words

NAN, INF = math.nan, math.inf
NAN_BIT, ID_BIT, MASS_BIT, TREE_BIT, PARAMETER_BIT = 1, 2, 4, 8, 16
RULES = ["route", "greedy", "sample"]
NO_NODES = torch.empty(1, 0, dtype=torch.int64)


def call(verify, ids, logits, rule, **arguments):
    """A call with coins of 0, so that sample accepts whatever it may accept."""
    batch, nodes = ids.shape
    arguments.setdefault("uniform_samples", torch.zeros(batch, nodes + 1))
    arguments.setdefault("temperature", 1.0 if rule == "sample" else 0.0)
    return verify(ids, logits, rule=rule, **arguments)


@pytest.mark.parametrize("rule", RULES)
def test_nan_counts_as_minus_infinity(verify, rule):
    logits = torch.tensor([[[NAN, 1.0, 3.0], [0.0, NAN, NAN]]])
    result = call(verify, torch.tensor([[2]]), logits, rule)
    assert result.path.tolist() == [[0]]
    assert result.next_token.tolist() == [0]
    assert result.status.tolist() == [NAN_BIT]
    expected = -math.log1p(math.exp(-2.0))
    torch.testing.assert_close(result.logprobs, torch.tensor([[expected, 0.0]]))


@pytest.mark.parametrize("rule", RULES)
def test_a_nan_token_is_never_accepted(verify, rule):
    logits = torch.tensor([[[NAN, 1.0, 1.5], [0.0, 0.0, 0.0]]])
    result = call(
        verify, torch.tensor([[0]]), logits, rule, accept_threshold=0.0, escalate_threshold=0.0
    )
    assert result.num_accepted.tolist() == [0]
    assert result.next_token.tolist() == [1 if rule == "sample" else 2]
    assert result.status.tolist() == [NAN_BIT]


@pytest.mark.parametrize("rule", RULES)
def test_nan_in_a_row_that_is_not_read(verify, rule):
    # Row 2 follows node 1, which has no child and is not reached.
    logits = log_rows([0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [0.5, 0.5, 0.0])
    logits[0, 2] = NAN
    result = call(verify, torch.tensor([[2, 0]]), logits, rule)
    assert result.num_accepted.tolist() == [1]
    assert result.status.tolist() == [0]


def test_route_reads_rows_with_children_that_are_not_reached(verify):
    logits = log_rows([0.0, 0.9, 0.1], [0.1, 0.8, 0.1], [0.5, 0.5, 0.0])
    logits[0, 1, 0] = NAN
    result = verify(torch.tensor([[0, 1]]), logits, rule="route")
    assert result.tiers.tolist() == [[2, 0]]
    assert result.num_accepted.tolist() == [0]
    assert result.status.tolist() == [NAN_BIT]
    assert verify(torch.tensor([[0, 1]]), logits, rule="greedy").status.tolist() == [0]


def test_a_masked_nan_is_not_used(verify):
    logits = torch.tensor([[[NAN, 1.0, 3.0]]])
    allowed = mask_words(torch.tensor([[[False, True, True]]]))
    result = verify(NO_NODES, logits, rule="greedy", allowed=allowed)
    assert result.next_token.tolist() == [2]
    assert result.status.tolist() == [0]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_first_infinity_wins(verify, rule, dtype):
    logits = torch.tensor([[[0.0, 5.0, INF, INF], [INF, NAN, -INF, INF]]], dtype=dtype)
    uniforms = torch.tensor([[0.0, 0.99]])
    kept = call(verify, torch.tensor([[2]]), logits, rule, uniform_samples=uniforms)
    assert kept.path.tolist() == [[0]]
    assert kept.next_token.tolist() == [0]
    assert kept.logprobs.tolist() == [[0.0, 0.0]]
    assert kept.status.tolist() == [NAN_BIT]
    lost = call(verify, torch.tensor([[3]]), logits, rule, uniform_samples=uniforms)
    assert lost.num_accepted.tolist() == [0]
    if rule == "route":
        assert lost.ratios.tolist() == [[0.0]]
        assert lost.escalate.tolist() == [True]
    else:
        assert lost.next_token.tolist() == [2]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("value", [-INF, NAN])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_no_mass_ends_the_walk_with_the_lowest_allowed_id(verify, rule, value, temperature):
    # The child is the fallback id itself: it has no probability and is not accepted.
    logits = torch.full((3, 2, 40), value)
    masks = torch.zeros(3, 2, 40, dtype=torch.bool)
    masks[0] = True
    masks[1, :, 35:] = True
    result = call(
        verify,
        torch.tensor([[0], [35], [0]]),
        logits,
        rule,
        temperature=temperature,
        allowed=mask_words(masks),
    )
    assert result.num_accepted.tolist() == [0, 0, 0]
    assert result.next_token.tolist() == [0, 35, 0]
    assert result.next_row.tolist() == [0, 0, 0]
    assert result.escalate.tolist() == [False] * 3
    nan = NAN_BIT if math.isnan(value) else 0
    assert result.status.tolist() == [MASS_BIT | nan, MASS_BIT | nan, MASS_BIT]
    assert result.logprobs.tolist() == [[-INF, 0.0]] * 3
    if rule == "route":
        assert result.ratios.tolist() == [[0.0]] * 3
        assert result.tiers.tolist() == [[2]] * 3


@pytest.mark.parametrize("rule", RULES)
def test_no_mass_after_an_accepted_node(verify, rule):
    logits = log_rows([0.0, 1.0], [0.0, 0.0], [0.5, 0.5])
    result = call(verify, torch.tensor([[1, 0]]), logits, rule)
    assert result.path.tolist() == [[0, -1]]
    assert result.next_token.tolist() == [0]
    assert result.next_row.tolist() == [1]
    assert result.status.tolist() == [MASS_BIT]


@pytest.mark.parametrize("rule", RULES)
def test_ids_outside_the_vocabulary(verify, rule):
    bad = [-2, 3, 1000, 2**31 - 1, -(2**31)]
    ids = torch.tensor([[2, token, 2] for token in [*bad, -1]], dtype=torch.int32)
    logits = log_rows(*[[0.0, 0.0, 1.0]] * 4).expand(6, -1, -1)
    result = call(verify, ids, logits, rule)
    assert result.path.tolist() == [[0, -1, -1]] * 6
    assert result.next_token.tolist() == [2] * 6
    assert result.status.tolist() == [ID_BIT] * 5 + [0]
    if rule == "route":
        assert result.tiers.tolist() == [[0, 255, 255]] * 6
        assert result.ratios.tolist() == [[1.0, 0.0, 0.0]] * 6


@pytest.mark.parametrize("token", [2**31, 2**32 + 2, -(2**63), 2**63 - 1])
def test_wide_ids_are_not_cut_to_32_bits(verify, token):
    logits = log_rows([0.0, 0.0, 1.0], [0.0, 0.0, 1.0])
    result = verify(torch.tensor([[token]]), logits, rule="greedy")
    assert result.num_accepted.tolist() == [0]
    assert result.status.tolist() == [ID_BIT]


@pytest.mark.parametrize("rule", RULES)
def test_malformed_trees_are_treated_as_no_nodes(verify, rule):
    ids = torch.tensor([[2, 2]]).expand(6, 2)
    parents = torch.tensor([[-1, 0], [0, -1], [-2, 0], [-1, 1], [-1, 2**31], [1, 0]])
    logits = log_rows([0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]).expand(6, -1, -1)
    result = call(verify, ids, logits, rule, parents=parents)
    assert result.status.tolist() == [0] + [TREE_BIT] * 5
    assert result.num_accepted.tolist() == [1] + [0] * 5
    assert result.path[1:].tolist() == [[-1, -1]] * 5
    assert result.next_row[1:].tolist() == [0] * 5
    assert result.next_token[1:].tolist() == [2] * 5
    if rule == "route":
        assert result.tiers[1:].tolist() == [[255, 255]] * 5


def test_node_counts_out_of_range(verify):
    logits = log_rows([0.0, 1.0], [1.0, 0.0]).expand(4, -1, -1)
    counts = torch.tensor([1, -1, 2, 2**40])
    result = verify(torch.tensor([[1]] * 4), logits, rule="greedy", num_nodes=counts)
    assert result.status.tolist() == [0, TREE_BIT, TREE_BIT, TREE_BIT]
    assert result.num_accepted.tolist() == [1, 0, 0, 0]


def test_parents_beyond_num_nodes_are_ignored(verify):
    parents = torch.tensor([[-1, 77]])
    logits = log_rows([0.0, 1.0], [1.0, 0.0], [1.0, 0.0])
    arguments = {"parents": parents, "num_nodes": torch.tensor([1])}
    result = verify(torch.tensor([[1, 99]]), logits, rule="greedy", **arguments)
    assert result.status.tolist() == [0]
    assert result.path.tolist() == [[0, -1]]


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("temperature", [NAN, -1.0, INF, -INF]),
        ("top_k", [-1, -(2**31)]),
        ("top_p", [0.0, -0.5, 1.5, NAN]),
        ("min_p", [-0.1, 1.1, NAN]),
        ("accept_threshold", [NAN, -0.1, 0.3]),
        ("escalate_threshold", [NAN, -0.1, 0.9]),
        ("draft_threshold", [NAN, -0.1]),
    ],
)
def test_parameters_out_of_range_make_the_row_greedy(verify, name, values):
    is_threshold = name.endswith("threshold")
    rule = "route" if is_threshold else "sample"
    fine = {"accept_threshold": 0.7, "escalate_threshold": 0.5}.get(name, 1)
    dtype = torch.int64 if name == "top_k" else torch.float32
    values = torch.tensor([fine, *values, fine], dtype=dtype)
    batch = len(values)
    logits = log_rows([0.1, 0.3, 0.6], [0.2, 0.3, 0.5]).expand(batch, -1, -1)
    arguments = {"draft_probs": torch.full((batch, 1, 3), 1 / 3)}
    if name == "draft_threshold":
        arguments["draft_threshold"] = values
    result = call(verify, torch.tensor([[2]] * batch), logits, rule, **{**arguments, name: values})
    inner = batch - 2
    assert result.status.tolist() == [0, *[PARAMETER_BIT] * inner, 0]
    assert result.num_accepted.tolist() == [1, *[0] * inner, 1]
    assert result.next_token[1:-1].tolist() == [2] * inner
    assert result.next_row[1:-1].tolist() == [0] * inner
    assert result.escalate.tolist() == [False] * batch
    greedy = torch.tensor([[math.log(0.6), 0.0]]).expand(inner, 2)
    torch.testing.assert_close(result.logprobs[1:-1], greedy)
    if is_threshold:
        assert result.tiers.tolist() == [[0], *[[255]] * inner, [0]]


def test_nan_and_negative_draft_probabilities_count_as_zero(verify):
    # Whatever p is, a token with q > 0 whose p is no probability is accepted at any coin below 1.
    probs = torch.tensor([[[NAN, 0.5, 0.5]], [[-3.0, 0.5, 0.5]], [[0.0, 0.5, 0.5]]])
    logits = log_rows([0.2, 0.4, 0.4], [0.2, 0.4, 0.4]).expand(3, -1, -1)
    result = call(
        verify,
        torch.zeros(3, 1, dtype=torch.int64),
        logits,
        "sample",
        draft_probs=probs,
        uniform_samples=torch.full((3, 2), 0.999),
    )
    assert result.num_accepted.tolist() == [1, 1, 1]
    assert result.status.tolist() == [NAN_BIT, 0, 0]


def test_a_rejected_token_does_not_come_back_through_a_nan_row(verify):
    # Token 2 has q = 0; the residual is q itself where p is NaN.
    probs = torch.tensor([[[NAN, NAN, 0.5]]])
    for uniform, token in [(0.4, 0), (0.6, 1)]:
        result = call(
            verify,
            torch.tensor([[2]]),
            log_rows([0.5, 0.5, 0.0], [0.0, 0.0, 1.0]),
            "sample",
            draft_probs=probs,
            uniform_samples=torch.tensor([[0.0, uniform]]),
        )
        assert result.num_accepted.tolist() == [0]
        assert result.next_token.tolist() == [token]
        assert result.status.tolist() == [NAN_BIT]


@pytest.mark.parametrize("rule", RULES)
def test_one_bad_request_leaves_the_others_alone(verify, rule, generator):
    batch, nodes, size = 7, 5, 50
    ids = torch.randint(0, size, (batch, nodes), generator=generator)
    logits = 3 * torch.randn(batch, nodes + 1, size, generator=generator)
    logits[:, :nodes].scatter_add_(2, ids[..., None], torch.full((batch, nodes, 1), 6.0))
    arguments = {
        "uniform_samples": torch.rand(batch, nodes + 1, generator=generator),
        "parents": torch.tensor([[-1, 0, 1, 2, 3]]).repeat(batch, 1),
        "temperature": torch.full((batch,), 0.8),
        "draft_probs": torch.rand(batch, nodes, size, generator=generator),
    }
    clean = call(verify, ids, logits, rule, **arguments)
    assert clean.status.tolist() == [0] * batch
    ids = ids.clone()
    broken = {name: value.clone() for name, value in arguments.items()}
    logits[0] = NAN
    ids[1, 2] = -99
    broken["parents"][2, 3] = 4
    broken["temperature"][3] = NAN
    broken["draft_probs"][4] = NAN
    logits[5, :, 3] = INF
    result = call(verify, ids, logits, rule, **broken)
    assert decisions(result, 6) == decisions(clean, 6)
    assert torch.equal(result.logprobs[6], clean.logprobs[6])
    assert ((result.next_token >= -1) & (result.next_token < size)).all()
    expected = [NAN_BIT | MASS_BIT, ID_BIT, TREE_BIT, PARAMETER_BIT]
    assert result.status[:4].tolist() == expected
