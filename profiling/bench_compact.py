# SPDX-License-Identifier: Apache-2.0
"""Cases of `compact_kv`: every second node of a draft is accepted, in all caches of a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from bench_cases import BATCHES, DTYPES
from eager_ops import eager_compact
from torch import Tensor

from via_ext import ops

LAYERS, HEADS, HEAD_SIZE, CONTEXT = 32, 8, 128, 256  # as in an 8B model; a short context


@dataclass(frozen=True)
class CompactCase:
    """One call: K and V of all layers, [B, S, H, D]."""

    batch: int
    nodes: int
    layers: int = LAYERS
    dtype: str = "bfloat16"
    rule: str = ""

    @property
    def filters(self) -> dict[str, Any]:
        """None."""
        return {}

    @property
    def moved(self) -> int:
        """Rows that move per request and cache."""
        return self.nodes // 2

    @property
    def floor_bytes(self) -> int:
        """Every moved row is read once and written once."""
        row = HEADS * HEAD_SIZE * DTYPES[self.dtype].itemsize
        return 2 * self.batch * self.moved * 2 * self.layers * row

    def goal_us(self, bytes_per_us: float) -> float:
        """Time that a GPU with this copy bandwidth is to need at most."""
        return 1.5 * self.floor_bytes / bytes_per_us + 4.0

    def columns(self) -> dict[str, Any]:
        """What the case is, for a CSV."""
        sizes = {"B": self.batch, "N": self.nodes, "V": "", "dtype": self.dtype}
        extra = {"right": self.moved, "filters": f"caches={2 * self.layers}"}
        return {"rule": "compact_kv", "drafts": "path", **sizes, **extra}


@dataclass
class CompactInputs:
    """Tensors of one case."""

    case: CompactCase
    arguments: tuple[list[Tensor], Tensor, Tensor, Tensor]


def build(case: CompactCase, device: str) -> CompactInputs:
    """Caches of noise, and the path 1, 3, 5, ..."""
    shape = (2 * case.layers, case.batch, CONTEXT + case.nodes + 8, HEADS, HEAD_SIZE)
    arena = torch.empty(shape, dtype=DTYPES[case.dtype], device=device).normal_()
    path = torch.full((case.batch, case.nodes), -1, dtype=torch.int32, device=device)
    path[:, : case.moved] = torch.arange(1, 2 * case.moved, 2, dtype=torch.int32, device=device)
    counts = torch.full((case.batch,), case.moved, dtype=torch.int32, device=device)
    contexts = torch.full((case.batch,), CONTEXT, dtype=torch.int64, device=device)
    return CompactInputs(case, (list(arena.unbind(0)), contexts, path, counts))


def ours(inputs: CompactInputs) -> Any:
    """`ops.compact_kv`."""
    return lambda: ops.compact_kv(*inputs.arguments)


def eager(inputs: CompactInputs) -> Any:
    """One gather and one scatter per cache."""
    return lambda: eager_compact(*inputs.arguments)


def cases() -> list[CompactCase]:
    """From one request to many; a chain's and a tree's number of nodes."""
    return [CompactCase(batch, nodes) for batch in BATCHES for nodes in (8, 64)]
