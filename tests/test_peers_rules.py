# SPDX-License-Identifier: Apache-2.0
"""Published cases of other verifiers, stated by their numbers and run through ops.verify."""

import pytest
import torch

from tests.verify_runner import log_rows

BONUS_ROW = [0.7, 0.1, 0.1, 0.1]


def emitted(result, ids):
    """Accepted tokens and the next one, per row, padded -1 to N + 1."""
    rows = []
    for path, token, draft in zip(
        result.path.tolist(), result.next_token.tolist(), ids.tolist(), strict=True
    ):
        tokens = [*(draft[node] for node in path if node >= 0), token]
        rows.append(tokens + [-1] * (len(draft) + 1 - len(tokens)))
    return rows


@pytest.mark.parametrize("uniform", [0.0, 0.3, 0.999, 1 - 2.0**-24])
def test_flashinfer_documentation_example(verify, uniform):
    # q and p in its notation: draft and target. Accepted 1, whatever the uniforms.
    ids = torch.tensor([[2, 1]])
    result = verify(
        ids,
        log_rows([0, 0.1, 0.6, 0.3], [1, 0, 0, 0], BONUS_ROW),
        rule="sample",
        temperature=1.0,
        draft_probs=torch.tensor([[[0.1, 0.2, 0.3, 0.4], [0.2, 0.3, 0.4, 0.1]]]),
        uniform_samples=torch.full((1, 3), uniform),
    )
    assert emitted(result, ids) == [[2, 0, -1]]
    assert result.num_accepted.tolist() == [1]


@pytest.mark.parametrize("rule", ["greedy", "sample"])
@pytest.mark.parametrize(
    ("drafts", "targets", "expected"),
    [
        ([[1, 2, 3]], [[1, 2, 3, 4]], [[1, 2, 3, 4]]),
        ([[1, 2, 3]], [[1, 5, 3, 4]], [[1, 5, -1, -1]]),
        ([[1, 2], [3, -1]], [[1, 2, 5], [3, 4, 0]], [[1, 2, 5], [3, 4, -1]]),
        ([[]], [[5]], [[5]]),
        ([[1, 2, 3], [4, 5, 6]], [[1, 2, 7, 6], [4, 8, 6, 9]], [[1, 2, 7, -1], [4, 8, -1, -1]]),
        ([[1]], [[2, 3]], [[2, -1]]),
    ],
)
def test_vllm_greedy(verify, rule, drafts, targets, expected):
    # One-hot targets: greedy and lossless sampling agree. -1 pads the shorter draft of the batch.
    ids = torch.tensor(drafts, dtype=torch.int64)
    logits = torch.full((*torch.tensor(targets).shape, 10), -100.0)
    logits.scatter_(2, torch.tensor(targets)[..., None], 100.0)
    result = verify(
        ids,
        logits,
        rule=rule,
        temperature=1.0 if rule == "sample" else 0.0,
        uniform_samples=torch.full((len(ids), ids.shape[1] + 1), 0.5),
    )
    assert emitted(result, ids) == expected
    assert result.status.tolist() == [0] * len(ids)


def test_vllm_ascend_example(verify):
    # Bonus 100 of a longer vocabulary; both tokens pass: .7 * .6 < .8 and .6 * .1 < .2.
    target = torch.zeros(1, 3, 101)
    target[0, 0, :4] = torch.tensor([0, 0.8, 0, 0.2])
    target[0, 1, :4] = torch.tensor([0.2, 0.1, 0.3, 0.4])
    target[0, 2, 100] = 1.0
    draft = torch.zeros(1, 2, 101)
    draft[0, 0, :4] = torch.tensor([0, 0.6, 0, 0.4])
    draft[0, 1, :4] = torch.tensor([0.1, 0.2, 0.3, 0.4])
    ids = torch.tensor([[1, 0]])
    result = verify(
        ids,
        target.log(),
        rule="sample",
        temperature=1.0,
        draft_probs=draft,
        uniform_samples=torch.tensor([[0.7, 0.6, 0.5]]),
    )
    assert emitted(result, ids) == [[1, 0, 100]]


@pytest.mark.parametrize("with_probs", [False, True])
def test_placeholders_are_never_accepted(verify, with_probs):
    # All drafts -1 and coins of 0: the recovered token of the first row is the only output.
    ids = torch.full((1, 3), -1)
    arguments = {"draft_probs": torch.full((1, 3, 3), 1 / 3)} if with_probs else {}
    result = verify(
        ids,
        log_rows([0, 0, 1.0], [0, 1.0, 0], [1.0, 0, 0], [1.0, 0, 0]),
        rule="sample",
        temperature=1.0,
        uniform_samples=torch.zeros(1, 4),
        **arguments,
    )
    assert emitted(result, ids) == [[2, -1, -1, -1]]
    assert result.status.tolist() == [0]


@pytest.mark.parametrize("tokens", [[0], [0, 1], [1, 0], [0, 0]])
@pytest.mark.parametrize("with_probs", [False, True])
def test_a_coin_of_zero_accepts_no_token_of_probability_zero(verify, tokens, with_probs):
    # torch.rand in float32 does return 0; token 0 has no mass.
    parents = torch.tensor([-1] * len(tokens))
    draft = torch.tensor([0.8, 0.1, 0.1]).expand(1, len(tokens), 3)
    arguments = {"draft_probs": draft} if with_probs else {}
    rows = [[0.0, 0.25, 0.75]] * (len(tokens) + 1)
    result = verify(
        torch.tensor([tokens]),
        log_rows(*rows),
        rule="sample",
        temperature=1.0,
        parents=parents,
        uniform_samples=torch.zeros(1, len(tokens) + 1),
        **arguments,
    )
    accepted = [tokens[node] for node in result.path[0].tolist() if node >= 0]
    assert accepted == ([1] if 1 in tokens else [])
    assert result.next_token.item() in (1, 2)


def test_a_masked_token_is_never_accepted_at_thresholds_of_zero(verify):
    # A published row with both thresholds 0 accepts tokens of probability exactly 0; ours does not.
    logits = log_rows([0.0, 1.0], [0.5, 0.5])
    result = verify(
        torch.tensor([[0]]), logits, rule="route", accept_threshold=0.0, escalate_threshold=0.0
    )
    assert result.num_accepted.tolist() == [0]
    assert result.next_token.tolist() == [1]


def test_thresholds_of_the_paper_leave_a_middle_region(verify):
    # Ratios 0.75, 0.6 and 0.45 meet the three routes under (0.7, 0.5).
    logits = log_rows([0.4, 0.3, 0.24, 0.18], *[[0.25] * 4] * 3)
    parents = torch.tensor([-1, -1, -1])
    result = verify(torch.tensor([[1, 2, 3]]), logits, rule="route", parents=parents)
    assert result.tiers.tolist() == [[0, 1, 2]]


def test_equal_rows_with_the_largest_coin_emit_a_valid_token(verify):
    # p == q and u next to 1 has crashed others: the residual is empty up to rounding.
    rows = torch.randn(40, 2, 7)
    ids = torch.randint(0, 7, (40, 1))
    uniforms = torch.full((40, 2), 1 - 2.0**-24)
    result = verify(
        ids,
        rows,
        rule="sample",
        temperature=1.0,
        draft_logits=rows[:, :1].clone(),
        uniform_samples=uniforms,
    )
    assert ((result.next_token >= 0) & (result.next_token < 7)).all()
    assert torch.isfinite(result.logprobs[torch.arange(40), result.num_accepted.long()]).all()
