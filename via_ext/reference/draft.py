# SPDX-License-Identifier: Apache-2.0
"""What one request brings to `verify`: its tree, its logits rows, its draft distributions."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from via_ext.reference.filters import Filters, Row, read_row
from via_ext.reference.philox import PURPOSE_COIN, PURPOSE_FINAL_DRAW, philox_uniform
from via_ext.reference.router import RowRouter

STATUS_NAN = 1
STATUS_TOKEN_ID = 2
STATUS_NO_MASS = 4
STATUS_TREE = 8
STATUS_PARAMETER = 16

ROOT = -1
NO_NODE = -1


@dataclass(frozen=True)
class Thresholds:
    """Route thresholds of one batch row; above 1 they mean never accept, always escalate."""

    accept: float
    escalate: float
    draft: float | None

    @property
    def are_valid(self) -> bool:
        """False for NaN, negative values and the wrong order."""
        ordered = 0.0 <= self.escalate <= self.accept
        return ordered and (self.draft is None or self.draft >= 0.0)


@dataclass(frozen=True)
class Coins:
    """Uniforms of one request: given ones, or Philox of (seed, position).

    Among given uniforms the final draw is the last, column N. From a seed it has a purpose of its
    own and column 0: the width N is a matter of the batch, and padding a request must change
    nothing.

    Attributes:
        given: N + 1 uniforms, or None.
        seed: Philox key.
        position: number of the verify call.
    """

    given: list[float] | None
    seed: int
    position: int

    def of(self, column: int) -> float:
        """The acceptance coin of a column."""
        if self.given is not None:
            return _into_unit_interval(self.given[column])
        return philox_uniform(self.seed, self.position, column, PURPOSE_COIN)

    def final(self) -> float:
        """The uniform of the final draw."""
        if self.given is not None:
            return _into_unit_interval(self.given[-1])
        return philox_uniform(self.seed, self.position, 0, PURPOSE_FINAL_DRAW)


def _into_unit_interval(uniform: float) -> float:
    """NaN and negatives count as 0, values from 1 on as the largest float32 below 1."""
    return min(uniform, 1.0 - 2.0**-24) if uniform > 0.0 else 0.0


@dataclass(frozen=True)
class DraftRows:
    """The distributions one request's tokens were drawn from.

    Attributes:
        values: [N, V_draft] logits (softmax of them as they are) or probabilities (used as they
            are; what is not positive counts as 0).
        are_logits: which of the two.
        id_map: [V_draft] verifier id of each column; columns mapped outside the vocabulary lose
            their mass, columns mapped to one id add up. None = identity.
        vocab_size: V.
    """

    values: Tensor
    are_logits: bool
    id_map: Tensor | None
    vocab_size: int

    def row(self, node: int, only: int | None = None) -> tuple[Tensor, int]:
        """[V] float64 and status bits: NaN, or columns outside the vocabulary.

        Among probabilities a NaN counts where it is used: `only` tells that no other token's
        probability matters. Logits without any finite value give all zeros.
        """
        values = self.values[node].double().cpu()
        ids = torch.arange(len(values)) if self.id_map is None else self.id_map.long().cpu()
        inside = (ids >= 0) & (ids < self.vocab_size)
        status = 0 if inside.all() else STATUS_TOKEN_ID
        used = torch.ones_like(inside) if only is None or self.are_logits else ids == only
        if values[used].isnan().any():
            status |= STATUS_NAN
        if self.are_logits:
            row = read_row(values)
            probs = row.logits.softmax(0) if row.has_mass else torch.zeros_like(values)
        else:
            probs = values.nan_to_num(nan=0.0, posinf=math.inf).clamp(min=0.0)
        total = torch.zeros(self.vocab_size, dtype=torch.float64)
        return total.index_add(0, ids[inside], probs[inside]), status


@dataclass
class Request:
    """One batch row of a verify call. `status` collects the bits as they are found.

    Attributes:
        logits: [N + 1, V]; row 0 follows the root, row i + 1 follows node i.
        allowed: [N + 1, ceil(V/32)] int32 grammar words, or None.
        tokens: token of each of the request's own nodes.
        parents: parent of each node, -1 = root.
        filters: sampling filters.
        thresholds: route thresholds.
        draft: what the tokens were drawn from; None for one-hot drafts.
        coins: its uniforms.
        router: takes the place of the thresholds; None = they decide.
        scores: the drafter's two numbers for each node, or None.
        status: bit flags.
        live: per node: its id and those of all its ancestors are inside the vocabulary. Any other
            node counts as absent: it cannot be reached, and the row that follows its parent is not
            read for its sake.
    """

    logits: Tensor
    allowed: Tensor | None
    tokens: list[int]
    parents: list[int]
    filters: Filters
    thresholds: Thresholds
    draft: DraftRows | None
    coins: Coins
    router: RowRouter | None = None
    scores: list[list[float]] | None = None
    status: int = 0
    live: list[bool] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Checks tree, ids and parameters."""
        size = self.logits.shape[-1]
        if any(not -1 <= parent < node for node, parent in enumerate(self.parents)):
            self.status |= STATUS_TREE
            self.tokens = []
        for node, token in enumerate(self.tokens):
            if token != NO_NODE and not 0 <= token < size:
                self.status |= STATUS_TOKEN_ID
            parent = self.parents[node]
            self.live.append(0 <= token < size and (parent == ROOT or self.live[parent]))
        router_is_valid = self.router is None or self.router.is_valid
        if not (self.filters.are_valid and self.thresholds.are_valid and router_is_valid):
            # The row is greedy and nothing (more) is accepted.
            self.status |= STATUS_PARAMETER
            self.filters = Filters()
            self.thresholds = Thresholds(accept=1.0, escalate=0.0, draft=None)
            self.router = None

    def live_under(self, parent: int) -> list[int]:
        """Live nodes under a node or the root, in node order."""
        return [
            node for node, live in enumerate(self.live) if live and self.parents[node] == parent
        ]

    def children(self, parent: int) -> list[int]:
        """The nodes that may be accepted from a node or the root, in node order."""
        return [] if self.status & STATUS_PARAMETER else self.live_under(parent)

    @property
    def has_bonus(self) -> bool:
        """False if a leaf escalates whatever its row holds."""
        return self.thresholds.accept <= 1.0 if self.router is None else self.router.has_bonus

    def depth_under(self, parent: int) -> int:
        """Depth of the children of a node or the root; those of the root have 1."""
        depth = 1
        while parent != ROOT:
            parent = self.parents[parent]
            depth += 1
        return depth

    def row(self, index: int) -> Row:
        """A logits row under the grammar mask."""
        row = read_row(self.logits[index], None if self.allowed is None else self.allowed[index])
        if row.has_nan:
            self.status |= STATUS_NAN
        return row

    def draft_probability(self, node: int) -> float:
        """The probability a node's token was drawn with."""
        assert self.draft is not None
        probs, status = self.draft.row(node, only=self.tokens[node])
        self.status |= status
        return float(probs[self.tokens[node]])

    def draft_row(self, node: int) -> Tensor:
        """[V] float64: the distribution a node's token was drawn from."""
        assert self.draft is not None
        probs, status = self.draft.row(node)
        self.status |= status
        return probs
