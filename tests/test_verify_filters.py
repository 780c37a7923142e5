# SPDX-License-Identifier: Apache-2.0
"""Temperature, top-k, top-p, min-p and the grammar mask inside verify, by hand.

A call without nodes draws one token per row; uniforms on both sides of every boundary show the
whole filtered distribution.
"""

import math

import pytest
import torch

from tests.verify_runner import log_rows, mask_words

NO_NODES = torch.empty(1, 0, dtype=torch.int64)
# Ids out of probability order, with a tie.
P = [0.1, 0.3, 0.05, 0.3, 0.2, 0.05]


def assert_distribution(verify, logits, expected, **arguments):
    """Draws just inside every interval of the expected inverse CDF, and compares log-probs."""
    expected = torch.tensor(expected, dtype=torch.float64)
    expected /= expected.sum()
    upper = expected.cumsum(0)
    for token in expected.nonzero()[:, 0].tolist():
        for inside in (1e-4, 1 - 1e-4):
            uniform = float(upper[token] - expected[token] * (1 - inside))
            result = verify(
                NO_NODES,
                logits,
                rule="sample",
                uniform_samples=torch.tensor([[uniform]]),
                **arguments,
            )
            assert result.next_token.tolist() == [token]
            assert math.isclose(
                result.logprobs.item(), math.log(expected[token]), rel_tol=1e-5, abs_tol=1e-5
            )
            assert result.status.tolist() == [0]


@pytest.mark.parametrize("temperature", [0.5, 0.8, 1.0, 3.0])
def test_temperature(verify, temperature):
    expected = [p ** (1 / temperature) for p in P]
    assert_distribution(verify, log_rows(P), expected, temperature=temperature)


@pytest.mark.parametrize(
    ("top_k", "kept"),
    [
        (0, range(6)),
        (1, [1, 3]),
        (2, [1, 3]),
        (3, [1, 3, 4]),
        (4, [0, 1, 3, 4]),
        (5, range(6)),
        (99, range(6)),
    ],
)
def test_top_k_keeps_ties(verify, top_k, kept):
    expected = [p if i in kept else 0.0 for i, p in enumerate(P)]
    assert_distribution(verify, log_rows(P), expected, temperature=1.0, top_k=top_k)


@pytest.mark.parametrize(
    ("top_p", "kept"),
    [(1e-6, [1]), (0.29, [1]), (0.31, [1, 3]), (0.59, [1, 3]), (0.61, [1, 3, 4]), (0.79, [1, 3, 4]),
     (0.81, [0, 1, 3, 4]), (0.91, [0, 1, 2, 3, 4]), (0.96, range(6)), (1.0, range(6))],
)  # fmt: skip
def test_top_p_splits_ties_by_id(verify, top_p, kept):
    expected = [p if i in kept else 0.0 for i, p in enumerate(P)]
    assert_distribution(verify, log_rows(P), expected, temperature=1.0, top_p=top_p)


def test_top_p_includes_the_token_that_crosses(verify):
    # 0.5 before token 1 is not < 0.5: exactly representable, so no rounding is involved.
    logits = torch.zeros(1, 1, 2)
    assert_distribution(verify, logits, [1, 0], temperature=1.0, top_p=0.5)
    assert_distribution(verify, logits, [1, 1], temperature=1.0, top_p=0.5000001)


@pytest.mark.parametrize(
    ("min_p", "kept"),
    [
        (0.0, range(6)),
        (0.16, range(6)),
        (0.17, [0, 1, 3, 4]),
        (0.34, [1, 3, 4]),
        (0.67, [1, 3]),
        (1.0, [1, 3]),
    ],
)
def test_min_p(verify, min_p, kept):
    expected = [p if i in kept else 0.0 for i, p in enumerate(P)]
    assert_distribution(verify, log_rows(P), expected, temperature=1.0, min_p=min_p)


def test_filters_follow_the_temperature(verify):
    # Squares: .01 .09 .0025 .09 .04 .0025, sum .235. Mass before token 4: .766, before 0: .936.
    arguments = {"temperature": 0.5}
    assert_distribution(verify, log_rows(P), [0, 9, 0, 9, 4, 0], top_p=0.8, **arguments)
    assert_distribution(verify, log_rows(P), [1, 9, 0, 9, 4, 0], top_p=0.95, **arguments)
    # Relative to the largest: .111, 1, .028, 1, .444, .028.
    assert_distribution(verify, log_rows(P), [1, 9, 0, 9, 4, 0], min_p=0.1, **arguments)
    assert_distribution(verify, log_rows(P), [0, 9, 0, 9, 4, 0], min_p=0.12, **arguments)


