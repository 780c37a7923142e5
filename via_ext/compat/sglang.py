# SPDX-License-Identifier: Apache-2.0
"""Drop-ins for sgl_kernel / sglang.kernels: tree verification by links, in place."""

from __future__ import annotations

import torch
from torch import Tensor

from via_ext.compat._common import view_rows
from via_ext.compat._tree import accepts_retrieve, read_tree
from via_ext.ops._verify import verify_rows

__all__ = ["tree_speculative_sampling_target_only", "verify_tree_greedy"]

_MIN_THRESHOLD_ACC = 1e-9  # SGLang's


@accepts_retrieve
def tree_speculative_sampling_target_only(
    predicts: Tensor,
    accept_index: Tensor,
    accept_token_num: Tensor,
    candidates: Tensor,
    retrive_index: Tensor,
    retrive_next_token: Tensor,
    retrive_next_sibling: Tensor,
    uniform_samples: Tensor,
    uniform_samples_for_final_sampling: Tensor,
    target_probs: Tensor,
    draft_probs: Tensor | float | None = None,
    threshold_single: float = 1.0,
    threshold_acc: float = 1.0,
    deterministic: bool = True,
) -> None:
    """Walks draft trees by the target's probabilities, the draft's unseen (one-hot drafts).

    At a node, its children in order: child c is accepted iff p(c) > 0 and (coin < sum of p over
    the children up to c / threshold_acc, or p(c) >= threshold_single). At thresholds of 1 this is
    inverse-CDF sampling of p with the children first, hence lossless; below 1 it accepts more, and
    is not. Where no child is accepted, the next token is drawn from p without the children; at a
    leaf, or after S - 1 steps, from p. Probabilities are used as they stand.

    Unlike SGLang: a coin of 0 accepts no child of probability 0 (as after its fix); the second
    child of one parent with the same token is skipped, not counted twice; malformed links count as
    absent, and neither hang nor read out of range; `draft_probs` is neither read nor written.

    Args:
        predicts: int32 [B*N], in place: the token that follows node i at slot retrive_index of i.
        accept_index: int32 [B, S], in place: retrive_index of the root and of the accepted nodes;
            the rest stays as it is (-1, from the caller).
        accept_token_num: int32 [B], in place: accepted nodes without the root.
        candidates: [B, N] int32 or int64 tokens, the root's in column 0; N <= 128.
        retrive_index: [B, N] slots in `predicts`; also accepted as retrieve_index, like the links.
        retrive_next_token: [B, N] column of the first child, -1 = none.
        retrive_next_sibling: [B, N] column of the next sibling, -1 = none.
        uniform_samples: [B, N] coins in [0, 1); column i is for the children of node i.
        uniform_samples_for_final_sampling: [B].
        target_probs: [B, N, V].
        draft_probs: ignored; newer versions of SGLang are without it, and so may the call be.
        threshold_single: in [0, 1].
        threshold_acc: in [0, 1], at least 1e-9 in use.
        deterministic: results always are; accepted for the signature's sake.

    Raises:
        TypeError: wrong dtype or argument type.
        ValueError: wrong shape, device or range.
        RuntimeError: CUDA failed, or CUDA tensors in a build without CUDA.
    """
    op = "tree_speculative_sampling_target_only"
    if isinstance(draft_probs, (int, float)):  # the newer order, without draft_probs
        if isinstance(threshold_acc, bool) or threshold_single != 1.0:
            threshold_acc = threshold_single
        threshold_single = draft_probs
    for name, value in (("threshold_single", threshold_single), ("threshold_acc", threshold_acc)):
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise TypeError(f"{op}: {name} must be a number, got {type(value).__name__}")
        if not 0 <= value <= 1:
            raise ValueError(f"{op}: {name} must be in [0, 1], got {value}")
    links = (retrive_index, retrive_next_token, retrive_next_sibling)
    tree = read_tree(op, predicts, accept_index, accept_token_num, candidates, links)
    batch_size, size = tree.candidates.shape
    arguments = tree.arguments
    probs = arguments.rows("target_probs", target_probs, (batch_size, size, None), "[B, N, V]")
    coins = arguments.floats("uniform_samples", uniform_samples, (batch_size, size), "[B, N]")
    final = arguments.floats(
        "uniform_samples_for_final_sampling",
        uniform_samples_for_final_sampling,
        (batch_size,),
        "[B]",
    )
    if batch_size == 0:
        return
    rows = tree.order.rows()
    requests = torch.arange(batch_size, device=rows.device)[:, None]
    uniforms = coins.gather(1, rows)
    uniforms[:, -1] = final  # the last node has no children, so no coin
    tokens = tree.candidates.gather(1, tree.order.columns)
    result = verify_rows(
        torch.where(tree.order.exists, tokens, -1),
        view_rows(probs, batch_size, size),
        "sample",
        parents=tree.order.parents,
        uniform_samples=uniforms,
        logits_offsets=requests * probs.stride(0) + rows * probs.stride(1),
        logits_are_probs=True,
        threshold_single=float(threshold_single),
        threshold_acc=max(float(threshold_acc), _MIN_THRESHOLD_ACC),
    )
    visited = tree.visited(result)
    follows = torch.nn.functional.pad(tree.candidates.gather(1, visited)[:, 1:].long(), (0, 1))
    follows = follows.scatter_(1, result.num_accepted.long()[:, None], result.next_token[:, None])
    tree.write(result, visited, follows)


