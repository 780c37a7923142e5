# SPDX-License-Identifier: Apache-2.0
"""One decoding run: the loop draft, slim, route, full, accept over a ragged batch."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from via_ext.config import ViaConfig
from via_ext.drafters import Drafter
from via_ext.engines.draft import EMPTY, Draft, split_drafts, tell_drafter
from via_ext.engines.full import FullJudge, Outcome, count_examined
from via_ext.engines.hooks import RowHooks
from via_ext.engines.moves import Move, compact
from via_ext.engines.policy import choose_policy
from via_ext.engines.request import Request, StopRules, row_key
from via_ext.engines.slim import SlimRows, SlimWalk, slim_walk
from via_ext.engines.torch import TorchEngine, Verifier
from via_ext.engines.verify import TIER_ACCEPTED, TIER_SLIM, VerifyCalls
from via_ext.prompts import pad_prompts
from via_ext.stats import StatsRecorder
from via_ext.tree import Tree


class Session:
    """Decodes a batch of prompts to their ends.

    Attributes:
        requests: state per batch row.
        recorder: statistics of the run.
        seconds: time spent in steps, prefill excluded.
        forward_seconds: the part of it inside the models' own forward passes, target and drafter.
    """

    def __init__(
        self,
        engine: TorchEngine,
        drafter: Drafter | None,
        config: ViaConfig,
        prompts: list[list[int]],
        seed: int,
        eos_token_ids: tuple[int, ...],
        decode: Callable[[list[int]], str] | None,
        hooks: list[RowHooks] | None = None,
    ) -> None:
        """Prefills the target and hands the prompts to the drafter.

        Args:
            engine: the target's parts.
            drafter: proposes tokens; None = no drafts.
            config: the run's configuration.
            prompts: token ids per row, at least one each.
            seed: root of every random stream.
            eos_token_ids: resolved end-of-sequence ids.
            decode: turns ids into text, for stop strings.
            hooks: per row, a caller's logits processors and stopping criteria.
        """
        self._engine = engine
        self._drafter = drafter
        self._config = config
        self._policy = choose_policy(config)
        rows, vocab_size = len(prompts), engine.target.config.vocab_size
        self._stop = StopRules(config, eos_token_ids, vocab_size, decode, hooks)
        self._calls = VerifyCalls(config, self._stop, rows, hooks)
        self.recorder = StatsRecorder()
        uses_slim_rows = engine.slim is not None and self._policy.saves_slim_rows
        self._slim_rows = SlimRows(rows, config.max_backlog, vocab_size) if uses_slim_rows else None
        self._judge = FullJudge(self._calls, self._policy, self.recorder, self._slim_rows)
        self._tree = config.tree or Tree.chain(config.num_draft_tokens)
        longest = max(map(len, prompts)) + config.max_new_tokens
        # A padded row of a ragged pass may write beyond its own end by the widest row's block.
        capacity = longest + 1 + config.max_backlog + self._tree.num_nodes
        self._verifier = Verifier(engine, rows, capacity, config.max_backlog, self._tree.num_nodes)
        self.requests = [
            Request(
                row, row_key(seed, row), len(tokens), list(tokens), len(tokens) - 1, len(tokens)
            )
            for row, tokens in enumerate(prompts)
        ]
        self._keys = torch.tensor([request.key for request in self.requests])
        self._moves: list[Move] = []
        self.seconds = 0.0
        self.forward_seconds = 0.0
        for request in self.requests:
            request.emitted = len(request.tokens)
        with torch.inference_mode():
            self._verifier.prefill(self.requests)
            if drafter is not None:
                drafter.prefill(*pad_prompts(prompts))

    @property
    def status(self) -> list[int]:
        """Status bits of `ops.verify` per batch row, or-ed over the run."""
        return self._calls.status

    @property
    def active(self) -> bool:
        """True while some request is not finished."""
        return not all(request.finished for request in self.requests)

    @torch.inference_mode()
    def step(self) -> None:
        """One decoding step of every unfinished request."""
        begin, forward_begin = time.perf_counter(), self._total_forward_seconds()
        requests = [request for request in self.requests if not request.finished]
        before = [len(request.tokens) for request in self.requests]
        drafts = self._propose()
        walks = self._slim(requests, drafts)
        kept = list(before)
        for request in requests:
            walk = walks.get(request.row)
            if walk is not None and not walk.escalate:
                self._commit_walk(request, drafts[request.row], walk)
        full = [r for r in requests if r.row not in walks or walks[r.row].escalate]
        if full:
            for request, outcome in self._full(full, drafts, walks):
                kept[request.row] = self._commit_outcome(request, drafts[request.row], outcome)
        compact(self._verifier, self._moves, len(self.requests), self._tree.num_nodes)
        self._moves.clear()
        self._tell_drafter(before, kept)
        for request in requests:
            request.steps += 1
        self.recorder.steps += len(requests)
        self.seconds += time.perf_counter() - begin
        self.forward_seconds += self._total_forward_seconds() - forward_begin

    def _total_forward_seconds(self) -> float:
        return self._engine.forward_seconds + getattr(self._drafter, "forward_seconds", 0.0)

    def _propose(self) -> list[Draft]:
        """Drafts of every batch row; finished rows get none."""
        limits = [
            0 if request.finished else self._stop.remaining(request) - 1
            for request in self.requests
        ]
        tree, depth = self._tree, max(limits)
        if tree.is_chain and tree.num_nodes > depth:
            tree = Tree.chain(max(depth, 0))
        if self._drafter is None or tree.num_nodes == 0 or depth <= 0:
            return [EMPTY] * len(limits)
        position = torch.tensor([request.steps for request in self.requests])
        proposal = self._drafter.propose(tree, self._keys, position)
        drafts = split_drafts(proposal, tree, limits, self._tree.num_nodes)
        self.recorder.drafted += sum(len(draft.tokens) for draft in drafts)
        return drafts

    def _slim(self, requests: list[Request], drafts: list[Draft]) -> dict[int, SlimWalk]:
        """Slim walks by row; rows whose backlog is full go straight to the full model."""
        group = [r for r in requests if r.backlog < self._config.max_backlog]
        if self._engine.slim is None or not group:
            return {}
        chosen = [drafts[request.row] for request in group]
        self.recorder.slim_passes += len(group)
        walks = {}
        logits = self._verifier.slim_logits(group, chosen)
        for request, draft, rows in zip(group, chosen, logits, strict=True):
            walk = slim_walk(self._calls, self._policy, self.recorder, request, draft, rows)
            if self._slim_rows is not None:
                self._slim_rows.save(self._calls, request, draft, walk)
            walks[request.row] = walk
        return walks

    def _full(
        self, requests: list[Request], drafts: list[Draft], walks: dict[int, SlimWalk]
    ) -> list[tuple[Request, Outcome]]:
        """Full pass and decisions of the requests that need one."""
        chosen = [drafts[request.row] for request in requests]
        has_hidden = [request.row in walks for request in requests]
        self.recorder.full_passes += len(requests)
        whole = self._policy.audits
        logits = self._verifier.full_logits(requests, chosen, has_hidden, whole)
        return [
            (request, self._judge.decide(request, draft, walks.get(request.row), rows))
            for request, draft, rows in zip(requests, chosen, logits, strict=True)
        ]

    def _commit_walk(self, request: Request, draft: Draft, walk: SlimWalk) -> None:
        """Commits what the slim verifier decided; provisional where the policy audits."""
        self._moves.append(Move(request.row, request.root, walk.path, request.backlog))
        own = len(walk.decided) - len(walk.path)
        tiers = [TIER_ACCEPTED] * len(walk.path) + [TIER_SLIM] * own
        request.append(walk.decided, tiers, walk.logprobs)
        if not self._policy.audits:
            request.confirmed = len(request.tokens)
            request.finished = walk.final
        self._count(draft, walk.path, dropped=0)

    def _commit_outcome(self, request: Request, draft: Draft, outcome: Outcome) -> int:
        """Commits what the full model decided, rolling back what failed its audit.

        Returns:
            How many of the tokens before this step were kept.
        """
        audited = len(outcome.backlog_logprobs)
        kept = request.frontier + 1 + outcome.backlog_kept
        ended = self._stop.ended_before(request, kept)
        path = outcome.path if ended is None else []
        count: int | None = None
        if kept == len(request.tokens) and ended is None:
            self._moves.append(Move(request.row, request.root, path, None))
        if audited:
            request.logprobs[
                kept - audited - request.prompt_length : kept - request.prompt_length
            ] = outcome.backlog_logprobs
        kept = kept if ended is None else ended
        dropped = request.tiers[kept - request.prompt_length :].count(TIER_ACCEPTED)
        request.truncate(kept)
        if ended is None:
            count = self._stop.cut(request, outcome.tokens, final=True)
            request.append(outcome.tokens[:count], outcome.tiers[:count], outcome.logprobs[:count])
        request.finished = ended is not None or count is not None
        request.frontier = request.root
        request.confirmed = len(request.tokens)
        if self._calls.hooks is not None:
            self._calls.hooks[request.row].sync()
        self._count(draft, path, dropped)
        return kept

    def _count(self, draft: Draft, path: list[int], dropped: int) -> None:
        self.recorder.examined += count_examined(draft.tree, path)
        self.recorder.accepted_per_step.append(len(path) - dropped)

    def _tell_drafter(self, before: list[int], kept: list[int]) -> None:
        if self._drafter is not None:
            sequences = [request.tokens for request in self.requests]
            tell_drafter(self._drafter, before, kept, sequences)
