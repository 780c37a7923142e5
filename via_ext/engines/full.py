# SPDX-License-Identifier: Apache-2.0
"""The full model's part of a step: audit what is provisional, then decide the rest."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from via_ext import ops
from via_ext.engines.draft import Draft
from via_ext.engines.policy import Policy
from via_ext.engines.request import Request, common_prefix
from via_ext.engines.slim import SlimRows, SlimWalk
from via_ext.engines.verify import (
    TIER_ACCEPTED,
    TIER_FULL,
    TIER_SLIM,
    VerifyCalls,
    has_children,
    log_softmax_at,
    path_of,
)
from via_ext.stats import StatsRecorder
from via_ext.tree import Tree


class Outcome(NamedTuple):
    """What a full pass decided for one request.

    Attributes:
        backlog_kept: leading backlog tokens that stay.
        path: draft nodes that were kept.
        tokens: new tokens after the kept backlog.
        tiers: of the new tokens.
        logprobs: of the new tokens.
        backlog_logprobs: under the full model, of the kept backlog tokens; empty without audit.
    """

    backlog_kept: int
    path: list[int]
    tokens: list[int]
    tiers: list[int]
    logprobs: list[float]
    backlog_logprobs: list[float]


class FullJudge:
    """Applies the full-model columns of a policy row."""

    def __init__(
        self,
        calls: VerifyCalls,
        policy: Policy,
        recorder: StatsRecorder,
        slim_rows: SlimRows | None,
    ) -> None:
        """Keeps what every decision needs.

        Args:
            calls: verify calls of the session.
            policy: rules for backlog and draft nodes.
            recorder: receives overshoot samples.
            slim_rows: saved slim distributions, in exact sampling.
        """
        self._calls = calls
        self._policy = policy
        self._recorder = recorder
        self._slim_rows = slim_rows

    def decide(
        self, request: Request, draft: Draft, walk: SlimWalk | None, logits: torch.Tensor
    ) -> Outcome:
        """Decides one request.

        Args:
            request: its backlog is provisional if the policy audits.
            draft: nodes below the root.
            walk: the slim walk of this step, None if no slim pass ran.
            logits: [1, backlog + 1 + N, V] if the policy audits, else [1, 1 + N, V].
        """
        if self._policy.audit_rule == "greedy":
            return self._greedy(request, draft, walk, logits)
        backlog_logprobs: list[float] = []
        judged = [] if walk is None else walk.logprobs
        if self._policy.audits:
            chain = request.tokens[request.frontier + 1 :]
            chain += [] if walk is None else walk.decided
            if chain:
                audit = self._audit(request, draft, walk, chain, logits)
                kept = int(audit.num_accepted[0])
                values = audit.logprobs[0, : kept + 1].tolist()
                self._overshoot(_provisional_logprobs(request, walk)[:kept], values)
                if kept < len(chain):
                    return _rolled_back(request, walk, chain, int(audit.next_token[0]), values)
                backlog_logprobs = values[: request.backlog]
                judged = values[request.backlog : kept]
            if walk is not None and walk.final:
                tiers = _slim_tiers(walk)
                path, decided = walk.path, walk.decided
                return Outcome(request.backlog, path, decided, tiers, judged, backlog_logprobs)
            logits = logits[:, request.backlog :]
        elif walk is not None:
            self._overshoot_of_path(draft, walk, logits)
        accepted = 0 if walk is None else len(walk.path)
        if self._policy.full_rule == "route":
            result = self._calls.full_ratio(request, draft, logits, walk)
        else:
            resume = None if walk is None else walk.verification
            result = self._calls.draft(request, draft, logits, self._policy.full_rule, resume)
        path = path_of(result)
        tokens = [draft.tokens[node] for node in path] + [int(result.next_token[0])]
        tiers = [TIER_ACCEPTED] * accepted + [TIER_FULL] * (len(tokens) - accepted)
        logprobs = judged[:accepted] + result.logprobs[0, accepted : len(tokens)].tolist()
        return Outcome(request.backlog, path, tokens, tiers, logprobs, backlog_logprobs)

    def _greedy(
        self, request: Request, draft: Draft, walk: SlimWalk | None, logits: torch.Tensor
    ) -> Outcome:
        """Greedy exact: one walk over backlog and draft, as one tree."""
        backlog = request.backlog
        chain = request.tokens[request.frontier + 1 :]
        parents = [*range(-1, backlog - 1), *(p + backlog for p in draft.tree.parents)]
        depths = [*range(-backlog, 1), *draft.tree.depths]
        result = self._calls.chain(
            request,
            chain + draft.tokens,
            logits,
            "greedy",
            depths,
            parents=torch.tensor(parents, dtype=torch.int32),
        )
        nodes = path_of(result)
        kept = min(len(nodes), backlog)
        path = [node - backlog for node in nodes[backlog:]]
        values = result.logprobs[0, : len(nodes) + 1].tolist()
        same = 0 if walk is None else common_prefix(path, walk.path)
        slim_values = request.logprobs[len(request.logprobs) - backlog :][:kept]
        if walk is not None and kept == backlog:
            slim_values = slim_values + walk.logprobs[:same]
        self._overshoot(slim_values, values)
        return Outcome(
            kept,
            path,
            [draft.tokens[node] for node in path] + [int(result.next_token[0])],
            [TIER_ACCEPTED] * same + [TIER_FULL] * (len(path) - same + 1),
            values[kept:],
            values[:kept],
        )

    def _audit(
        self,
        request: Request,
        draft: Draft,
        walk: SlimWalk | None,
        chain: list[int],
        logits: torch.Tensor,
    ) -> ops.Verification:
        """Judges every provisional token against the full model, as one chain."""
        backlog = request.backlog
        path = [] if walk is None else walk.path
        rows = [*range(backlog + 1), *(backlog + 1 + node for node in path)]
        depths = [*range(-backlog, 1), *(draft.tree.depths[node] for node in path)]
        # A final token of the slim verifier's own has no row after it, and needs none.
        rows += rows[-1:] * (len(chain) + 1 - len(rows))
        depths += depths[-1:] * (len(rows) - len(depths))
        selected = logits if rows == list(range(logits.shape[1])) else logits[:, rows]
        rule = self._policy.audit_rule
        assert rule is not None
        if rule == "sample":
            assert self._slim_rows is not None
            probs = self._slim_rows.of(request, len(chain))
            return self._calls.chain(
                request, chain, selected, rule, depths, bonus=False, draft_probs=probs
            )
        return self._calls.chain(
            request,
            chain,
            selected,
            rule,
            depths,
            bonus=False,
            accept_threshold=self._calls.config.audit_threshold,
            escalate_threshold=0.0,
        )

    def _overshoot(self, slim_logprobs: list[float], full_logprobs: list[float]) -> None:
        """Samples of max(0, s(x) - q(x)) for tokens that both verifiers judged."""
        pairs = zip(slim_logprobs, full_logprobs, strict=False)
        self._recorder.overshoot += [max(0.0, math.exp(s) - math.exp(q)) for s, q in pairs]

    def _overshoot_of_path(self, draft: Draft, walk: SlimWalk, logits: torch.Tensor) -> None:
        """Overshoot of tokens that the full model sees but does not judge."""
        if not walk.path:
            return
        rows = [0, *(node + 1 for node in walk.path)][: len(walk.path)]
        tokens = [draft.tokens[node] for node in walk.path]
        temperature = self._calls.config.temperature
        slim = log_softmax_at(walk.logits[0, rows], tokens, temperature)
        self._overshoot(slim, log_softmax_at(logits[0, rows], tokens, temperature))


def count_examined(tree: Tree, path: list[int]) -> int:
    """Draft nodes that got a verdict on a walk: the path, and the candidate it stopped at."""
    return len(path) + has_children(tree, path)


def _slim_tiers(walk: SlimWalk) -> list[int]:
    own = len(walk.decided) - len(walk.path)
    return [TIER_ACCEPTED] * len(walk.path) + [TIER_SLIM] * own


def _provisional_logprobs(request: Request, walk: SlimWalk | None) -> list[float]:
    """Slim log-probabilities of the backlog tokens and of the walk's."""
    backlog = request.logprobs[len(request.logprobs) - request.backlog :]
    return backlog + ([] if walk is None else walk.logprobs)


def _rolled_back(
    request: Request, walk: SlimWalk | None, chain: list[int], token: int, values: list[float]
) -> Outcome:
    """The chain is kept up to its first failure, where the full model's token takes over."""
    kept = len(values) - 1
    backlog_kept = min(kept, request.backlog)
    path = [] if walk is None else walk.path[: kept - backlog_kept]
    tiers = [TIER_ACCEPTED] * len(path) + [TIER_FULL]
    tokens = [*chain[backlog_kept:kept], token]
    return Outcome(backlog_kept, path, tokens, tiers, values[backlog_kept:], values[:backlog_kept])
