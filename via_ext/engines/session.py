# SPDX-License-Identifier: Apache-2.0
"""One decoding run: the loop draft, slim, route, full, accept over a ragged batch."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from via_ext.config import ViaConfig
from via_ext.drafters import Drafter
from via_ext.drafters.scores import Scoring
from via_ext.engines.auto_tier import TierSwitch
from via_ext.engines.calibrated import Calibrated
from via_ext.engines.commit import Commits
from via_ext.engines.draft import EMPTY, Draft, count_passes, split_drafts, tell_drafter
from via_ext.engines.full import FullJudge, Outcome
from via_ext.engines.hooks import RowHooks
from via_ext.engines.moves import compact
from via_ext.engines.plan import Plan
from via_ext.engines.policy import choose_policy
from via_ext.engines.request import Request, StopRules, row_key
from via_ext.engines.slim import SlimRows, SlimWalk, slim_walk
from via_ext.engines.torch import TorchEngine, Verifier
from via_ext.engines.verify import VerifyCalls
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
        calibrated: Calibrated | None = None,
        switch: TierSwitch | None = None,
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
            calibrated: the setting to follow, None = the configuration's thresholds.
            switch: of `auto_tier`, None = the slim tier stays on.
        """
        self._engine = engine
        self._drafter = drafter
        self._config = config
        self._policy = choose_policy(config, 1.0 if calibrated is None else calibrated.full_ratio)
        rows, vocab_size = len(prompts), engine.target.config.vocab_size
        self._stop = StopRules(config, eos_token_ids, vocab_size, decode, hooks)
        self._calls = VerifyCalls(config, self._stop, rows, hooks, calibrated)
        self.recorder = StatsRecorder()
        self._commits = Commits(self._calls, self._policy, self.recorder)
        self._scores_asked = False
        self._plan = Plan(config, calibrated, switch, rows)
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
        self.seconds = 0.0
        self.forward_seconds = 0.0
        for request in self.requests:
            request.emitted = len(request.tokens)
        with torch.inference_mode():
            self._verifier.prefill(self.requests)
            if drafter is not None:
                ask = getattr(drafter, "set_scoring", None)
                if ask is not None:
                    # Always: an earlier run of this drafter may have wanted something else.
                    scoring = Scoring() if calibrated is None else calibrated.scoring
                    ask(scoring)
                    self._scores_asked = scoring.scores
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
        safe = sum(request.confirmed for request in self.requests)
        self._plan.begin_step()
        drafts = self._propose()
        walks = self._slim(requests, drafts)
        kept = list(before)
        for request in requests:
            walk = walks.get(request.row)
            if walk is not None and not walk.escalate:
                self._commits.walk(request, drafts[request.row], walk)
        full = [r for r in requests if r.row not in walks or walks[r.row].escalate]
        if full:
            for request, outcome in self._full(full, drafts, walks):
                kept[request.row] = self._commits.outcome(request, drafts[request.row], outcome)
        compact(self._verifier, self._commits.moves, len(self.requests), self._tree.num_nodes)
        self._commits.moves.clear()
        self._tell_drafter(before, kept)
        for request in requests:
            request.steps += 1
        self.recorder.steps += len(requests)
        seconds = time.perf_counter() - begin
        self.seconds += seconds
        self.forward_seconds += self._total_forward_seconds() - forward_begin
        left = sum(request.backlog for request in requests if not request.finished)
        tokens = sum(request.confirmed for request in self.requests) - safe
        resumed = sum(walk.escalate for walk in walks.values())
        self.recorder.tier_changes = self._plan.end_step(seconds, tokens, resumed, left)

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
        if self._scores_asked and proposal.scores is None and any(d.tokens for d in drafts):
            got = f"None from {type(self._drafter).__name__}"
            raise ValueError(f"drafter: scores must be given as set_scoring asked, got {got}")
        self.recorder.draft_passes += count_passes(self._drafter, tree, limits)
        self.recorder.drafted += sum(len(draft.tokens) for draft in drafts)
        return drafts

    def _slim(self, requests: list[Request], drafts: list[Draft]) -> dict[int, SlimWalk]:
        """Slim walks by row, without the rows that go straight to the full model."""
        if self._engine.slim is None:
            return {}
        group = [r for r in requests if self._plan.takes_slim(r, drafts[r.row])]
        if not group:
            return {}
        chosen = [drafts[request.row] for request in group]
        self.recorder.slim_passes += len(group)
        walks = {}
        logits = self._verifier.slim_logits(group, chosen)
        for request, draft, rows in zip(group, chosen, logits, strict=True):
            walk = slim_walk(self._calls, self._policy, self.recorder, request, draft, rows)
            if self._slim_rows is not None:
                self._slim_rows.save(self._calls, request, draft, walk)
            self._plan.note_walk(request, draft, walk)
            walks[request.row] = walk
        return walks

    def _full(
        self, requests: list[Request], drafts: list[Draft], walks: dict[int, SlimWalk]
    ) -> list[tuple[Request, Outcome]]:
        """Full pass and decisions of the requests that need one."""
        chosen = [drafts[request.row] for request in requests]
        has_hidden = [request.row in walks for request in requests]
        self.recorder.full_passes += len(requests)
        self.recorder.resumed_passes += sum(has_hidden)
        whole = self._policy.audits
        logits = self._verifier.full_logits(requests, chosen, has_hidden, whole)
        for request in requests:
            self._plan.note_full(request)
        return [
            (request, self._judge.decide(request, draft, walks.get(request.row), rows))
            for request, draft, rows in zip(requests, chosen, logits, strict=True)
        ]

    def _tell_drafter(self, before: list[int], kept: list[int]) -> None:
        if self._drafter is not None:
            sequences = [request.tokens for request in self.requests]
            tell_drafter(self._drafter, before, kept, sequences)
