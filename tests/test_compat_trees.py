# SPDX-License-Identifier: Apache-2.0
"""Trees in the drop-ins: exact laws, malformed links, bad rows, and drafts with distributions."""

import numpy as np
import pytest
import torch

from tests import simulation
from tests.sglang_trees import UNWRITTEN, Links, chain, links, run_greedy, run_sampling, walk
from via_ext.ops._verify import verify_rows

# TensorRT-LLM's tree: a root with children 1, 2 and 3.
FAN = [[1, 2, 3], [], [], []]
FAN_ROW = torch.tensor([0.0, 0.30, 0.15, 0.05, 0.50])


def midpoints(count):
    return (torch.arange(count) + 0.5) / count


def fan_outcomes(device, strata, thresholds):
    """First tokens over coins in the middle of each of `strata` equal parts."""
    given = links([FAN] * strata, torch.tensor([[4, 1, 2, 3]]).expand(strata, -1))
    probs = FAN_ROW.expand(strata, 4, 5)
    coins = torch.full((strata, 4), 0.5)
    coins[:, 0] = midpoints(strata)
    outputs = run_sampling(given, coins, torch.rand(strata), probs, device, 2, thresholds)
    first = torch.tensor(outputs.predicts).view(strata, 4)[:, 0]
    return torch.bincount(first, minlength=5).tolist(), outputs.accept_token_num


def test_target_only_walk_follows_the_target_exactly(device):
    counts, accepted = fan_outcomes(device, 20, (1.0, 1.0))
    assert counts == [0, 6, 3, 1, 10]
    assert sum(accepted) == 10


def test_accumulated_threshold_law(device):
    # threshold_acc .7 makes (.3, .15, .05, .5) into (6, 3, 1, 4) / 14.
    assert fan_outcomes(device, 14, (1.0, 0.7))[0] == [0, 6, 3, 1, 4]


def test_single_threshold_law(device):
    # threshold_single .15 takes token 1 at once: its p is above.
    assert fan_outcomes(device, 20, (0.15, 1.0))[0] == [0, 20, 0, 0, 0]
    # At .4 nothing but the coin accepts.
    assert fan_outcomes(device, 20, (0.4, 1.0))[0] == [0, 6, 3, 1, 10]


def test_the_draw_after_rejections_is_exact(device):
    # Children cover 3/8; what they leave is 4 : 1. Eight coins, five final draws.
    coins = midpoints(8).repeat_interleave(5)
    final = midpoints(5).repeat(8)
    given = links([[[2, 1], [], []]] * 40, torch.tensor([[0, 3, 1]]).expand(40, -1))
    probs = torch.tensor([0.5, 0.25, 0.125, 0.125]).expand(40, 3, 4)
    outputs = run_sampling(given, coins[:, None].expand(-1, 3), final, probs, device, 2)
    first = torch.tensor(outputs.predicts).view(40, 3)[:, 0]
    assert torch.bincount(first, minlength=4).tolist() == [20, 10, 5, 5]
    assert sum(outputs.accept_token_num) == 15


def test_one_hot_rows_agree_with_greedy(device):
    given = links([FAN], torch.tensor([[4, 1, 2, 3]]))
    predict = torch.tensor([[1, 4, 4, 4]])
    probs = torch.nn.functional.one_hot(predict, 5).float()
    coins = torch.rand(1, 4)
    sampled = run_sampling(given, coins, coins[:, 0], probs, device, 2)
    assert sampled == run_greedy(given, predict, device, 2)
    assert sampled.accept_index == [[0, 1]] and sampled.predicts[:2] == [1, 4]


@pytest.mark.parametrize("bad", [-1, 5, 2**31 - 1])
def test_ids_outside_the_vocabulary_are_never_accepted(device, bad):
    given = links([FAN], torch.tensor([[4, bad, 1, bad]]))
    outputs = run_sampling(
        given, torch.zeros(1, 4), torch.zeros(1), FAN_ROW.expand(1, 4, 5), device, 2
    )
    assert outputs.accept_index == [[0, 2]]


