# SPDX-License-Identifier: Apache-2.0
"""Verification row by row, for scores that a caller's logits processors compute.

A processor is a function of a prefix, and costs a Python call: rows are processed when the walk
reaches them and no others, so no processor ever runs on a rejected prefix. Every row is one verify
call over its children, with a random stream of its own; accepting or redrawing at one parent
depends on that parent's row and children only, so the law is that of one call over all rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from via_ext import ops
from via_ext.engines.hooks import RowHooks
from via_ext.engines.request import Request
from via_ext.router import FEATURES, NUM_WEIGHTS

if TYPE_CHECKING:
    from via_ext.engines.verify import VerifyCalls


def verify_by_row(
    calls: VerifyCalls,
    hooks: RowHooks,
    request: Request,
    tokens: list[int],
    logits: torch.Tensor,
    rule: str,
    row_depths: list[int],
    *,
    provisional: torch.Tensor | None = None,
    bonus: bool = True,
    parents: torch.Tensor | None = None,
    resume: ops.Verification | None = None,
    draft_probs: torch.Tensor | None = None,
    draft_to_target: torch.Tensor | None = None,
    router: torch.Tensor | None = None,
    draft_scores: torch.Tensor | None = None,
    **extra: Any,
) -> ops.Verification:
    """What `VerifyCalls.judge` returns, on processed scores.

    Args:
        calls: makes the verify calls.
        hooks: of the request.
        request: as in `VerifyCalls.judge`.
        tokens: N node tokens.
        logits: [1, N + 1, V], not processed.
        rule: rule of `ops.verify`.
        row_depths: depth of each logits row below the request's last token.
        provisional: [1, N + 1, V] float32 for slim logits: receives the processed rows. None means
            that what this call decides is final.
        bonus: False leaves a row without children alone, undecided.
        parents: [N], None = a chain.
        resume: continue from its path.
        draft_probs: [1, N, V] as in `ops.verify`.
        draft_to_target: id map of a reduced drafter vocabulary, as in `ops.verify`.
        router: [27] packed, as in `ops.verify`.
        draft_scores: [1, N, 2] as there.
        extra: further arguments of `ops.verify`.

    Returns:
        One row; no ratios and no tiers. `next_token` is -1 where the walk ended with a token that
        ends the request, and where `bonus` left the last row undecided.
    """
    final = provisional is None
    children = _children(tokens, parents)
    path: list[int] = [] if resume is None else resume.path[0, : resume.num_accepted[0]].tolist()
    logprobs: list[float] = [] if resume is None else resume.logprobs[0, : len(path)].tolist()
    known = len(request.tokens) + row_depths[0]
    prefix = request.tokens[:known] + [tokens[node] for node in path]
    next_token, escalate = -1, False
    row = path[-1] + 1 if path else 0
    while children[row] or bonus:
        scores = hooks.process(prefix, logits[0, row], final)
        if provisional is not None:
            provisional[0, row] = scores
        nodes = children[row]
        drawn: dict[str, Any] = {}
        if draft_probs is not None and nodes:
            drawn = {"draft_probs": draft_probs[:, nodes], "draft_to_target": draft_to_target}
        if router is not None:
            drawn["router"] = _at_depth(router, len(path))
            drawn["draft_scores"] = None if draft_scores is None else draft_scores[:, nodes]
        found = calls.call(
            request,
            [tokens[node] for node in nodes],
            # The children's own rows are not read into the result: any row will do.
            scores.expand(1, 1 + len(nodes), -1),
            rule,
            [row_depths[row]] * (1 + len(nodes)),
            parents=torch.full((len(nodes),), -1) if len(nodes) > 1 else None,
            **drawn,
            **extra,
        )
        logprobs.append(float(found.logprobs[0, 0]))
        if not int(found.num_accepted[0]):
            next_token, escalate = int(found.next_token[0]), bool(found.escalate[0])
            break
        path.append(nodes[int(found.path[0, 0])])
        prefix.append(tokens[path[-1]])
        row = path[-1] + 1
        if calls.stop.ends(request, prefix, final):
            break
    return _verification(len(tokens), path, row, next_token, escalate, logprobs)


def _at_depth(router: torch.Tensor, depth: int) -> torch.Tensor:
    """The router for a call whose root is `depth` nodes deep: its biases take the difference."""
    packed = router.clone()
    models = packed[: 3 * NUM_WEIGHTS].view(3, NUM_WEIGHTS)
    models[:, 0] += depth * models[:, 1 + FEATURES.index("depth")]
    return packed


def _children(tokens: list[int], parents: torch.Tensor | None) -> list[list[int]]:
    """Nodes below each row; entries without a token are no nodes."""
    above = range(-1, len(tokens) - 1) if parents is None else parents.tolist()
    children: list[list[int]] = [[] for _ in range(len(tokens) + 1)]
    for node, parent in enumerate(above):
        if tokens[node] >= 0:
            children[parent + 1].append(node)
    return children


def _verification(
    width: int, path: list[int], row: int, next_token: int, escalate: bool, logprobs: list[float]
) -> ops.Verification:
    return ops.Verification(
        ratios=None,
        tiers=None,
        path=torch.tensor([path + [-1] * (width - len(path))], dtype=torch.int32).view(1, width),
        num_accepted=torch.tensor([len(path)], dtype=torch.int32),
        next_token=torch.tensor([next_token]),
        next_row=torch.tensor([row], dtype=torch.int32),
        escalate=torch.tensor([escalate]),
        logprobs=torch.tensor([logprobs + [0.0] * (width + 1 - len(logprobs))]),
        status=torch.zeros(1, dtype=torch.int32),
    )
