# SPDX-License-Identifier: Apache-2.0
"""Rule sample by hand: coins on both sides of every boundary."""

import pytest
import torch

from tests.verify_runner import log_rows

Q0 = [0.1, 0.2, 0.3, 0.4]
Q1 = [0.4, 0.3, 0.2, 0.1]
Q2 = [0.25, 0.5, 0.25, 0.0]


def sample(verify, ids, logits, uniforms, **arguments):
    return verify(
        torch.tensor([ids]),
        logits,
        rule="sample",
        temperature=1.0,
        uniform_samples=torch.tensor([uniforms]),
        **arguments,
    )


@pytest.mark.parametrize(
    ("coin", "final", "kept", "token"),
    [
        (0.29, 0.39, 1, 0),
        (0.29, 0.41, 1, 1),
        (0.31, 0.0, 0, 0),
        (0.31, 0.15, 0, 1),
        (0.31, 0.43, 0, 3),
    ],
)
def test_one_hot_chain(verify, coin, final, kept, token):
    # Node 0 is token 2 with q = 0.3; without it the rest is (1, 2, 4) / 7.
    result = sample(verify, [2], log_rows(Q0, Q1), [coin, final])
    assert result.num_accepted.tolist() == [kept]
    assert result.next_token.tolist() == [token]
    assert result.next_row.tolist() == [kept]
    assert result.ratios is None and result.tiers is None
    expected = [Q0[2], Q1[token]] if kept else [Q0[token]]
    torch.testing.assert_close(result.logprobs[0, : kept + 1], torch.tensor(expected).log())


def test_the_coin_of_a_parent_row_is_the_column_of_that_row(verify):
    # Tree: 0 and 1 under the root, 2 under 1. Row 0 uses column 0, row 2 (after node 1) column 2.
    parents = torch.tensor([-1, -1, 1])
    logits = log_rows(Q0, Q1, Q2, Q1)
    accepted = sample(verify, [0, 3, 1], logits, [0.45, 0.99, 0.45, 0.95], parents=parents)
    assert accepted.path.tolist() == [[1, 2, -1]]
    assert accepted.next_token.tolist() == [3]
    rejected = sample(verify, [0, 3, 1], logits, [0.45, 0.0, 0.55, 0.6], parents=parents)
    assert rejected.path.tolist() == [[1, -1, -1]]
    # Token 1 leaves (1/4, 0, 1/4, 0): 0.6 of it lies in token 2.
    assert rejected.next_token.tolist() == [2]


@pytest.mark.parametrize(
    ("coin", "path"), [(0.05, [0]), (0.15, [1]), (0.29, [1]), (0.31, [3]), (0.69, [3]), (0.71, [])]
)
def test_one_hot_siblings_share_the_coin(verify, coin, path):
    # Tokens 0, 1, 1, 3: cumulative 0.1, 0.3, (twin skipped), 0.7.
    parents = torch.tensor([-1, -1, -1, -1])
    result = sample(
        verify, [0, 1, 1, 3], log_rows(Q0, Q1, Q1, Q1, Q1), [coin, 0, 0, 0, 0.999], parents=parents
    )
    assert result.path.tolist() == [path + [-1] * (4 - len(path))]
    assert result.next_token.tolist() == [3 if path else 2]


@pytest.mark.parametrize(("coin", "kept"), [(0.0, 1), (0.49, 1), (0.51, 0)])
def test_chain_with_a_distribution(verify, coin, kept):
    # Accepted iff coin * 0.4 < 0.2; the residual of Q0 - p is (0, 0, 0.2, 0.2) -> halves.
    probs = torch.tensor([[[0.2, 0.4, 0.1, 0.2]]])
    low = sample(verify, [1], log_rows(Q0, Q1), [coin, 0.45], draft_probs=probs)
    high = sample(verify, [1], log_rows(Q0, Q1), [coin, 0.55], draft_probs=probs)
    assert low.num_accepted.tolist() == high.num_accepted.tolist() == [kept]
    assert [low.next_token.item(), high.next_token.item()] == ([1, 1] if kept else [2, 3])


def test_draft_logits_are_used_as_they_are(verify):
    # Temperature and top-k act on the verifier only.
    probs = torch.tensor([[[0.2, 0.4, 0.2, 0.2]]])
    for coin in (0.3, 0.6, 0.9):
        arguments = {"top_k": 3}
        by_probs = sample(
            verify, [1], log_rows(Q0, Q1), [coin, 0.7], draft_probs=probs, **arguments
        )
        logits = probs.log() + 3.0
        by_logits = sample(
            verify, [1], log_rows(Q0, Q1), [coin, 0.7], draft_logits=logits, **arguments
        )
        assert by_probs.num_accepted.tolist() == by_logits.num_accepted.tolist()
        assert by_probs.next_token.tolist() == by_logits.next_token.tolist()
        assert by_probs.num_accepted.item() == (coin * 0.4 < 0.2 / 0.9)


@pytest.mark.parametrize(
    ("coins", "path", "final", "token"),
    [
        ((0.24, 0.9), [0], 0.5, 1),
        ((0.26, 0.65), [1], 0.5, 1),
        ((0.26, 0.68), [], 0.1, 3),
        ((0.26, 0.68), [], 0.9, 3),
    ],
)
def test_siblings_with_distributions(verify, coins, path, final, token):
    # Node 0, token 0: accept iff c * 0.4 < 0.1; residual relu(Q0 - p) = (0, 0, .1, .2) -> 1/3, 2/3.
    # Node 1, token 2: accept iff c * 0.5 < 1/3; residual (0, 0, 0, 2/3 - .2), all token 3.
    probs = torch.tensor([[[0.4, 0.2, 0.2, 0.2], [0.2, 0.1, 0.5, 0.2]]])
    parents = torch.tensor([-1, -1])
    result = sample(
        verify, [0, 2], log_rows(Q0, Q1, Q1), [*coins, final], draft_probs=probs, parents=parents
    )
    assert result.path.tolist() == [path + [-1] * (2 - len(path))]
    assert result.next_token.tolist() == [token]


