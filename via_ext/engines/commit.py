# SPDX-License-Identifier: Apache-2.0
"""The end of a step: what was decided becomes the request's, what failed its audit goes."""

from __future__ import annotations

from via_ext.engines.draft import Draft
from via_ext.engines.full import Outcome, count_examined
from via_ext.engines.moves import Move
from via_ext.engines.policy import Policy
from via_ext.engines.request import Request
from via_ext.engines.slim import SlimWalk
from via_ext.engines.verify import TIER_ACCEPTED, TIER_SLIM, VerifyCalls
from via_ext.stats import StatsRecorder


class Commits:
    """Commits decisions to requests, and notes which cache rows stay.

    Attributes:
        moves: of this step, at most one per request.
    """

    def __init__(self, calls: VerifyCalls, policy: Policy, recorder: StatsRecorder) -> None:
        """Starts without moves.

        Args:
            calls: gives end rules and hooks.
            policy: says what stays provisional.
            recorder: receives the walks.
        """
        self._calls = calls
        self._policy = policy
        self._recorder = recorder
        self.moves: list[Move] = []

    def walk(self, request: Request, draft: Draft, walk: SlimWalk) -> None:
        """Commits what the slim verifier decided; provisional where the policy audits."""
        self.moves.append(Move(request.row, request.root, walk.path, request.backlog))
        own = len(walk.decided) - len(walk.path)
        tiers = [TIER_ACCEPTED] * len(walk.path) + [TIER_SLIM] * own
        request.append(walk.decided, tiers, walk.logprobs)
        if not self._policy.audits:
            request.confirmed = len(request.tokens)
            request.finished = walk.final
        self._count(draft, walk.path, dropped=0)

    def outcome(self, request: Request, draft: Draft, outcome: Outcome) -> int:
        """Commits what the full model decided, rolling back what failed its audit.

        Returns:
            How many of the tokens before this step were kept.
        """
        stop = self._calls.stop
        audited = len(outcome.backlog_logprobs)
        kept = request.frontier + 1 + outcome.backlog_kept
        ended = stop.ended_before(request, kept)
        path = outcome.path if ended is None else []
        count: int | None = None
        if kept == len(request.tokens) and ended is None:
            self.moves.append(Move(request.row, request.root, path, None))
        if audited:
            request.logprobs[
                kept - audited - request.prompt_length : kept - request.prompt_length
            ] = outcome.backlog_logprobs
        kept = kept if ended is None else ended
        dropped = request.tiers[kept - request.prompt_length :].count(TIER_ACCEPTED)
        request.truncate(kept)
        if ended is None:
            count = stop.cut(request, outcome.tokens, final=True)
            request.append(outcome.tokens[:count], outcome.tiers[:count], outcome.logprobs[:count])
        request.finished = ended is not None or count is not None
        request.frontier = request.root
        request.confirmed = len(request.tokens)
        if self._calls.hooks is not None:
            self._calls.hooks[request.row].sync()
        self._count(draft, path, dropped)
        return kept

    def _count(self, draft: Draft, path: list[int], dropped: int) -> None:
        self._recorder.count_walk(len(path), count_examined(draft.tree, path))
        self._recorder.accepted_per_step.append(len(path) - dropped)
