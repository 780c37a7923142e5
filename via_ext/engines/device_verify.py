# SPDX-License-Identifier: Apache-2.0
"""The verify calls of a step whose requests stay on the device: one call for the whole batch."""

from __future__ import annotations

from typing import Any

import torch

from via_ext import ops
from via_ext.engines.device_state import DeviceState
from via_ext.engines.policy import Policy
from via_ext.engines.request import words_without
from via_ext.models.tree_pass import take_rows


class DeviceVerify:
    """`ops.verify` with a run's filters, thresholds, masks and seeds, into static results.

    Attributes:
        draft_probs: [B, N, V] the distribution each node was drawn from, None = one-hot.
        draft_to_target: [V_draft] id map of a reduced drafter vocabulary, or None.
        held_words: [ceil(V / 32)] int32 allowed ids while end of sequence is held back, or None.
        slim_rows: [B, max_backlog + 1, V] distributions that the audit compares with, or None.
    """

    def __init__(self, state: DeviceState, policy: Policy, vocab_size: int) -> None:
        """Keeps what every call shares; allocates the saved slim rows where they are needed.

        Args:
            state: the run's arrays.
            policy: rules of its mode.
            vocab_size: V.
        """
        self._state = state
        self._policy = policy
        config = state.config
        self.draft_probs: torch.Tensor | None = None
        self.draft_to_target: torch.Tensor | None = None
        self._filters: dict[str, Any] = {
            "temperature": config.temperature,
            "top_k": config.top_k,
            "top_p": config.top_p,
            "min_p": config.min_p,
        }
        eos = state.eos_token_ids.tolist()
        self.held_words: torch.Tensor | None = None
        if eos and config.min_new_tokens > 0:
            self.held_words = words_without(eos, vocab_size).to(state.keys.device)
        self.slim_rows: torch.Tensor | None = None
        if policy.saves_slim_rows and state.audit == "chain":
            # One spare row per request takes what is not kept.
            shape = (state.keys.shape[0], config.max_backlog + 1, vocab_size)
            self.slim_rows = torch.zeros(shape, device=state.keys.device)
        self._audits: dict[int, ops.Verification] = {}

    def _allowed(self, held: torch.Tensor) -> torch.Tensor | None:
        """Grammar mask [B, rows, words] that holds end of sequence back where `held` says so."""
        if self.held_words is None:
            return None
        everything = torch.full_like(self.held_words, -1)
        return torch.where(held[:, :, None], self.held_words, everything)

    def _call(self, tokens: torch.Tensor, logits: torch.Tensor, **extra: Any) -> None:
        state = self._state
        if state.config.temperature > 0.0:
            extra |= {"seed": state.keys, "position": state.verify_calls}
        ops.verify(tokens, logits, **self._filters, **extra)

    def draft(
        self,
        logits: torch.Tensor,
        rule: str,
        out: ops.Verification,
        resume: ops.Verification | None = None,
    ) -> None:
        """Judges the proposal; row 0 of `logits` [B, 1 + N, V] follows the root."""
        state, config = self._state, self._state.config
        extra: dict[str, Any] = {"rule": rule, "out": out, "resume": resume}
        probs = {"draft_probs": self.draft_probs, "draft_to_target": self.draft_to_target}
        if rule == "route":
            extra["accept_threshold"] = config.accept_threshold
            extra["escalate_threshold"] = config.escalate_threshold
            if config.draft_threshold is not None and self.draft_probs is not None:
                extra |= probs | {"draft_threshold": config.draft_threshold}
        elif rule == "sample" and self.draft_probs is not None:
            extra |= probs
        self._call(
            state.draft_ids,
            logits,
            parents=state.draft_parents,
            num_nodes=state.node_counts,
            allowed=self._allowed(state.block_held),
            **extra,
        )

    def audit(self, logits: torch.Tensor) -> ops.Verification:
        """Judges the provisional tokens, or backlog and draft as one greedy tree.

        Args:
            logits: [B, C + 1, V] of the full model, in the order of `chain_ids`.
        """
        state, config = self._state, self._state.config
        nodes = logits.shape[1] - 1
        if nodes not in self._audits:
            rows, device = logits.shape[0], logits.device
            ratios = self._policy.audit_rule == "route"
            self._audits[nodes] = ops.empty_verification(rows, nodes, device, ratios=ratios)
        extra: dict[str, Any] = {}
        if self._policy.audit_rule == "route":
            extra = {"accept_threshold": config.audit_threshold, "escalate_threshold": 0.0}
        if self.slim_rows is not None:
            extra["draft_probs"] = self.slim_rows[:, :nodes]
        self._call(
            state.chain_ids[:, :nodes],
            logits,
            rule=self._policy.audit_rule,
            parents=state.chain_parents[:, :nodes],
            num_nodes=state.chain_counts,
            allowed=self._allowed(state.chain_held[:, : nodes + 1]),
            out=self._audits[nodes],
            **extra,
        )
        return self._audits[nodes]

    def save_slim_rows(self, logits: torch.Tensor) -> None:
        """Keeps the distributions of the walk's tokens: the p of the audit, never recomputed.

        Args:
            logits: [B, 1 + N, V] of the slim verifier.
        """
        if self.slim_rows is None:
            return
        source, size = self._state.slim_source, logits.shape[-1]
        rows = take_rows(logits, source)
        held = self._state.block_held.gather(1, source)
        probs = ops.filtered_probs(rows, allowed=self._allowed(held), **self._filters)
        target = self._state.slim_target.view(-1)
        self.slim_rows.view(-1, size).index_copy_(0, target, probs.view(-1, size))

    def note_path(self, logits: torch.Tensor, column: int) -> None:
        """Unfiltered log-probabilities of the slim walk's path, for the overshoot.

        Args:
            logits: [B, 1 + N, V] of the slim verifier (column 0) or the full model (column 1).
            column: where they go.
        """
        state, size = self._state, logits.shape[-1]
        if state.tree.num_nodes == 0:
            return
        path = state.slim.path.clamp(min=0).to(torch.int64)
        rows = torch.nn.functional.pad(path[:, :-1] + 1, (1, 0))
        values = take_rows(logits, rows).float()
        if state.config.temperature > 0.0:
            values = values / state.config.temperature
        tokens = state.draft_ids.gather(1, path).clamp(0, size - 1)
        found = torch.log_softmax(values, -1).gather(2, tokens[:, :, None])
        state.path_logprobs[:, :, column] = found[:, :, 0]
