# SPDX-License-Identifier: Apache-2.0
"""compat.sglang: the published trees and boundary coins by their numbers, and a walk of our own."""

import pytest
import torch

from tests import simulation
from tests.sglang_trees import (
    UNWRITTEN,
    Links,
    chain,
    links,
    prepare,
    random_links,
    run_greedy,
    run_sampling,
    walk,
)
from via_ext.compat.sglang import tree_speculative_sampling_target_only

# SGLang's example: two requests, six columns; children in the order of the links.
EXAMPLE = links(
    [[[1, 3], [2], [], [4], [5], []], [[4, 1], [2], [3], [], [5], []]],
    torch.tensor([[0, 1, 2, 3, 4, 5], [7, 8, 9, 10, 11, 12]]),
)
EXPECTED = (
    [3, -1, -1, 4, 5, 18, 11, -1, -1, -1, 12, 18],
    [[0, 3, 4, 5], [6, 10, 11, -1]],
    [3, 2],
)


def example_logits():
    logits = torch.ones(2, 6, 20)
    logits[..., 18] = 10
    for b, row, token in ((0, 0, 3), (0, 3, 4), (0, 4, 5), (1, 0, 11), (1, 4, 12)):
        logits[b, row, token], logits[b, row, 18] = 10, 1
    return logits


def padded(outputs):
    """The example's outputs are -1 where nothing is written."""
    row = [-1 if token == UNWRITTEN else token for token in outputs.predicts]
    places = [[-1 if p == UNWRITTEN else p for p in path] for path in outputs.accept_index]
    return row, places, outputs.accept_token_num


@pytest.mark.parametrize("thresholds", [(1, 1), (0, 0)])
def test_example_tree(device, thresholds):
    # The older expectation at (0, 0) accepts tokens of probability 0; the newer one is this.
    probs = torch.softmax(example_logits() / 0.01, -1)
    outputs = run_sampling(
        EXAMPLE, torch.rand(2, 6), torch.rand(2), probs, device, 4, thresholds=thresholds
    )
    assert padded(outputs) == EXPECTED


def test_example_tree_greedy(device):
    outputs = run_greedy(EXAMPLE, example_logits().argmax(-1), device, 4)
    assert padded(outputs) == EXPECTED


@pytest.mark.parametrize(
    ("children", "probs", "coin", "single", "token", "count"),
    [
        ([2], [0.0, 1.0, 0.0], 0.0, 0.0, 1, 0),
        ([2], [0.0, 1.0, 0.0], 0.0, 1.0, 1, 0),
        ([1, 2, 3], [0.0, 0.25, 0.0, 0.75], 0.25, 1.0, 3, 1),
        ([1], [0.0, 0.25, 0.75], 0.0, 1.0, 1, 1),
        ([1], [0.0, 1.0], 1.0 - 2**-24, 1.0, 1, 1),
    ],
    ids=["zero-mass-zero-threshold", "zero-mass", "interior", "lower-end", "upper-end"],
)
def test_boundary_coins(device, children, probs, coin, single, token, count):
    size = len(children) + 1
    given = links([[list(range(1, size)), *[[]] * (size - 1)]], torch.tensor([[0, *children]]))
    target = torch.zeros(1, size, len(probs))
    target[0, 0] = torch.tensor(probs)
    target[0, 1:, 0] = 1.0
    coins = torch.zeros(1, size)
    coins[0, 0] = coin
    outputs = run_sampling(given, coins, torch.zeros(1), target, device, 2, (single, 1.0))
    assert (outputs.predicts[0], outputs.accept_token_num) == (token, [count])


