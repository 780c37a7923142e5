# SPDX-License-Identifier: Apache-2.0
"""ops.verify against the reference: random calls, random shapes and trees, batch composition."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import places
from tests.simulation import is_simulated, scaled
from tests.verify_cases import RULES, Case, agrees, is_rounding_tie
from tests.verify_runner import (
    assert_same,
    decisions,
    is_shared,
    row_arguments,
    run_op,
    run_reference,
    same_bits,
)

CASES_PER_TEST = 200


def take(result, rows):
    return type(result)(*(None if field is None else field[rows] for field in result))


@pytest.mark.parametrize("part", range(4))
@pytest.mark.parametrize("rule", RULES)
def test_random_calls(device, rule, part):
    verify = run_op(device)
    rows = ties = walked = 0
    for number in range(scaled(CASES_PER_TEST, device, least=8)):
        case = Case(10_000 * RULES.index(rule) + CASES_PER_TEST * part + number, rule)
        arguments = dict(case.arguments)
        ids, logits = arguments.pop("draft_token_ids"), arguments.pop("logits")
        result = verify(ids, logits, **arguments)
        expected = run_reference(ids, logits, **arguments)
        same = []
        for b in range(case.batch):
            rows += 1
            walked += int(expected.num_accepted[b])
            if agrees(result, expected, b):
                same.append(b)
            elif is_rounding_tie(case.arguments, b):
                ties += 1
            else:
                got, wanted = take(result, b), take(expected, b)
                pytest.fail(f"case {number}, row {b}\n{got}\n{wanted}\n{case.arguments}")
        assert_same(take(result, same), take(expected, same), f"case {number}: {case.arguments}")
    # The comparison means something: walks go on, and hardly any row is a tie.
    assert walked > (0.1 if is_simulated(device) else 0.5) * rows
    assert ties <= max(1, 0.005 * rows)


@st.composite
def tree_calls(draw):
    """Trees, ragged counts and small integer logits, in which ties are everywhere."""
    batch, nodes, size = draw(st.integers(1, 3)), draw(st.integers(0, 12)), draw(st.integers(1, 6))
    numbers = st.integers(-3, 3)
    values = draw(st.lists(numbers, min_size=(n := batch * (nodes + 1) * size), max_size=n))
    ids = draw(st.lists(st.integers(-1, size), min_size=batch * nodes, max_size=batch * nodes))
    # One past the legal range on both sides: malformed trees are part of the contract.
    parents = [[draw(st.integers(-1 - (k == 0), n - (k != 1))) for n in range(nodes)]
               for k in (draw(st.integers(0, 9)) for _ in range(batch))]  # fmt: skip
    return {
        "rule": draw(st.sampled_from(RULES)),
        "ids": torch.tensor(ids, dtype=torch.int64).view(batch, nodes),
        "logits": torch.tensor(values, dtype=torch.float32).view(batch, nodes + 1, size),
        "parents": torch.tensor(parents, dtype=torch.int64).view(batch, nodes),
        "num_nodes": torch.tensor([draw(st.integers(-1, nodes + 1)) for _ in range(batch)]),
        # Odd multiples of 2^-12: no ratio of sums of exponentials of integers comes near one.
        "uniform_samples": torch.tensor(
            [
                [(2 * draw(st.integers(0, 2047)) + 1) / 4096 for _ in range(nodes + 1)]
                for _ in range(batch)
            ]
        ),
    }


@settings(max_examples=200, deadline=None, derandomize=True)
@given(call=tree_calls(), temperature=st.sampled_from([0.0, 1.0]))
def test_trees_and_shapes(call, temperature):
    arguments = dict(call)
    ids, logits = arguments.pop("ids"), arguments.pop("logits")
    expected = run_reference(ids, logits, temperature=temperature, **arguments)
    for device in places("verify").values():
        result = run_op(device)(ids, logits, temperature=temperature, **arguments)
        assert_same(result, expected)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("with_seeds", [False, True])
def test_results_do_not_depend_on_the_batch(device, rule, with_seeds):
    # Alone, without padding, with and without num_nodes; reversed; and doubled.
    verify = run_op(device)
    compared = 0
    for number in range(cases := scaled(60, device, least=12)):
        case = Case(50_000 + number, rule)
        arguments = case.arguments
        if with_seeds:
            arguments.pop("uniform_samples", None)
            arguments["seed"] = torch.arange(case.batch) - 1
            arguments["position"] = torch.arange(case.batch) * 7 + number
        if ("uniform_samples" in arguments) == with_seeds:
            continue
        whole = verify(**rename(arguments))
        backwards = torch.arange(case.batch - 1, -1, -1).repeat(2)
        rows = [row_arguments(arguments, b) for b in backwards.tolist()]
        assert same_bits(tuple(verify(**rename(joined(rows)))), tuple(take(whole, backwards)))
        for b in range(case.batch):
            count = case.nodes if "num_nodes" not in arguments else int(arguments["num_nodes"][b])
            if "resume" in arguments:
                count = case.nodes
            alone = row_arguments(arguments, b, count)
            if count < case.nodes:
                del alone["num_nodes"]
            if "uniform_samples" in alone:
                # The final draw is the last column, whatever the width.
                given_row = alone["uniform_samples"]
                alone["uniform_samples"] = torch.cat([given_row[:, :count], given_row[:, -1:]], 1)
            result = verify(**rename(alone))
            assert decisions(result, 0)[2:] == decisions(whole, b)[2:]
            assert result.path[0].tolist() == whole.path[b, :count].tolist()
            assert same_bits(result.logprobs[0], whole.logprobs[b, : count + 1])
            compared += 1
    assert compared > 0.6 * cases


def rename(arguments):
    """Runner arguments from those of a case."""
    arguments = dict(arguments)
    return {"ids": arguments.pop("draft_token_ids"), **arguments}


def joined(rows):
    """One batch of single-row arguments."""
    first = rows[0]
    together = {}
    for name, value in first.items():
        shared = is_shared(name, value)
        if isinstance(value, tuple):
            columns = zip(*(row[name] for row in rows), strict=True)
            fields = [None if column[0] is None else torch.cat(column) for column in columns]
            together[name] = type(value)(*fields)
        elif isinstance(value, torch.Tensor) and not shared:
            together[name] = torch.cat([row[name] for row in rows])
        else:
            together[name] = value
    return together


@pytest.mark.parametrize("rule", RULES)
def test_the_same_call_gives_the_same_bits(device, rule):
    verify = run_op(device)
    for number in range(scaled(30, device, least=5)):
        arguments = rename(Case(90_000 + number, rule).arguments)
        assert same_bits(tuple(verify(**arguments)), tuple(verify(**arguments)))


@pytest.mark.parametrize("rule", RULES)
def test_thread_counts_do_not_matter(rule):
    arguments = {
        "ids": torch.randint(0, 40_000, (5, 4)),
        "logits": torch.randn(5, 5, 40_000),
        "draft_logits": torch.randn(5, 4, 40_000),
        "seed": torch.arange(5),
        "position": torch.arange(5),
        "temperature": 0.8,
        "top_p": 0.9,
        "rule": rule,
    }
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 7):
            torch.set_num_threads(threads)
            results.append(tuple(run_op("cpu")(**arguments)))
    finally:
        torch.set_num_threads(before)
    assert same_bits(results[0], results[1]) and same_bits(results[0], results[2])