def test_repeated_sibling_tokens_count_once(device):
    # Counted twice, token 1 would be accepted by the coin .5 > .3.
    given = links([FAN], torch.tensor([[0, 1, 1, 2]]))
    coins = torch.full((1, 4), 0.5)
    outputs = run_sampling(given, coins, torch.zeros(1), FAN_ROW.expand(1, 4, 5), device, 2)
    assert outputs.accept_token_num == [0] and outputs.predicts[0] == 3


@pytest.mark.parametrize(
    ("first", "sibling"),
    [
        ([0, -1, -1, -1], [-1, -1, -1, -1]),  # the root under itself
        ([1, 0, -1, -1], [-1, 2, 1, -1]),  # siblings in a circle, and back to the root
        ([1, 2, 3, 1], [-1, -1, -1, -1]),  # children in a circle
        ([4, -7, 99, -1], [-1, -1, -1, 2**40]),  # out of range
        ([1, 3, 3, -1], [-1, 2, -1, -1]),  # one node under two parents
        ([1, -1, -1, -1], [1, 1, 1, 1]),  # everything points at one node
    ],
)
def test_malformed_links_neither_hang_nor_reach_out(device, first, sibling):
    candidates = torch.tensor([[0, 1, 2, 3], [0, 1, 2, 3]])
    sound = chain(candidates[:1])
    given = Links(
        candidates,
        torch.arange(8).view(2, 4),
        torch.cat([torch.tensor([first]), sound.retrive_next_token]),
        torch.cat([torch.tensor([sibling]), sound.retrive_next_sibling]),
    )
    predict = torch.tensor([[1, 2, 3, 0], [1, 2, 3, 0]])
    probs = torch.nn.functional.one_hot(predict, 4).float()
    for outputs in (
        run_greedy(given, predict, device, 4),
        run_sampling(given, torch.zeros(2, 4), torch.zeros(2), probs, device, 4),
    ):
        assert outputs.accept_index[1] == [4, 5, 6, 7] and outputs.accept_token_num[1] == 3
        count = outputs.accept_token_num[0]
        path = outputs.accept_index[0]
        assert path[0] == 0 and len(set(path[: count + 1])) == count + 1
        assert all(0 <= slot < 4 for slot in path[: count + 1])
        assert path[count + 1 :] == [UNWRITTEN] * (3 - count)
        assert outputs.predicts[0] in range(4)


def test_random_links_stay_inside(device):
    batch, size, vocab = simulation.scaled(300, device, 8), 9, 6
    first, sibling = torch.randint(-3, size + 3, (2, batch, size))
    index = torch.randint(-5, batch * size + 5, (batch, size))
    given = Links(torch.randint(vocab, (batch, size)), index, first, sibling)
    probs = torch.softmax(torch.randn(batch, size, vocab), -1)
    coins = torch.rand(batch, size)
    outputs = run_sampling(given, coins, coins[:, 0], probs, device, 5)
    tokens = [token for token in outputs.predicts if token != UNWRITTEN]
    assert all(0 <= token < vocab for token in tokens)
    assert all(0 <= count <= 4 for count in outputs.accept_token_num)


@pytest.mark.parametrize("value", [float("nan"), 0.0])
def test_rows_without_mass_harm_nobody_else(device, value):
    given = chain(torch.tensor([[0, 1, 2], [0, 1, 2]]))
    probs = torch.zeros(2, 3, 5)
    probs[:, 0, 1] = probs[:, 1, 2] = probs[:, 2, 4] = 1.0
    probs[0, 1] = value
    coins = torch.full((2, 3), 0.5)
    outputs = run_sampling(given, coins, coins[:, 0], probs, device, 3)
    assert outputs.accept_token_num == [1, 2]
    assert outputs.predicts == [1, 0, UNWRITTEN, 1, 2, 4]