def test_equal_siblings_with_distributions_are_tested_in_order(verify):
    # Both draws are token 0; the second meets the residual, where token 0 is left with 0.2 / 0.5.
    probs = torch.tensor([[[0.2, 0.5, 0.3, 0.0], [0.8, 0.1, 0.1, 0.0]]])
    q = [0.4, 0.2, 0.3, 0.1]
    parents = torch.tensor([-1, -1])
    arguments = {"draft_probs": probs, "parents": parents}
    # 0.2 * c < 0.4 always holds: node 0.
    first = sample(verify, [0, 0], log_rows(q, Q1, Q1), [0.99, 0.0, 0.0], **arguments)
    assert first.path.tolist() == [[0, -1]]
    swapped = {"draft_probs": probs.flip(1), "parents": parents}
    # Now p = 0.8 first: c = 0.6 rejects; residual (0, .1, .2, .1) has no token 0 left.
    second = sample(verify, [0, 0], log_rows(q, Q1, Q1), [0.6, 0.0, 0.3], **swapped)
    assert second.path.tolist() == [[-1, -1]]
    assert second.next_token.tolist() == [2]


def test_a_reduced_draft_vocabulary(verify):
    # Draft columns -> ids 3, 1, 3: p = (0, 0.5, 0, 0.5).
    arguments = {
        "draft_probs": torch.tensor([[[0.3, 0.5, 0.2]]]),
        "draft_to_target": torch.tensor([3, 1, 3]),
    }
    # Token 3: c * 0.5 < 0.4. Residual of Q0 - p: (0.1, 0, 0.3, 0).
    kept = sample(verify, [3], log_rows(Q0, Q1), [0.79, 0.0], **arguments)
    assert kept.num_accepted.tolist() == [1]
    lost = sample(verify, [3], log_rows(Q0, Q1), [0.81, 0.26], **arguments)
    assert lost.num_accepted.tolist() == [0]
    assert lost.next_token.tolist() == [2]
    assert lost.status.tolist() == [0]


def test_map_entries_out_of_range_lose_their_mass(verify):
    # Columns -> nothing, 1, nothing: token 1 keeps p = 0.25, so c * 0.25 < 0.2 decides.
    arguments = {
        "draft_probs": torch.tensor([[[0.5, 0.25, 0.25]]]),
        "draft_to_target": torch.tensor([-1, 1, 4]),
    }
    for coin, kept in [(0.79, 1), (0.81, 0)]:
        result = sample(verify, [1], log_rows(Q0, Q1), [coin, 0.0], **arguments)
        assert result.num_accepted.tolist() == [kept]
        assert result.status.tolist() == [2]


@pytest.mark.parametrize("with_probs", [False, True])
def test_probability_zero_is_never_accepted(verify, with_probs):
    probs = torch.tensor([[[0.0, 0.0, 0.0, 1.0]]]) if with_probs else None
    result = sample(verify, [3], log_rows(Q2, Q1), [0.0, 0.0], draft_probs=probs)
    assert result.num_accepted.tolist() == [0]
    assert result.next_token.tolist() == [0]


def test_the_largest_uniform_draws_a_token_with_mass(verify):
    top = 1.0 - 2.0**-24
    result = sample(verify, [3], log_rows(Q2, Q1), [top, top])
    assert result.next_token.tolist() == [2]
    both = sample(verify, [1], log_rows([0.0, 1.0, 0.0, 0.0], Q2), [top, top])
    assert both.num_accepted.tolist() == [1]
    assert both.next_token.tolist() == [2]


@pytest.mark.parametrize("with_probs", [False, True])
def test_temperature_zero_is_greedy(verify, with_probs):
    probs = torch.tensor([[Q1, Q2]]) if with_probs else None
    logits = log_rows(Q0, Q1, Q2)
    for ids, kept, token in [([3, 0], 2, 1), ([3, 1], 1, 0), ([2, 0], 0, 3)]:
        result = verify(
            torch.tensor([ids]),
            logits,
            rule="sample",
            temperature=0.0,
            draft_probs=probs,
            uniform_samples=torch.full((1, 3), 0.7),
        )
        assert result.num_accepted.tolist() == [kept]
        assert result.next_token.tolist() == [token]


def test_equal_distributions_accept_everything(verify, generator):
    logits = torch.randn(5, 9, 30, generator=generator)
    ids = torch.randint(0, 30, (5, 8), generator=generator)
    result = verify(
        ids,
        logits,
        rule="sample",
        temperature=1.0,
        draft_logits=logits[:, :8].clone(),
        # A coin of at most 0.999 leaves room for the rounding of the two softmax sums.
        uniform_samples=torch.rand(5, 9, generator=generator) * 0.999,
    )
    assert result.num_accepted.tolist() == [8] * 5


def test_uniforms_win_over_seeds(verify):
    seeds = {"seed": torch.tensor([3]), "position": torch.tensor([4])}
    for final in (0.05, 0.25, 0.55, 0.95):
        plain = sample(verify, [2], log_rows(Q0, Q1), [0.9, final])
        both = sample(verify, [2], log_rows(Q0, Q1), [0.9, final], **seeds)
        assert plain.next_token.tolist() == both.next_token.tolist()
