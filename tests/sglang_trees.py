# SPDX-License-Identifier: Apache-2.0
"""Trees by links for the tests of compat.sglang: calling it, and a walk of one's own."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from via_ext.compat.sglang import tree_speculative_sampling_target_only, verify_tree_greedy

UNWRITTEN = 777


class Outputs(NamedTuple):
    """The three tensors that are filled in place, as lists."""

    predicts: list[int]
    accept_index: list[list[int]]
    accept_token_num: list[int]


class Links(NamedTuple):
    """Trees with the root in column 0, [B, N] each."""

    candidates: Tensor
    retrive_index: Tensor
    retrive_next_token: Tensor
    retrive_next_sibling: Tensor


def links(children: Sequence[Sequence[Sequence[int]]], candidates: Tensor) -> Links:
    """Per request, the children of each column in their order."""
    batch_size, size = candidates.shape
    first = torch.full((batch_size, size), -1)
    sibling = torch.full((batch_size, size), -1)
    for b, tree in enumerate(children):
        for column, below in enumerate(tree):
            for place, child in enumerate(below):
                if place == 0:
                    first[b, column] = child
                else:
                    sibling[b, below[place - 1]] = child
    index = torch.arange(batch_size * size).view(batch_size, size)
    return Links(candidates, index, first, sibling)


def chain(candidates: Tensor) -> Links:
    """Column i + 1 is the only child of column i."""
    size = candidates.shape[1]
    tree = [[i + 1] if i + 1 < size else [] for i in range(size)]
    return links([tree] * len(candidates), candidates)


def random_links(batch_size: int, size: int, vocab_size: int) -> tuple[list[Any], Links]:
    """Random trees whose columns are in no order; siblings never share a token."""
    candidates = torch.randint(vocab_size, (batch_size, size))
    trees = []
    for b in range(batch_size):
        columns = [0, *(torch.randperm(size - 1) + 1).tolist()]
        tree: list[list[int]] = [[] for _ in range(size)]
        for place, column in enumerate(columns[1:], start=1):
            parent = columns[int(torch.randint(place, (1,)))]
            taken = {int(candidates[b, other]) for other in tree[parent]}
            if int(candidates[b, column]) not in taken:
                tree[parent].append(column)
        trees.append(tree)
    return trees, links(trees, candidates)


def prepare(given: Links, steps: int, device: str) -> tuple[list[Tensor], list[Tensor]]:
    """Outputs full of a number that no call writes, and the links on the device."""
    batch_size, size = given.candidates.shape
    outputs = [
        torch.full(shape, UNWRITTEN, dtype=torch.int32, device=device)
        for shape in ((batch_size * size,), (batch_size, steps), (batch_size,))
    ]
    return outputs, [tensor.to(device) for tensor in given]


def run_sampling(
    given: Links,
    coins: Tensor,
    final: Tensor,
    probs: Tensor,
    device: str,
    steps: int,
    thresholds: tuple[float, float] = (1.0, 1.0),
) -> Outputs:
    """tree_speculative_sampling_target_only on a device."""
    outputs, tensors = prepare(given, steps, device)
    inputs = [tensor.to(device) for tensor in (coins, final, probs)]
    kept = [tensor.clone() for tensor in (*tensors, *inputs)]
    tree_speculative_sampling_target_only(
        *outputs,
        *tensors,
        *inputs,
        draft_probs=None,
        threshold_single=thresholds[0],
        threshold_acc=thresholds[1],
    )
    for tensor, before in zip((*tensors, *inputs), kept, strict=True):
        assert torch.equal(tensor.nan_to_num(), before.nan_to_num()), "an input was written"
    return Outputs(*(output.tolist() for output in outputs))


def run_greedy(given: Links, predict: Tensor, device: str, steps: int) -> Outputs:
    """verify_tree_greedy on a device."""
    outputs, tensors = prepare(given, steps, device)
    verify_tree_greedy(*outputs, *tensors, predict.to(device))
    return Outputs(*(output.tolist() for output in outputs))


def walk(
    trees: Sequence[Any],
    given: Links,
    coins: Tensor,
    final: Tensor,
    probs: Tensor,
    steps: int,
    thresholds: tuple[float, float] = (1.0, 1.0),
) -> Outputs:
    """The rule written out, float64: the oracle of `run_sampling`."""
    batch_size, size = given.candidates.shape
    predicts = [UNWRITTEN] * (batch_size * size)
    accept_index = [[UNWRITTEN] * steps for _ in range(batch_size)]
    counts = []
    for b in range(batch_size):
        column, count, rejected = 0, 0, []
        path = [0]
        while True:
            rejected = []
            chosen = -1
            covered = 0.0
            for child in trees[b][column] if count < steps - 1 else []:
                token = int(given.candidates[b, child])
                p = float(probs[b, column, token])
                covered += p
                coin = float(coins[b, column])
                if p > 0 and (coin < covered / max(thresholds[1], 1e-9) or p >= thresholds[0]):
                    chosen = child
                    break
                rejected.append(token)
            if chosen < 0:
                break
            predicts[int(given.retrive_index[b, column])] = int(given.candidates[b, chosen])
            column = chosen
            count += 1
            path.append(column)
        weights = probs[b, column].double().clone()
        weights[rejected] = 0.0
        sums = weights.cumsum(0)
        target = float(final[b]) * float(sums[-1])
        token = int(((sums > target) & (weights > 0)).int().argmax())
        predicts[int(given.retrive_index[b, column])] = token
        for place, visited in enumerate(path):
            accept_index[b][place] = int(given.retrive_index[b, visited])
        counts.append(count)
    return Outputs(predicts, accept_index, counts)
