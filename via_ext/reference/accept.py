# SPDX-License-Identifier: Apache-2.0
"""Which child of a row is accepted: greedy, and lossless for one-hot and for drawn children.

The lossless rules return the accepted child or None, and the weights from which the next token is
drawn if there is none.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor


def greedy(argmax: int, children: list[int], tokens: list[int]) -> int | None:
    """The first child that equals the argmax, or None.

    Args:
        argmax: of the row.
        children: nodes in order.
        tokens: token of every node.
    """
    return next((node for node in children if tokens[node] == argmax), None)


def one_hot(
    probs: Tensor, children: list[int], tokens: list[int], coin: float
) -> tuple[int | None, Tensor]:
    """Inverse-CDF sampling of q with the children first; one coin for all of them.

    A child is accepted iff coin < the sum of q over the distinct children up to and including it,
    and its q is positive. Without acceptance the children leave q; a child whose removal would
    leave no mass (rounding) stays.

    Args:
        probs: [V] float64, q.
        children: nodes in order; one whose token an earlier sibling had is skipped.
        tokens: token of every node.
        coin: uniform in [0, 1).
    """
    residual, covered, seen = probs.clone(), 0.0, set()
    for node in children:
        token = tokens[node]
        if token in seen:
            continue
        seen.add(token)
        mass = float(probs[token])
        covered += mass
        if mass > 0.0 and coin < covered:
            return node, probs
        removed = residual.clone()
        removed[token] = 0.0
        if removed.sum() > 0.0:
            residual = removed
    return None, residual


def drawn(
    probs: Tensor,
    children: list[int],
    tokens: list[int],
    draft_probability: Callable[[int], float],
    draft_row: Callable[[int], Tensor],
    coin_of: Callable[[int], float],
) -> tuple[int | None, Tensor]:
    """Multi-round acceptance of children drawn from distributions (SpecInfer).

    The residual r starts as q. A child x drawn from p is accepted iff coin * p(x) < r(x), a token
    with r(x) = 0 never; after a rejection r becomes norm(max(r - p, 0)), unless that is empty
    (rounding). Siblings with equal tokens are tested in order: each was a draw of its own.

    Args:
        probs: [V] float64, q.
        children: nodes in order.
        tokens: token of every node.
        draft_probability: node -> p of its token.
        draft_row: node -> [V] float64, its p; needed after a rejection only.
        coin_of: node -> uniform in [0, 1).
    """
    residual = probs
    for node in children:
        if coin_of(node) * draft_probability(node) < float(residual[tokens[node]]):
            return node, probs
        rest = (residual - draft_row(node)).clamp(min=0.0)
        if rest.sum() > 0.0:
            residual = rest / rest.sum()
    return None, residual