def test_strided_and_half_precision_rows(device):
    batch, size, vocab = 5, 4, 70
    given = links([FAN] * batch, torch.randint(vocab, (batch, size)).sort(1).values)
    given.candidates[:, 1:] = torch.tensor([3, 30, 60])
    probs = torch.softmax(torch.randn(batch, size, vocab), -1).bfloat16()
    coins, final = torch.rand(batch, size), torch.rand(batch)
    expected = walk([FAN] * batch, given, coins, final, probs.float(), 2)
    wide = torch.cat([probs, probs], 1)[:, :size]
    apart = probs.transpose(1, 2).contiguous().transpose(1, 2)
    assert apart.stride(-1) != 1
    for rows in (probs, probs.double(), wide, apart):
        assert run_sampling(given, coins, final, rows, device, 2) == expected


def binary_tree(height):
    size = 2**height - 1
    return [[i for i in (2 * n + 1, 2 * n + 2) if i < size] for n in range(size)]


def multi_round(tree, tokens, draft, model, uniforms):
    """MLC's rule: p/q against the node's own uniform; a rejection takes q out of p."""
    column = 0
    path = []
    while True:
        row = model[column].copy()
        for child in tree[column]:
            token = tokens[child]
            if row[token] > uniforms[child] * draft[child, token]:
                break
            row = np.maximum(row - draft[child], 0.0)
            row /= row.sum()
        else:
            return path, row
        path.append(child)
        column = child


@pytest.mark.parametrize("vocab", [3, 33, 65])
@pytest.mark.parametrize("shape", ["chain", "binary"])
def test_trees_with_draft_distributions(device, vocab, shape):
    # Ragged: 3 to 31 nodes of a chain, or binary trees of height 3 and 4; column 0 is the root.
    rng = np.random.default_rng(0)
    batch, size = simulation.scaled(32, device, 4), 32
    tokens = rng.integers(0, vocab, (batch, size))
    draft, model = (rng.random((batch, size, vocab)) for _ in range(2))
    draft /= draft.sum(-1, keepdims=True)
    model /= model.sum(-1, keepdims=True)
    draft, model = draft.astype(np.float32), model.astype(np.float32)
    uniforms = rng.random((batch, size)).astype(np.float32)
    parents = np.full((batch, size - 1), -1)
    counts = np.zeros(batch, dtype=np.int64)
    expected = []
    for b in range(batch):
        if shape == "chain":
            nodes = int(rng.integers(3, 32))
            tree = [[i + 1] if i + 1 < nodes else [] for i in range(nodes)]
        else:
            tree = binary_tree(int(rng.integers(3, 5)))
        counts[b] = len(tree) - 1
        for column, children in enumerate(tree):
            parents[b, np.array(children, dtype=np.int64) - 1] = column - 1
        wide = model[b].astype(np.float64)
        expected.append(
            multi_round(tree, tokens[b], draft[b].astype(np.float64), wide, uniforms[b])
        )
    # Node i stands in column i + 1; the last uniform is the final draw's.
    rows = [torch.tensor(a).to(device) for a in (tokens[:, 1:], model, parents, counts)]
    shifted = torch.tensor(np.concatenate([uniforms[:, 1:], uniforms[:, :1]], 1)).to(device)
    result = verify_rows(
        rows[0],
        rows[1],
        "sample",
        parents=rows[2],
        num_nodes=rows[3],
        draft_probs=torch.tensor(draft[:, 1:].copy()).to(device),
        uniform_samples=shifted,
        logits_are_probs=True,
    )
    for b, (path, residual) in enumerate(expected):
        count = int(result.num_accepted[b])
        assert [node + 1 for node in result.path[b, :count].tolist()] == path
        sums = residual.cumsum()
        last = int(np.argmax(sums > float(uniforms[b, 0]) * sums[-1]))
        assert int(result.next_token[b]) == last
