# SPDX-License-Identifier: Apache-2.0
"""What the operations do, as one would write it in plain PyTorch: what benchmarks compare.

Chains are batched and never wait for the device; trees are walked node by node. No status, no
ragged rows, no mask. Softmax runs over all rows: eager code has to, because it learns only
afterwards which rows the walk needed.
"""

from __future__ import annotations

import torch
from torch import Tensor


def filtered(logits: Tensor, top_k: int = 0, top_p: float = 1.0) -> Tensor:
    """Softmax at temperature 1 after top-k and top-p, by sorting, like the usual logits warpers."""
    values = logits.float()
    if top_k:
        kth = values.topk(top_k).values[..., -1:]
        values = values.masked_fill(values < kth, -torch.inf)
    if top_p < 1.0:
        ordered, order = values.sort(dim=-1, descending=True, stable=True)
        mass = ordered.softmax(-1)
        dropped = mass.cumsum(-1) - mass >= top_p
        values = values.masked_fill(dropped.scatter(-1, order, dropped), -torch.inf)
    return values.softmax(-1)


def _walk(parents: Tensor, accepted: Tensor, on_device: bool) -> tuple[Tensor, Tensor]:
    """Follows the first accepted child from the root in every request; its length and last row.

    On a GPU node by node for all requests, without waiting for the device; on the CPU request by
    request, which is faster there.
    """
    if on_device:
        last = torch.full_like(accepted[:, 0], -1, dtype=torch.int64)
        length = torch.zeros_like(last)
        for node, parent in enumerate(parents.unbind(0)):
            step = accepted[:, node] & (last == parent)
            last = torch.where(step, node, last)
            length = length + step
        return length, last + 1
    tree, yes = parents.tolist(), accepted.tolist()
    lengths, rows = [], []
    for request in yes:
        last_node, steps = -1, 0
        for node, parent in enumerate(tree):
            if parent == last_node and request[node]:
                last_node, steps = node, steps + 1
        lengths.append(steps)
        rows.append(last_node + 1)
    return torch.tensor(lengths), torch.tensor(rows)


def _accept(
    parents: Tensor | None, accepted: Tensor, on_device: bool | None = None
) -> tuple[Tensor, Tensor]:
    """Number of accepted nodes and the row that follows the last one."""
    if parents is not None:
        return _walk(parents, accepted, accepted.is_cuda if on_device is None else on_device)
    count = accepted.cumprod(1).sum(1)
    return count, count


def _drafted(values: Tensor, ids: Tensor, parents: Tensor | None) -> tuple[Tensor, Tensor]:
    """Row of every node's parent, and the entry of its token there."""
    rows = values[:, :-1] if parents is None else values[:, parents + 1]
    return rows, rows.gather(2, ids[..., None])[..., 0]


def eager_route(ids: Tensor, logits: Tensor, parents: Tensor | None) -> tuple[Tensor, ...]:
    """Ratios, tiers, accepted nodes, next token and log-probabilities."""
    logprobs = logits.float().log_softmax(-1)
    best, argmax = logprobs.max(-1)
    _, drafted = _drafted(logprobs, ids, parents)
    top = best[:, :-1] if parents is None else best[:, parents + 1]
    ratios = (drafted - top).exp()
    tiers = (ratios < 0.7).int() + (ratios < 0.5).int()
    count, row = _accept(parents, ratios >= 0.7)
    return ratios, tiers, count, argmax.gather(1, row[:, None]), drafted, best


def eager_greedy(
    ids: Tensor, logits: Tensor, parents: Tensor | None, on_device: bool | None = None
) -> tuple[Tensor, ...]:
    """Accepted nodes, next token and log-probabilities."""
    logprobs = logits.float().log_softmax(-1)
    best, argmax = logprobs.max(-1)
    _, drafted = _drafted(logprobs, ids, parents)
    wanted = argmax[:, :-1] if parents is None else argmax[:, parents + 1]
    count, row = _accept(parents, wanted == ids, on_device)
    return count, argmax.gather(1, row[:, None]), drafted, best


def eager_sample(
    ids: Tensor, probs: Tensor, coins: Tensor, drawn_from: Tensor | None
) -> tuple[Tensor, ...]:
    """Lossless acceptance of a chain, one-hot or drawn from [B, N, V], and the final draw."""
    _, drafted = _drafted(probs, ids, None)
    scale: Tensor | float = 1.0
    if drawn_from is not None:
        scale = drawn_from.gather(2, ids[..., None])[..., 0]
    count = (coins[:, :-1] * scale < drafted).cumprod(1).sum(1)
    requests = torch.arange(len(probs), device=probs.device)
    last = probs[requests, count]
    rejected = count.clamp(max=ids.shape[1] - 1)
    some = (count < ids.shape[1])[:, None]
    if drawn_from is None:
        token = ids.gather(1, rejected[:, None])
        rest = last.scatter(1, token, 0.0)
    else:
        rest = (last - drawn_from[requests, rejected]).clamp(min=0.0)
    weights = torch.where(some, rest, last).cumsum(-1)
    token = (weights > coins[:, -1:] * weights[:, -1:]).int().argmax(-1)
    return count, token, drafted.log()


def eager_draft(
    logits: Tensor, coins: Tensor, top_k: int = 0, top_p: float = 1.0
) -> tuple[Tensor, Tensor]:
    """One token per row [R, V] by its coin [R], and the distribution it was drawn from."""
    probs = filtered(logits, top_k, top_p)
    passed = probs.cumsum(-1)
    return (passed > coins[:, None] * passed[:, -1:]).int().argmax(-1), probs


def eager_compact(
    caches: list[Tensor], context_lens: Tensor, path: Tensor, num_accepted: Tensor
) -> None:
    """Moves the rows of the accepted path, one gather and one scatter per cache.

    Requests that accept less than the longest path write back rows that they hold already, so that
    nothing waits for the device.
    """
    batch, nodes = path.shape
    requests = torch.arange(batch, device=path.device)[:, None]
    step = torch.arange(nodes, device=path.device)
    target = context_lens[:, None] + 1 + step
    moved = step < num_accepted[:, None]
    source = torch.where(moved, context_lens[:, None] + 1 + path, target)
    for cache in caches:
        cache[requests, target] = cache[requests, source]
