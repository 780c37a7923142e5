# SPDX-License-Identifier: Apache-2.0
"""The walk over one request's drafted tree, from the root or from where an escalation stopped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from via_ext.reference import accept, route
from via_ext.reference.draft import ROOT, STATUS_NO_MASS, STATUS_TREE, Request
from via_ext.reference.filters import Row, draw, log_probability, probabilities


class Verification(NamedTuple):
    """Results of `verify`; every element is written.

    Attributes:
        ratios: [B, N] float32; None for rules greedy and sample.
        tiers: [B, N] uint8: 0 accept, 1 regenerate, 2 escalate, 255 no node; None likewise.
        path: [B, N] int32, accepted nodes in order, padded -1.
        num_accepted: [B] int32.
        next_token: [B] int64, -1 when escalating.
        next_row: [B] int32, the logits row where the walk ended.
        escalate: [B] bool.
        logprobs: [B, N + 1] float32, of the accepted tokens, then of the next one; padded 0.
        status: [B] int32 bit flags: 1 NaN in a used row, 2 token id outside the vocabulary, 4 no
            token left with positive mass, 8 malformed tree, 16 parameter out of range.
    """

    ratios: Tensor | None
    tiers: Tensor | None
    path: Tensor
    num_accepted: Tensor
    next_token: Tensor
    next_row: Tensor
    escalate: Tensor
    logprobs: Tensor
    status: Tensor


@dataclass
class Walk:
    """The walk of one request: where it stands, and in the end what it decided."""

    request: Request
    path: list[int]
    logprobs: list[float]
    next_token: int = -1
    escalate: bool = False

    @property
    def node(self) -> int:
        """Last accepted node, -1 = root; the row that follows it is node + 1."""
        return self.path[-1] if self.path else ROOT

    def accept(self, node: int, row: Row) -> None:
        """Steps to a child."""
        token = self.request.tokens[node]
        self.path.append(node)
        self.logprobs.append(log_probability(row, self.request.filters, token))

    def emit(self, token: int, row: Row) -> None:
        """Ends the walk with the next token."""
        self.next_token = token
        self.logprobs.append(log_probability(row, self.request.filters, token))


def run(walk: Walk, rule: str, ratios: list[float], tiers: list[int]) -> None:
    """Walks from where `walk` stands until a token is emitted or the row escalates."""
    request = walk.request
    while True:
        children = request.children(walk.node)
        if rule == "route" and not children and not request.has_bonus:
            # Thresholds above 1 mean the full model everywhere, also where nothing was drafted.
            walk.escalate = True
            return None
        row = request.row(walk.node + 1)
        if not row.has_mass:
            # Ends here under every rule; a child of probability zero is never accepted.
            request.status |= STATUS_NO_MASS
            return walk.emit(row.fallback, row)
        weights = None  # of the final draw; None = the row's own distribution
        if rule == "route":
            node, walk.escalate = _route_step(walk, row, children, ratios, tiers)
        elif rule == "greedy" or request.filters.temperature == 0.0:
            # Temperature 0 needs no draft distribution: sample is greedy whatever they were.
            node = accept.greedy(row.argmax, children, request.tokens)
            if node is None:
                return walk.emit(row.argmax, row)
        elif request.draft is None:
            probs, coin = probabilities(row, request.filters), request.coins.of(walk.node + 1)
            node, weights = accept.one_hot(probs, children, request.tokens, coin)
        else:
            probs = probabilities(row, request.filters)
            draft = request.draft_probability, request.draft_row
            node, weights = accept.drawn(probs, children, request.tokens, *draft, request.coins.of)
        if walk.escalate:
            return None
        if node is None:
            weights = probabilities(row, request.filters) if weights is None else weights
            return walk.emit(draw(weights, request.coins.final()), row)
        walk.accept(node, row)


def _route_step(
    walk: Walk, row: Row, children: list[int], ratios: list[float], tiers: list[int]
) -> tuple[int | None, bool]:
    """The accepted child or None (regenerate, or the bonus token at a leaf), and: escalate."""
    if not children:
        return None, not route.bonus_passes(walk.request, walk.node, row)
    node = route.candidate(children, ratios)
    return (node if tiers[node] == route.ACCEPT else None), tiers[node] == route.ESCALATE


def resumed_walk(request: Request, resume: Verification, b: int) -> Walk:
    """The walk of an escalated row, at its last accepted node.

    A path that is no path of live nodes from the root cannot come from an earlier call on this
    draft: it is reported as a malformed tree and the row continues at the root without nodes.
    """
    count = int(resume.num_accepted[b])
    path = resume.path[b, : max(count, 0)].tolist()
    parent = ROOT
    for node in path:
        if node not in request.live_under(parent):
            break
        parent = node
    else:
        if count == len(path):
            return Walk(request, path, resume.logprobs[b, :count].tolist())
    request.status |= STATUS_TREE
    request.live = []
    return Walk(request, [], [])