def test_final_draw_at_the_ends_of_the_masses(device):
    # TokenSpeed's sparse row: masses at 0, 2048 and the last id of a longer vocabulary.
    probs = torch.zeros(4, 1, 4096)
    probs[:, 0, 0] = probs[:, 0, -1] = 0.25
    probs[:, 0, 2048] = 0.5
    coins = torch.tensor([0.0, 0.25, 0.75, 0.99999994])
    given = chain(torch.zeros(4, 1, dtype=torch.int64))
    outputs = run_sampling(given, coins[:, None], coins, probs, device, 1)
    assert outputs.predicts == [0, 2048, 4095, 4095]
    assert outputs.accept_index == [[0], [1], [2], [3]]
    assert outputs.accept_token_num == [0] * 4


@pytest.mark.parametrize("accept", [False, True])
def test_final_draw_across_a_large_vocabulary(device, accept):
    # Masses in 32nds and a coin in the middle of each: the token is known, chunk by chunk.
    vocab, proposal, batch = 6143, 17, 32
    support = torch.tensor([0, 2047, 2048, 4095, 4096, 5000, vocab - 2, vocab - 1])
    weights = torch.tensor([1, 2, 3, 4, 5, 6, 7, 4]) / 32
    probs = torch.zeros(batch, 2, vocab)
    probs[:, 1, support] = weights
    if accept:
        probs[:, 0, proposal] = 1.0
    else:
        probs[:, 0, support] = weights
    final = (torch.arange(batch) + 0.5) / batch
    given = chain(torch.tensor([[0, proposal]]).expand(batch, -1))
    outputs = run_sampling(given, torch.full((batch, 2), 0.5), final, probs, device, 2)
    assert outputs.accept_token_num == [int(accept)] * batch
    expected = support[torch.searchsorted(weights.cumsum(0), final, right=True)].tolist()
    assert outputs.predicts[int(accept) :: 2] == expected


@pytest.mark.parametrize("batch", [1, 5])
def test_a_threshold_accepts_and_a_low_row_is_drawn_from(device, batch):
    # TokenSpeed's chain: .95 over threshold_single .9, then .1 under a coin of .9. Rows need not
    # sum to 1.
    candidates = torch.tensor([[10, 11, 12, 13]]).expand(batch, -1)
    probs = torch.zeros(batch, 4, 16)
    probs[:, 0, 11] = 0.95
    probs[:, 1, 12], probs[:, 1, 5] = 0.1, 1.0
    coins = torch.tensor([[0.5, 0.9, 0.5, 0.5]]).expand(batch, -1)
    outputs = run_sampling(
        chain(candidates), coins, torch.full((batch,), 0.1), probs, device, 4, (0.9, 1.0)
    )
    assert outputs.accept_token_num == [1] * batch
    assert outputs.predicts == [11, 5, UNWRITTEN, UNWRITTEN] * batch
    for row, path in enumerate(outputs.accept_index):
        assert path == [4 * row, 4 * row + 1, UNWRITTEN, UNWRITTEN]


def test_a_threshold_of_zero_accepts_all_with_mass(device):
    candidates = torch.tensor([[5, 6, 7, 8]] * 2)
    probs = torch.nn.functional.one_hot(candidates, 16).float().roll(-1, 1)
    coins = torch.full((2, 4), 0.01)
    outputs = run_sampling(chain(candidates), coins, coins[:, 0], probs, device, 4, (0.0, 1.0))
    assert outputs.accept_token_num == [3, 3]


@pytest.mark.parametrize(
    ("candidates", "predict", "count"),
    [
        ([23958, 1266, 9400, 61749], [1266, 9400, 61749, 6620], 3),
        ([100, 200, 300, 400], [999, 998, 997, 996], 0),
        ([10, 20, 30, 40], [20, 999, 998, 997], 1),
    ],
)
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_greedy_chains(device, candidates, predict, count, dtype):
    given = Links(*(tensor.to(dtype) for tensor in chain(torch.tensor([candidates] * 3))))
    outputs = run_greedy(given, torch.tensor([predict] * 3), device, 4)
    assert outputs.accept_token_num == [count] * 3
    row = predict[: count + 1] + [UNWRITTEN] * (3 - count)
    assert outputs.predicts == row * 3


