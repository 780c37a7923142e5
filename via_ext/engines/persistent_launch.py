# SPDX-License-Identifier: Apache-2.0
"""The memory that launches of the persistent engine work in, and the launches of a run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from via_ext import ops
from via_ext.engines.device_passes import DevicePasses
from via_ext.engines.device_state import DeviceState
from via_ext.engines.device_verify import DeviceVerify
from via_ext.engines.persistent import PersistentEngine, device_bytes
from via_ext.engines.persistent_checks import MAX_TOKENS
from via_ext.engines.persistent_pack import CHUNK, rotary_tables
from via_ext.engines.policy import Policy, choose_policy
from via_ext.ops._common import _C


class PersistentLaunch:
    """Activation buffers, tables and work space of one session's launches.

    Attributes:
        buffers: by the field names of `Buffers` in csrc/include/via/persistent.h.
        blocks: of a launch.
    """

    def __init__(
        self,
        engine: PersistentEngine,
        state: DeviceState,
        passes: DevicePasses,
        verify: DeviceVerify,
        *,
        moves: bool,
    ) -> None:
        """Allocates everything that a step's shapes decide.

        Args:
            engine: the packed model.
            state: the run's arrays.
            passes: its cache and hidden rows.
            verify: rules, filters and the masks and rows that they need.
            moves: accepted cache rows may have to be moved.
        """
        self._engine = engine
        self._state = state
        self._verify = verify
        self._policy = choose_policy(state.config)
        self._moves = moves
        self._has_slim = engine.slim is not None
        rows = state.keys.shape[0]
        self.blocks = engine.blocks(rows)
        width = state.tail_width if self._has_slim else state.tree.num_nodes + 1
        self.buffers = self._allocate(rows * width, passes.hidden)
        self._tensors = self._shared(passes)
        self._audit = self._audit_result(rows)
        self._launches: dict[tuple[bool, bool], Any] = {}
        self._workspaces = [torch.zeros(0, dtype=torch.uint8, device=state.keys.device)]
        self.step(verify)

    def _allocate(self, rows: int, hidden: torch.Tensor | None) -> dict[str, torch.Tensor]:
        shape, like = self._engine.weights.shape, self._engine.weights.packed
        heads, kv_heads, size = shape["num_heads"], shape["num_kv_heads"], shape["head_dim"]
        inner, features = heads * size, shape["intermediate_size"]
        # Zeros: what pads rows to whole chunks stays so.
        half = {
            "normed": (rows, shape["hidden_size"]),
            "query": (rows, heads, size),
            "key": (rows, kv_heads, size),
            "value": (rows, kv_heads, size),
            "attended": (rows, inner + -inner % CHUNK),
            "features": (rows, features + -features % CHUNK),
        }
        single = {
            "square_sums": (self.blocks, MAX_TOKENS),
            "qkv": (rows, (heads + 2 * kv_heads) * size),
            "logits": (rows, shape["vocab_size"]),
        }
        buffers = {name: like.new_zeros(sizes) for name, sizes in half.items()}
        for name, sizes in single.items():
            buffers[name] = like.new_zeros(sizes, dtype=torch.float32)
        if hidden is not None:
            buffers["hidden"] = hidden[:, :, 0]
        return buffers

    def _shared(self, passes: DevicePasses) -> dict[str, torch.Tensor]:
        """The tensors besides the run's arrays, by the names that the native class reads."""
        weights, device = self._engine.weights, self._engine.weights.packed.device
        cosines, sines = rotary_tables(self._engine.target, self._state.capacity)
        layers, caches = _C.persistent_cache_tables(passes.arena.keys, passes.arena.values)
        tensors = {
            "packed": weights.packed,
            "vectors": weights.vectors,
            "cosines": cosines,
            "sines": sines,
            "phases": self._engine.phases,
            "control": self._engine.control,
            "layer_caches": device_bytes(layers, device),
            "cache_views": device_bytes(caches, device),
            "first_key_cache": passes.arena.keys[0],  # the others have its strides
            "seed": self._state.keys,
        }
        self._arena = passes.arena  # the tables hold addresses
        optional = {
            "embedding": weights.embedding,
            "held_words": self._verify.held_words,
            "slim_rows": self._verify.slim_rows,
            "stamps": self._engine.stamps,
        }
        given = {name: tensor for name, tensor in optional.items() if tensor is not None}
        return tensors | given | self.buffers

    def _audit_result(self, rows: int) -> ops.Verification | None:
        state = self._state
        if state.audit == "none":
            return None
        nodes = state.config.max_backlog
        if state.audit == "greedy":
            nodes += state.tree.num_nodes
        ratios = self._policy.audit_rule == "route"
        return ops.empty_verification(rows, nodes, state.keys.device, ratios=ratios)

    def _make(self, verify: DeviceVerify) -> Any:
        state, engine, config = self._state, self._engine, self._state.config
        tensors = dict(self._tensors)
        if verify.draft_probs is not None:
            tensors["draft_probs"] = verify.draft_probs
        if verify.draft_to_target is not None:
            tensors["draft_to_target"] = verify.draft_to_target
        settings = {
            "max_backlog": config.max_backlog,
            "max_new_tokens": config.max_new_tokens,
            "min_new_tokens": config.min_new_tokens,
            "has_slim": self._has_slim,
            "audit": state.audit,
            "notes_path": self._has_slim and not self._policy.audits,
            "moves": self._moves,
            "temperature": config.temperature,
            "top_k": config.top_k,
            "top_p": config.top_p,
            "min_p": config.min_p,
            "rules": draft_rules(self._policy, state, uses_probs=verify.draft_probs is not None),
            "window": engine.window,
            "gates": engine.gates,
            "passes": engine.passes,
            "grid": self.blocks,
            "watchdog_ns": int(engine.watchdog_s * 1e9),
            "missing_block": engine.missing_block,
        }
        audit = None if self._audit is None else tuple(self._audit)
        results = (tuple(state.slim), audit, tuple(state.full))
        return _C.Persistent(engine.weights.shape, state.arrays, tensors, *results, settings)

    def step(self, verify: DeviceVerify) -> Callable[[], None]:
        """What queues one step on the current stream, for the proposal that `verify` holds.

        It keeps the tensors of the launch alive, and nothing else of the session.
        """
        key = (verify.draft_probs is not None, verify.draft_to_target is not None)
        if key not in self._launches:
            launch = self._make(verify)
            if launch.workspace_bytes > self._workspaces[-1].numel():
                larger = self._workspaces[-1].new_zeros(launch.workspace_bytes)
                self._workspaces.append(larger)
            launch.set_workspace(self._workspaces[-1])
            self._launches[key] = launch
        step: Callable[[], None] = self._launches[key].step
        return step

    def clear(self) -> None:
        """Makes the work space what it was before the first launch."""
        for workspace in self._workspaces:
            workspace.zero_()

    def memory(self) -> dict[str, int]:
        """Bytes of buffers, work space included, and of rotary tables."""
        buffers = sum(tensor.nbytes for tensor in self.buffers.values())
        tables = self._tensors["cosines"].nbytes + self._tensors["sines"].nbytes
        spaces = sum(workspace.nbytes for workspace in self._workspaces)
        return {"buffers": buffers + spaces, "tables": tables}


def draft_rules(policy: Policy, state: DeviceState, *, uses_probs: bool) -> dict[str, Any]:
    """Rule, thresholds and use of the drafter's distribution of the three verify calls.

    Args:
        policy: rules of the run's mode.
        state: gives the configuration.
        uses_probs: the drafter says what it drew from.
    """
    config = state.config

    def draft(rule: str) -> dict[str, Any]:
        found: dict[str, Any] = {"rule": rule, "uses_probs": uses_probs and rule == "sample"}
        if rule == "route":
            found["accept_threshold"] = config.accept_threshold
            found["escalate_threshold"] = config.escalate_threshold
            if config.draft_threshold is not None and uses_probs:
                found |= {"uses_probs": True, "draft_threshold": config.draft_threshold}
        return found

    rules = {"slim": draft(policy.slim_rule), "full": draft(policy.full_rule)}
    if state.audit != "none":
        assert policy.audit_rule is not None
        rules["audit"] = {"rule": policy.audit_rule, "uses_probs": False}
        if policy.audit_rule == "route":
            thresholds = {"accept_threshold": config.audit_threshold, "escalate_threshold": 0.0}
            rules["audit"] |= thresholds
    return rules
