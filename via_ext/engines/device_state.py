# SPDX-License-Identifier: Apache-2.0
"""The arrays of a decoding run on the device, and the stages that work on them.

Names and shapes are those of csrc/include/via/step.h. Every address stays while the run lasts, so
that a step can be recorded in CUDA graphs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from via_ext import ops
from via_ext.config import MAX_PASS_TOKENS, ViaConfig
from via_ext.engines.policy import Policy
from via_ext.engines.request import row_key
from via_ext.ops._common import _C
from via_ext.tree import Tree

if TYPE_CHECKING:
    from torch import Tensor

# Columns of `counters` and `words`.
COUNTERS = (
    *("steps", "slim_passes", "full_passes", "drafted", "examined", "kept"),
    *("accepted", "regenerated", "escalated"),
)
WORDS = ("full", "prefix", "lead", "finished", "length", "confirmed")

# Capacities are multiples of this, so that a later run with longer prompts finds room.
CAPACITY_STEP = 256

_INT32, _INT64, _BOOL, _FLOAT = torch.int32, torch.int64, torch.bool, torch.float32


class DeviceState:
    """State of a batch of requests and the inputs and results of a step's calls.

    Attributes:
        arrays: by name, as in `StepParams`.
        keys: [B] int64, Philox keys of the requests.
        slim: result of the slim verifier's `verify`, resumed from by the full model's.
        full: result of the full model's `verify`.
        tree: shape of a full proposal.
        tail_width: most tokens of a full pass.
        audit: "none", "chain" or "greedy", see `StepAudit`.
    """

    def __init__(
        self,
        config: ViaConfig,
        policy: Policy,
        prompts: list[list[int]],
        seed: int,
        eos_token_ids: tuple[int, ...],
        device: torch.device,
        *,
        has_slim: bool,
    ) -> None:
        """Allocates everything and enters the prompts.

        Args:
            config: the run's configuration.
            policy: rules of its mode.
            prompts: token ids per row, at least one each.
            seed: root of every random stream.
            eos_token_ids: resolved end-of-sequence ids.
            device: of the model.
            has_slim: True if a slim verifier decides first.
        """
        self.config = config
        self.tree = config.tree or Tree.chain(config.num_draft_tokens)
        self.audit = "none"
        if has_slim and policy.audits:
            self.audit = "greedy" if policy.audit_rule == "greedy" else "chain"
        self._device = device
        rows, nodes = len(prompts), self.tree.num_nodes
        # A final token of the slim verifier's own has no row after it: one spare row stands there.
        self.tail_width = min(config.max_backlog + nodes + 2, MAX_PASS_TOKENS)
        needed = self._needed(prompts)
        self.capacity = (needed + CAPACITY_STEP - 1) // CAPACITY_STEP * CAPACITY_STEP
        self.keys = torch.zeros(rows, dtype=_INT64, device=device)
        self.arrays: dict[str, Tensor] = {}
        self._allocate_requests(rows, eos_token_ids)
        self._allocate_block(rows, nodes)
        self._allocate_tail(rows, nodes, config.max_backlog)
        ratios = has_slim and policy.slim_rule == "route"
        self.slim = ops.empty_verification(rows, nodes, device, ratios=ratios)
        self.full = ops.empty_verification(rows, nodes, device, ratios=ratios)
        self.enter(prompts, seed)
        self._step = _C.Step(
            self.arrays,
            tuple(self.slim),
            tuple(self.full),
            max_backlog=config.max_backlog,
            max_new_tokens=config.max_new_tokens,
            min_new_tokens=config.min_new_tokens,
            has_slim=has_slim,
            audit=self.audit,
        )

    def __getattr__(self, name: str) -> Tensor:
        """An array by its name."""
        arrays: dict[str, Tensor] = self.__dict__.get("arrays", {})
        if name not in arrays:
            raise AttributeError(name)
        return arrays[name]

    def run(self, stage: str, audit_result: ops.Verification | None = None) -> None:
        """Runs a stage of csrc/core/step_*.h on the current stream, without synchronisation."""
        self._step.run(stage, None if audit_result is None else tuple(audit_result))

    def _add(self, dtype: torch.dtype, shape: tuple[int, ...], *names: str, fill: Any = 0) -> None:
        for name in names:
            self.arrays[name] = torch.full(shape, fill, dtype=dtype, device=self._device)

    def _allocate_requests(self, rows: int, eos_token_ids: tuple[int, ...]) -> None:
        self.arrays["eos_token_ids"] = torch.tensor(
            eos_token_ids, dtype=_INT64, device=self._device
        )
        self._add(_INT64, (rows, self.capacity), "tokens")
        self._add(torch.uint8, (rows, self.capacity), "tiers", fill=255)
        self._add(_FLOAT, (rows, self.capacity), "logprobs")
        self._add(_FLOAT, (rows, self.capacity), "overshoot", fill=-1.0)
        self._add(_INT32, (rows,), "prompt_lens", "lengths", "frontiers", "confirmed", "kept")
        self._add(_INT32, (rows,), "status")
        self._add(_BOOL, (rows,), "finished")
        self._add(_INT64, (rows,), "verify_calls", "steps")
        self._add(_INT64, (rows, len(COUNTERS)), "counters")
        self._add(_INT32, (rows, len(WORDS)), "words")

    def _allocate_block(self, rows: int, nodes: int) -> None:
        width = nodes + 1
        self._add(_INT64, (rows, nodes), "draft_ids", fill=-1)
        self._add(_INT32, (rows, nodes), "draft_parents", "move_path")
        self.arrays["draft_parents"][:] = torch.tensor(self.tree.parents, dtype=_INT32)
        self._add(_INT32, (rows,), "draft_counts", fill=nodes)
        self._add(_INT32, (rows,), "node_counts", "context_lens", "block_counts")
        self._add(_INT32, (rows,), "move_context", "move_counts")
        self._add(_INT32, (rows,), "hidden_context", "hidden_counts")
        self._add(_INT64, (rows, width), "block_ids", "hidden_index")
        self._add(_INT32, (rows, width), "block_parents", "block_depths")
        self._add(_BOOL, (rows, width), "block_held")
        self._add(_INT32, (rows, 4), "walk")
        self._add(_FLOAT, (rows, nodes, 2), "path_logprobs")

    def _allocate_tail(self, rows: int, nodes: int, max_backlog: int) -> None:
        width, chain = nodes + 1, max_backlog + nodes
        self._add(_INT64, (rows,), "own_token")
        self._add(_FLOAT, (rows,), "own_logprob")
        self._add(_INT64, (rows, width), "slim_source", "slim_target", "draft_rows")
        self._add(_INT32, (rows,), "tail_context", "tail_counts", "chain_counts")
        self._add(_INT32, (rows, self.tail_width), "tail_parents", "tail_depths")
        self._add(_INT64, (rows, chain), "chain_ids")
        self._add(_INT32, (rows, chain), "chain_parents")
        self._add(_INT64, (rows, chain + 1), "chain_rows")
        self._add(_BOOL, (rows, chain + 1), "chain_held")

    def _needed(self, prompts: list[list[int]]) -> int:
        """Positions per row: text, one draft and one token of room."""
        longest = max(map(len, prompts)) + self.config.max_new_tokens
        return longest + self.tree.num_nodes + 2

    def fits(self, prompts: list[list[int]]) -> bool:
        """True if another run, with these prompts, could use the same arrays."""
        return len(prompts) == self.keys.shape[0] and self._needed(prompts) <= self.capacity

    def enter(self, prompts: list[list[int]], seed: int) -> None:
        """Starts a run in these arrays.

        Args:
            prompts: token ids per row, for which `fits` holds.
            seed: root of every random stream.
        """
        arrays = self.arrays
        for name in ("tokens", "logprobs", "status", "finished"):
            arrays[name].zero_()
        for name in ("verify_calls", "steps", "counters", "words"):
            arrays[name].zero_()
        arrays["tiers"].fill_(255)
        arrays["overshoot"].fill_(-1.0)
        lengths = torch.tensor(list(map(len, prompts)), dtype=_INT32)
        for name in ("prompt_lens", "lengths", "confirmed", "kept"):
            arrays[name].copy_(lengths)
        arrays["frontiers"].copy_(lengths - 1)
        self.keys.copy_(torch.tensor([row_key(seed, row) for row in range(len(prompts))]))
        for row, tokens in enumerate(prompts):
            arrays["tokens"][row, : len(tokens)] = torch.tensor(tokens)
