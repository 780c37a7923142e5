# SPDX-License-Identifier: Apache-2.0
"""The slim verifier's part of a step: how far it decides, and where the full model takes over."""

from __future__ import annotations

from typing import NamedTuple

import torch

from via_ext import ops
from via_ext.engines.draft import Draft
from via_ext.engines.policy import Policy
from via_ext.engines.request import Request
from via_ext.engines.verify import VerifyCalls, has_children, path_of
from via_ext.stats import StatsRecorder


class SlimWalk(NamedTuple):
    """What the slim verifier decided for one request.

    Attributes:
        path: accepted nodes, in order.
        decided: the tokens it committed: the path's, then its own next token if it gave one.
        logprobs: of the decided tokens, under the slim verifier.
        escalate: the step goes on with a full pass.
        final: the decided tokens end the request (once confirmed, where there is an audit).
        verification: the state to resume from, cut to `path`.
        logits: [1, 1 + N, V] slim logits.
        scores: what was judged: the logits, or the rows that logits processors made of them.
    """

    path: list[int]
    decided: list[int]
    logprobs: list[float]
    escalate: bool
    final: bool
    verification: ops.Verification
    logits: torch.Tensor
    scores: torch.Tensor


class SlimRows:
    """The distributions that provisional tokens were drawn from: the p of the audit.

    They are stored, never recomputed: the slim logits depend on what the cache holds, and a full
    pass rewrites it.

    Args:
        rows: batch rows.
        max_backlog: most provisional tokens.
        vocab_size: V.
    """

    def __init__(self, rows: int, max_backlog: int, vocab_size: int) -> None:
        """Allocates [rows, max_backlog, V] float32."""
        self._probs = torch.zeros(rows, max_backlog, vocab_size)

    def save(self, calls: VerifyCalls, request: Request, draft: Draft, walk: SlimWalk) -> None:
        """Keeps the rows of a walk's decided tokens behind those of the backlog."""
        count = len(walk.decided)
        if count == 0:
            return
        rows = [0, *(node + 1 for node in walk.path)][:count]
        depths = [0, *draft.tree.depths]
        allowed = calls.stop.allowed(request, [depths[row] for row in rows])
        first = request.backlog
        self._probs[request.row, first : first + count] = ops.filtered_probs(
            walk.scores[0, rows],
            allowed=None if allowed is None else allowed[0],
            **calls.filters,
        )

    def of(self, request: Request, count: int) -> torch.Tensor:
        """[1, count, V]: distributions of the first `count` provisional tokens."""
        return self._probs[request.row : request.row + 1, :count]


def slim_walk(
    calls: VerifyCalls,
    policy: Policy,
    recorder: StatsRecorder,
    request: Request,
    draft: Draft,
    logits: torch.Tensor,
) -> SlimWalk:
    """The slim verifier's decisions, cut where the backlog is full or the request ends.

    Both cuts depend only on tokens that are already resolved, never on the children of the row
    where the full model takes over: exact sampling stays exact.
    """
    scores = calls.slim_scores(request, logits)
    result = calls.draft(request, draft, logits, policy.slim_rule, provisional=scores)
    path = path_of(result)
    escalate = bool(result.escalate[0])
    recorder.accepted += len(path)
    if has_children(draft.tree, path):
        recorder.escalated += escalate
        recorder.regenerated += not escalate
    # Row 0 adds the root to the backlog, each accepted node one more: the last row that the slim
    # verifier may decide is this one.
    last_row = calls.config.max_backlog - request.backlog - 1
    if len(path) > last_row:
        path, escalate = path[: last_row + 1], True
    decided = [draft.tokens[node] for node in path]
    if not escalate:
        decided.append(int(result.next_token[0]))
    count = calls.stop.cut(request, decided, final=not policy.audits)
    if count is not None:
        path, decided, escalate = path[:count], decided[:count], policy.audits
    if calls.hooks is not None and not policy.audits:
        hooks, rows = calls.hooks[request.row], [0, *(node + 1 for node in path)]
        for index, row in enumerate(rows[: len(decided)]):
            hooks.replay(request.tokens + decided[:index], logits[0, row])
        hooks.sync()
    logprobs = result.logprobs[0, : len(decided)].tolist()
    resumable = _cut(result, path) if escalate else result
    final = count is not None
    return SlimWalk(path, decided, logprobs, escalate, final, resumable, logits, scores)


def _cut(result: ops.Verification, path: list[int]) -> ops.Verification:
    """The verification as if it had escalated right after `path`."""
    width = result.path.shape[1]
    kept = len(path)
    logprobs = result.logprobs.clone()
    logprobs[:, kept:] = 0.0
    return result._replace(
        path=torch.tensor([path + [-1] * (width - kept)], dtype=torch.int32).view(1, width),
        num_accepted=torch.tensor([kept], dtype=torch.int32),
        next_token=torch.tensor([-1]),
        next_row=torch.tensor([path[-1] + 1 if path else 0], dtype=torch.int32),
        escalate=torch.tensor([True]),
        logprobs=logprobs,
    )
