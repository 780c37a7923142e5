# SPDX-License-Identifier: Apache-2.0
"""The session's verify calls: one request at a time, each with a random stream of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from via_ext import ops
from via_ext.config import ViaConfig
from via_ext.engines.calibrated import Calibrated
from via_ext.engines.draft import Draft
from via_ext.engines.hooks import RowHooks
from via_ext.engines.request import Request, StopRules
from via_ext.engines.stepwise import verify_by_row
from via_ext.tree import Tree

if TYPE_CHECKING:
    from via_ext.engines.slim import SlimWalk

TIER_ACCEPTED = 0
TIER_SLIM = 1
TIER_FULL = 2


class VerifyCalls:
    """Calls `ops.verify` with a configuration's filters, thresholds, masks and seeds.

    Attributes:
        config: the run's configuration.
        stop: its end rules.
        filters: temperature, top_k, top_p and min_p, as keyword arguments of the ops.
        hooks: a caller's own code, per batch row; None = there is none.
        status: per batch row, the or of all status bits so far.
    """

    def __init__(
        self,
        config: ViaConfig,
        stop: StopRules,
        rows: int,
        hooks: list[RowHooks] | None = None,
        calibrated: Calibrated | None = None,
    ) -> None:
        """Keeps the arguments that every call shares."""
        self._calibrated = calibrated
        self.config = config
        self.stop = stop
        self.hooks = hooks
        self.status = [0] * rows
        self.filters: dict[str, Any] = {
            "temperature": config.temperature,
            "top_k": config.top_k,
            "top_p": config.top_p,
            "min_p": config.min_p,
        }

    def chain(
        self,
        request: Request,
        tokens: list[int],
        logits: torch.Tensor,
        rule: str,
        row_depths: list[int],
        *,
        provisional: torch.Tensor | None = None,
        bonus: bool = True,
        **extra: Any,
    ) -> ops.Verification:
        """Judges `tokens`, by default as a chain.

        Args:
            request: gives the Philox key; its call counter is raised.
            tokens: N node tokens.
            logits: [1, N + 1, V].
            rule: rule of `ops.verify`.
            row_depths: depth of each logits row below the root, negative in the backlog.
            provisional: see `slim_scores`; given for slim logits.
            bonus: False: nothing is wanted of a row that no node follows.
            extra: further arguments of `ops.verify`.
        """
        if not self.reads_rows(request):
            return self.call(request, tokens, logits, rule, row_depths, **extra)
        assert self.hooks is not None
        hooks = self.hooks[request.row]
        extra |= {"provisional": provisional, "bonus": bonus}
        return verify_by_row(self, hooks, request, tokens, logits, rule, row_depths, **extra)

    def reads_rows(self, request: Request) -> bool:
        """True if a caller's code has to see every row of the request."""
        return self.hooks is not None and self.hooks[request.row].reads_rows

    def slim_scores(self, request: Request, logits: torch.Tensor) -> torch.Tensor:
        """What slim logits [1, 1 + N, V] are judged by: themselves, or room for processed rows."""
        return logits.to(torch.float32, copy=True) if self.reads_rows(request) else logits

    def call(
        self,
        request: Request,
        tokens: list[int],
        logits: torch.Tensor,
        rule: str,
        row_depths: list[int],
        **extra: Any,
    ) -> ops.Verification:
        """One call of `ops.verify`; arguments as in `chain`."""
        if self.config.temperature > 0.0:
            extra["seed"] = torch.tensor([request.key])
            extra["position"] = torch.tensor([request.verify_calls])
        request.verify_calls += 1
        result = ops.verify(
            torch.tensor(tokens, dtype=torch.int64).view(1, -1),
            logits,
            rule=rule,
            allowed=self.stop.allowed(request, row_depths),
            **self.filters,
            **extra,
        )
        self.status[request.row] |= int(result.status[0])
        return result

    def draft(
        self,
        request: Request,
        draft: Draft,
        logits: torch.Tensor,
        rule: str,
        resume: ops.Verification | None = None,
        provisional: torch.Tensor | None = None,
    ) -> ops.Verification:
        """Judges draft nodes; row 0 of `logits` [1, 1 + N, V] follows the root."""
        config = self.config
        extra: dict[str, Any] = {
            "parents": draft.parents,
            "resume": resume,
            "provisional": provisional,
        }
        calibrated = self._calibrated
        if rule == "route" and calibrated is not None:
            extra["router"] = calibrated.router
            extra["draft_scores"] = draft.scores
        elif rule == "route":
            extra["accept_threshold"] = config.accept_threshold
            extra["escalate_threshold"] = config.escalate_threshold
            if config.draft_threshold is not None and draft.probs is not None:
                extra["draft_threshold"] = config.draft_threshold
                extra["draft_probs"] = draft.probs
                extra["draft_to_target"] = draft.draft_to_target
        elif rule == "sample":
            extra["draft_probs"] = draft.probs
            extra["draft_to_target"] = draft.draft_to_target
        return self.chain(request, draft.tokens, logits, rule, [0, *draft.tree.depths], **extra)

    def full_ratio(
        self, request: Request, draft: Draft, logits: torch.Tensor, walk: SlimWalk | None
    ) -> ops.Verification:
        """Judges draft nodes by the full model's own ratios, below what a slim walk accepted.

        Args:
            request: as in `chain`.
            draft: the nodes.
            logits: [1, 1 + N, V] of the full model.
            walk: its path stands; None = no slim pass.
        """
        assert self._calibrated is not None
        extra: dict[str, Any] = {"parents": draft.parents}
        if walk is not None and self.reads_rows(request):
            extra["resume"] = walk.verification
        elif walk is not None and walk.path:
            # Rule "route" has no resume: rows of the path get a ratio of 1 for it, 0 for the rest.
            logits = logits.clone()
            rows = [0, *(node + 1 for node in walk.path[:-1])]
            logits[0, rows] = -torch.inf
            logits[0, rows, [draft.tokens[node] for node in walk.path]] = 0.0
        return self.chain(
            request,
            draft.tokens,
            logits,
            "route",
            [0, *draft.tree.depths],
            accept_threshold=self._calibrated.full_ratio,
            escalate_threshold=0.0,
            **extra,
        )


def path_of(result: ops.Verification) -> list[int]:
    """Accepted nodes of row 0, in order."""
    nodes: list[int] = result.path[0].tolist()
    return nodes[: int(result.num_accepted[0])]


def has_children(tree: Tree, path: list[int]) -> bool:
    """True if the row that a walk stopped at had draft children."""
    return bool(tree.children[path[-1] + 1 if path else 0])


def log_softmax_at(logits: torch.Tensor, tokens: list[int], temperature: float) -> list[float]:
    """Log-probability of one token per row, unfiltered, at temperature 1 when greedy."""
    rows = logits.float() / temperature if temperature > 0.0 else logits.float()
    values = torch.log_softmax(rows, -1).gather(1, torch.tensor(tokens)[:, None])
    return values[:, 0].tolist()
