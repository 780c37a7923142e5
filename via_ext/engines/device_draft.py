# SPDX-License-Identifier: Apache-2.0
"""Proposals for a run on the device: from a drafter there, from any other by way of the host."""

from __future__ import annotations

from typing import Any

import torch

from via_ext.drafters import Drafter
from via_ext.drafters.device import DeviceDrafter
from via_ext.engines.device_state import DeviceState
from via_ext.engines.device_verify import DeviceVerify
from via_ext.engines.draft import count_passes, split_drafts, tell_drafter
from via_ext.engines.graphs import GraphRunner
from via_ext.engines.mirror import Mirror
from via_ext.models.arena import KVArena
from via_ext.prompts import pad_prompts


class NoProposer:
    """Decoding without drafts.

    Attributes:
        on_host: True if a proposal needs the tokens on the host.
    """

    on_host = False

    def __init__(self, state: DeviceState) -> None:
        """Proposes no node, ever."""
        state.draft_counts.zero_()

    def passes(self, steps: int) -> int:
        """The drafter's forward passes in a run of so many steps, all requests counted."""
        return 0

    def prefill(self, mirror: Mirror) -> None:
        """Does nothing."""

    def propose(self, runner: GraphRunner) -> None:
        """Does nothing."""


class DeviceProposer:
    """A drafter on the device, drafting in one graph."""

    on_host = False

    def __init__(self, drafter: DeviceDrafter, state: DeviceState, verify: DeviceVerify) -> None:
        """Takes a drafter that was made for the state's rows and tree."""
        self._state = state
        self._drafter = drafter
        self._offsets = torch.arange(state.tree.num_nodes + 1, device=state.keys.device)
        verify.draft_probs = drafter.probs
        verify.draft_to_target = drafter.draft_to_target

    def passes(self, steps: int) -> int:
        """As many in every step as the tree has levels."""
        return steps * self._state.tree.max_depth

    def prefill(self, mirror: Mirror) -> None:
        """Gives the drafter the prompts."""
        lengths = self._state.lengths.to(torch.int64)
        self._drafter.prefill(self._state.tokens[:, : int(lengths.max())], lengths)

    def propose(self, runner: GraphRunner) -> None:
        """Tells the drafter what the last step emitted, then drafts."""
        runner.run("draft", self._draft)

    def _draft(self) -> None:
        state = self._state
        kept = state.kept.to(torch.int64)
        columns = (kept[:, None] + self._offsets).clamp(max=state.capacity - 1)
        self._drafter.rollback(kept)
        self._drafter.commit(state.tokens.gather(1, columns), state.lengths - kept)
        self._drafter.draft(state.keys, state.steps)
        state.draft_ids.copy_(self._drafter.token_ids)


class HostProposer:
    """Any `Drafter`: tokens go to the host and drafts come back, every step."""

    on_host = True

    def __init__(self, drafter: Drafter, state: DeviceState, verify: DeviceVerify) -> None:
        """Takes the drafter; it gets the prompts with `prefill`."""
        self._drafter = drafter
        self._state = state
        self._verify = verify
        self._probs: torch.Tensor | None = None
        self._map: torch.Tensor | None = None
        self._passes = 0

    def passes(self, steps: int) -> int:
        """What the drafter counted."""
        return self._passes

    def prefill(self, mirror: Mirror) -> None:
        """Hands the prompts to the drafter."""
        self._mirror = mirror
        prompts = [request.tokens for request in mirror.read()]
        ids, mask = pad_prompts(prompts)
        device = self._state.keys.device
        self._drafter.prefill(ids.to(device), mask.to(device))
        self._lengths = [len(tokens) for tokens in prompts]
        self._first = True
        self._passes = 0

    def propose(self, runner: GraphRunner) -> None:
        """Commits what the last step emitted and copies the next drafts to the device."""
        state = self._state
        requests = self._mirror.read()
        if not self._first:
            self._commit([request.tokens for request in requests])
        self._first = False
        limits = [
            0 if r.finished else state.config.max_new_tokens - r.generated - 1 for r in requests
        ]
        state.draft_counts.zero_()
        if max(limits) <= 0 or state.tree.num_nodes == 0:
            return
        proposal = self._drafter.propose(state.tree, state.keys, state.steps)
        drafts = split_drafts(proposal, state.tree, limits, state.tree.num_nodes)
        self._passes += count_passes(self._drafter, state.tree, limits)
        for row, draft in enumerate(drafts):
            count = len(draft.tokens)
            state.draft_counts[row] = count
            state.draft_ids[row, :count] = torch.tensor(draft.tokens)
            state.draft_parents[row, :count] = torch.tensor(draft.tree.parents, dtype=torch.int32)
        self._set_probs(proposal.probs, proposal.draft_to_target)

    def _set_probs(self, probs: torch.Tensor | None, id_map: torch.Tensor | None) -> None:
        """Copies both to where the recorded calls read them; the drafter's may lie anywhere."""
        self._verify.draft_probs = self._verify.draft_to_target = None
        if probs is None:
            return
        device = self._state.keys.device
        rows, count, size = probs.shape
        if self._probs is None:
            shape = (rows, self._state.tree.num_nodes, size)
            self._probs = torch.zeros(shape, dtype=torch.float32, device=device)
        self._probs[:, :count] = probs
        self._verify.draft_probs = self._probs
        if id_map is None:
            return
        if self._map is None:
            self._map = torch.zeros(id_map.shape, dtype=torch.int64, device=device)
        self._map.copy_(id_map)
        self._verify.draft_to_target = self._map

    def _commit(self, sequences: list[list[int]]) -> None:
        device, kept = self._state.keys.device, self._state.kept.tolist()
        tell_drafter(self._drafter, self._lengths, kept, sequences, device)
        self._lengths = [len(tokens) for tokens in sequences]


def make_proposer(
    drafter: Any, state: DeviceState, verify: DeviceVerify, arena: KVArena
) -> NoProposer | DeviceProposer | HostProposer:
    """The proposer for a drafter."""
    if drafter is None or state.tree.num_nodes == 0:
        return NoProposer(state)
    make = getattr(drafter, "on_device", None)
    if make is None:
        return HostProposer(drafter, state, verify)
    rows, capacity = state.keys.shape[0], state.capacity - state.tree.num_nodes
    return DeviceProposer(make(state.tree, rows, capacity, arena), state, verify)