@pytest.mark.parametrize("thresholds", [(1.0, 1.0), (0.3, 1.0), (1.0, 0.6), (0.5, 0.7)])
@pytest.mark.parametrize(("size", "steps"), [(2, 4), (7, 3), (12, 12)])
def test_random_trees_walk_as_written(device, size, steps, thresholds):
    batch, vocab = simulation.scaled(200, device, 6), 9
    trees, given = random_links(batch, size, vocab)
    probs = torch.softmax(torch.randn(batch, size, vocab) * 2, -1)
    coins, final = torch.rand(batch, size), torch.rand(batch)
    outputs = run_sampling(given, coins, final, probs, device, steps, thresholds)
    assert outputs == walk(trees, given, coins, final, probs, steps, thresholds)


@pytest.mark.parametrize(("size", "steps"), [(7, 3), (40, 9)])
def test_random_trees_walk_greedily(device, size, steps):
    batch, vocab = simulation.scaled(200, device, 6), 4
    trees, given = random_links(batch, size, vocab)
    predict = torch.randint(vocab, (batch, size))
    probs = torch.nn.functional.one_hot(predict, vocab).float()
    zeros = torch.zeros(batch, size)
    expected = walk(trees, given, zeros, zeros[:, 0], probs, steps)
    assert run_greedy(given, predict, device, steps) == expected


def test_the_largest_tree(device):
    # 128 columns in reverse: every parent stands after its child.
    size = 128
    tree = [[size - 1]] + [[i - 1] if i > 1 else [] for i in range(1, size)]
    given = links([tree], torch.arange(size)[None])
    predict = torch.tensor([[size - 1, *range(size - 1)]])
    outputs = run_greedy(given, predict, device, size)
    assert outputs.accept_token_num == [size - 1]
    assert outputs.accept_index == [[0, *range(size - 1, 0, -1)]]
    assert outputs.predicts == predict[0].tolist()


def test_spellings_and_argument_orders(device):
    probs = torch.softmax(example_logits() / 0.01, -1).to(device)
    coins, final = torch.rand(2, 6, device=device), torch.rand(2, device=device)
    garbage = torch.full_like(probs, float("nan"))
    calls = [
        ((garbage, 1.0, 1.0, True), {}),
        ((None,), {}),
        ((), {"threshold_acc": 1.0}),
        ((1.0, 1.0, True), {}),
        ((1.0,), {"threshold_acc": 1.0}),
    ]
    for rest, named in calls:
        outputs, tensors = prepare(EXAMPLE, 4, device)
        tree_speculative_sampling_target_only(
            *outputs, *tensors, coins, final, probs, *rest, **named
        )
        assert outputs[2].tolist() == [3, 2]
    assert garbage.isnan().all()
    outputs, tensors = prepare(EXAMPLE, 4, device)
    tree_speculative_sampling_target_only(
        *outputs,
        tensors[0],
        retrieve_index=tensors[1],
        retrieve_next_token=tensors[2],
        retrieve_next_sibling=tensors[3],
        uniform_samples=coins,
        uniform_samples_for_final_sampling=final,
        target_probs=probs,
    )
    assert outputs[2].tolist() == [3, 2]


def test_thresholds_without_draft_probs_keep_their_places(device):
    # p = .4 under a coin of .9: accepted by threshold_single .3, and by threshold_acc .4.
    given = chain(torch.tensor([[0, 1]]))
    probs = torch.tensor([[[0.6, 0.4], [0.5, 0.5]]], device=device)
    coins = torch.full((1, 2), 0.9, device=device)
    for rest, count in (((0.3, 1.0), 1), ((1.0, 0.4, True), 1), ((1.0, 1.0), 0), ((0.5,), 0)):
        outputs, tensors = prepare(given, 2, device)
        tree_speculative_sampling_target_only(*outputs, *tensors, coins, coins[:, 0], probs, *rest)
        assert outputs[2].tolist() == [count], rest