@accepts_retrieve
def verify_tree_greedy(
    predicts: Tensor,
    accept_index: Tensor,
    accept_token_num: Tensor,
    candidates: Tensor,
    retrive_index: Tensor,
    retrive_next_token: Tensor,
    retrive_next_sibling: Tensor,
    target_predict: Tensor,
) -> None:
    """Walks draft trees by the target's argmax: a child is accepted iff it is its parent's argmax.

    Malformed links count as absent, where SGLang's kernel reads out of range or never ends.

    Args:
        predicts: int32 [B*N], in place, as in `tree_speculative_sampling_target_only`.
        accept_index: int32 [B, S], in place.
        accept_token_num: int32 [B], in place.
        candidates: [B, N] int32 or int64 tokens, the root's in column 0; N <= 128.
        retrive_index: [B, N] slots in `predicts`; also accepted as retrieve_index, like the links.
        retrive_next_token: [B, N] column of the first child, -1 = none.
        retrive_next_sibling: [B, N] column of the next sibling, -1 = none.
        target_predict: [B, N] int32 or int64, argmax of the row that follows node i.

    Raises:
        TypeError: wrong dtype or argument type.
        ValueError: wrong shape or device.
        RuntimeError: CUDA failed, or CUDA tensors in a build without CUDA.
    """
    op = "verify_tree_greedy"
    links = (retrive_index, retrive_next_token, retrive_next_sibling)
    tree = read_tree(op, predicts, accept_index, accept_token_num, candidates, links)
    batch_size, size = tree.candidates.shape
    predict = tree.arguments.ids(
        "target_predict", target_predict, (batch_size, size), "[B, N]"
    ).long()
    if batch_size == 0:
        return
    # The walk over a vocabulary of nodes: a row's argmax is its first child that matches, else the
    # id past all nodes.
    order = tree.order
    nodes = torch.arange(size, device=predict.device)
    rows = order.parents + 1
    wanted = predict.gather(1, order.rows()).gather(1, rows)
    tokens = tree.candidates.gather(1, order.columns)
    is_match = order.exists & (tokens == wanted)
    scores = (is_match[:, None] & (rows[:, None] == nodes[:, None])).float()
    result = verify_rows(
        torch.where(is_match, nodes[:-1], -1),
        torch.nn.functional.pad(scores, (0, 1), value=0.5),
        "greedy",
        parents=order.parents,
        temperature=0.0,
    )
    visited = tree.visited(result)
    tree.write(result, visited, predict.gather(1, visited))
