# SPDX-License-Identifier: Apache-2.0
"""What a step's CUDA graphs record: passes, verify calls and bookkeeping, without the host."""

from __future__ import annotations

import torch

from via_ext.engines.device_passes import DevicePasses
from via_ext.engines.device_state import DeviceState
from via_ext.engines.device_verify import DeviceVerify
from via_ext.engines.policy import Policy
from via_ext.models.tree_pass import take_rows

# Full passes are recorded for these numbers of tokens in front of the draft.
LEAD_BUCKETS = (2, 4, 8, 16, 32, 64, 128)


class DeviceStages:
    """The bodies that a session runs, in this order: full; or slim, then tail if a row escalates.

    Attributes:
        moves: True if accepted cache rows may have to be moved: not for chains.
    """

    def __init__(
        self,
        state: DeviceState,
        passes: DevicePasses,
        verify: DeviceVerify,
        policy: Policy,
        *,
        has_slim: bool,
        moves: bool,
    ) -> None:
        """Keeps what the bodies work on."""
        self._state = state
        self._passes = passes
        self._verify = verify
        self._policy = policy
        self._notes_path = has_slim and not policy.audits
        self.moves = moves

    def tail_width(self, lead: int) -> int:
        """Tokens per row of the full pass that is recorded for `lead` tokens before the draft."""
        bucket = next(size for size in LEAD_BUCKETS if size >= lead)
        return min(bucket + self._state.tree.num_nodes + 1, self._state.tail_width)

    def full(self) -> None:
        """Two tiers: one pass, one call."""
        self._state.run("begin")
        self._verify.draft(self._passes.full(), self._policy.full_rule, self._state.full)
        self._state.run("full")
        self._compact()

    def slim(self) -> None:
        """The slim verifier's part of a step, up to the words that say who escalates."""
        self._state.run("begin")
        logits = self._passes.slim()
        self._verify.draft(logits, self._policy.slim_rule, self._state.slim)
        self._state.run("slim")
        self._verify.save_slim_rows(logits)
        if self._notes_path:
            self._verify.note_path(logits, 0)
        self._compact(hidden=True)

    def tail(self, width: int, prefix: bool) -> None:
        """The full model's part of a step whose widest row has `width` tokens."""
        state = self._state
        if prefix:
            self._passes.prefix()
        rows = None if self._policy.audits else state.draft_rows
        logits = self._passes.tail(width, rows)
        if state.audit == "greedy":
            most = state.chain_ids.shape[1] + 1  # the pass may have a spare row
            state.run("greedy", self._verify.audit(logits[:, :most]))
        else:
            if state.audit == "chain":
                state.run("audit", self._verify.audit(self._audit_rows(logits)))
                logits = take_rows(logits, state.draft_rows)
            if self._notes_path:
                self._verify.note_path(logits, 1)
            self._verify.draft(logits, self._policy.full_rule, state.full, state.slim)
            state.run("full")
        self._compact()

    def _compact(self, *, hidden: bool = False) -> None:
        """Moves the cache rows of accepted tree paths into place; chains lie there already."""
        if self.moves:
            self._passes.compact(hidden=hidden)

    def _audit_rows(self, logits: torch.Tensor) -> torch.Tensor:
        """Rows of the provisional tokens in chain order, [B, C + 1, V]."""
        count = min(logits.shape[1], self._state.config.max_backlog + 1)
        if not self.moves:
            return logits[:, :count]  # an accepted chain lies in the pass as it is judged
        return take_rows(logits, self._state.chain_rows[:, :count])