def test_top_p_acts_on_what_top_k_left(verify):
    # After top-k 3 (.3, .3, .2 of .8): mass before token 4 is .75 of the rest, .6 of all.
    assert_distribution(
        verify, log_rows(P), [0, 3, 0, 3, 0, 0], temperature=1.0, top_k=3, top_p=0.7
    )
    assert_distribution(
        verify, log_rows(P), [0, 3, 0, 3, 2, 0], temperature=1.0, top_k=3, top_p=0.76
    )


def test_the_mask_comes_before_the_filters(verify):
    allowed = mask_words(torch.tensor([[[True, False, True, True, True, True]]]))
    arguments = {"temperature": 1.0, "allowed": allowed}
    assert_distribution(verify, log_rows(P), [0, 0, 0, 3, 2, 0], top_k=2, **arguments)
    # Of .7: token 3 .43, token 4 .29, token 0 .14.
    assert_distribution(verify, log_rows(P), [0, 0, 0, 3, 2, 0], top_p=0.5, **arguments)
    assert_distribution(verify, log_rows(P), [1, 0, 0, 3, 2, 0], top_p=0.72, **arguments)
    assert_distribution(verify, log_rows(P), [1, 0, 0, 3, 2, 0], min_p=0.3, **arguments)


def test_filters_act_on_lossless_acceptance(verify):
    # top-k 2 makes token 4 unacceptable and token 1 worth one half.
    logits = log_rows(P, P)
    for token, coin, kept in [(4, 0.0, 0), (1, 0.49, 1), (1, 0.51, 0)]:
        result = verify(
            torch.tensor([[token]]),
            logits,
            rule="sample",
            temperature=1.0,
            top_k=2,
            uniform_samples=torch.tensor([[coin, 0.2]]),
        )
        assert result.num_accepted.tolist() == [kept]


def test_one_parameter_per_row(verify):
    logits = log_rows(P).expand(5, -1, -1)
    result = verify(
        NO_NODES.expand(5, 0),
        logits,
        rule="sample",
        temperature=torch.tensor([0.0, 1.0, 1.0, 1.0, 1.0]),
        top_k=torch.tensor([0, 1, 0, 0, 0]),
        top_p=torch.tensor([1.0, 1.0, 0.2, 1.0, 1.0]),
        min_p=torch.tensor([0.0, 0.0, 0.0, 0.5, 0.0]),
        uniform_samples=torch.full((5, 1), 0.99),
    )
    assert result.next_token.tolist() == [1, 3, 1, 4, 5]


def test_greedy_rows_report_the_plain_softmax(verify):
    result = verify(
        NO_NODES,
        log_rows(P),
        rule="sample",
        temperature=0.0,
        top_k=1,
        uniform_samples=torch.tensor([[0.9]]),
    )
    assert result.next_token.tolist() == [1]
    assert math.isclose(result.logprobs.item(), math.log(0.3), rel_tol=1e-5)


@pytest.mark.parametrize("size", [33, 1000, 65537])
def test_large_rows(verify, size, generator):
    logits = torch.randn(1, 1, size, generator=generator)
    order = logits[0, 0].argsort(descending=True)
    for arguments, count in [({"top_k": 7}, 7), ({"min_p": 0.5}, None), ({"top_p": 0.01}, None)]:
        probs = logits[0, 0].double().softmax(0)
        if "min_p" in arguments:
            count = int((probs >= 0.5 * probs.max()).sum())
        if "top_p" in arguments:
            count = 1 + int((probs[order].cumsum(0) < 0.01).sum())
        kept = order[:count].sort().values
        mass = (probs[kept] / probs[kept].sum()).cumsum(0)
        for i in {0, count // 2, count - 1}:
            low = float(mass[i - 1]) if i else 0.0
            uniform = torch.tensor([[(low + float(mass[i])) / 2]])
            result = verify(
                NO_NODES,
                logits,
                rule="sample",
                temperature=1.0,
                uniform_samples=uniform,
                **arguments,
            )
            assert result.next_token.tolist() == [int(kept[i])]
