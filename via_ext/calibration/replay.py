# SPDX-License-Identifier: Apache-2.0
"""A replay of decoding over traces: agreement and cost that settings would have.

docs/design.md, section 14. Every setting on every text is one lane of a few tensors; all lanes take
their steps together. A wrong token that is emitted counts as one error, and the step goes on with
the trace's next position: what the models would say in the departed text is not known here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch

from via_ext.calibration.cost import PassCosts
from via_ext.calibration.fit import log_odds
from via_ext.calibration.models import Models, Rows, acceptance_odds, bonus_features, with_depth
from via_ext.calibration.stored import Setting
from via_ext.calibration.trace import DEPTH, SAME, Trace


class Replayed(NamedTuple):
    """What settings come to on a trace, per text.

    Attributes:
        errors: [settings, texts] emitted tokens that are not the full model's choice.
        cost: [settings, texts] in full passes.
        tokens: [texts].
    """

    errors: torch.Tensor
    cost: torch.Tensor
    tokens: torch.Tensor

    @property
    def agreement(self) -> torch.Tensor:
        """[settings]."""
        return 1.0 - self.errors.sum(1) / self.tokens.sum()

    @property
    def cost_per_token(self) -> torch.Tensor:
        """[settings]."""
        return self.cost.sum(1) / self.tokens.sum()


class Replay:
    """A trace and the models' log-odds on it.

    Args:
        trace: texts that hold the full model's own choices.
        models: of the calibration.
        costs: of the passes.
        num_draft_tokens: longest chain.
        max_backlog: most slim tokens between two full passes.
    """

    def __init__(
        self,
        trace: Trace,
        models: Models,
        costs: PassCosts,
        num_draft_tokens: int,
        max_backlog: int,
    ) -> None:
        """Evaluates the models once."""
        self._costs, self._nodes, self._max_backlog = costs, num_draft_tokens, max_backlog
        self.lengths = trace.lengths
        width = int(trace.lengths.max()) + num_draft_tokens + 1
        self._width = width
        every = torch.arange(len(trace))
        nowhere = Rows(every, torch.zeros(len(trace)), torch.zeros(len(trace)))
        seen, ends = with_depth(trace, nowhere), bonus_features(trace, nowhere)
        self._slopes = [weights[1 + DEPTH] for weights in models[:3]]
        pad = self._padded
        self._draft = pad(trace, log_odds(models.draft, seen))
        self._slim = pad(trace, log_odds(models.slim, seen))
        self._bonus = pad(trace, log_odds(models.bonus, ends))
        odds = acceptance_odds(trace, models.acceptance, num_draft_tokens)
        self._chance = torch.stack([pad(trace, torch.sigmoid(o)) for o in odds.unbind(1)], -1)
        self._draft_wrong = pad(trace, (~trace.draft_right).float())
        self._slim_wrong = pad(trace, (~trace.slim_right).float())
        self._same = pad(trace, trace.features[:, SAME])
        self._full_ratio = pad(trace, trace.full_ratio)

    def _padded(self, trace: Trace, values: torch.Tensor) -> torch.Tensor:
        """[texts, width] of values [n]; beyond a text's end 0."""
        table = values.new_zeros(len(trace.lengths), self._width)
        for row, place in enumerate(trace.texts):
            table[row, : place.stop - place.start] = values[place]
        return table.float()

    def run(self, settings: Sequence[Setting], exact: bool = False) -> Replayed:
        """Replays settings.

        Args:
            settings: in mode "via", or
            exact: in mode "exact": slim tokens are provisional until the full model has seen them.
        """
        lanes = _Lanes(self, settings)
        while bool(lanes.live.any()):
            lanes.exact_step() if exact else lanes.via_step()
        shape = len(settings), len(self.lengths)
        return Replayed(lanes.errors.view(shape), lanes.cost.view(shape), self.lengths)


class _Lanes:
    """One lane per setting and text."""

    def __init__(self, replay: Replay, settings: Sequence[Setting]) -> None:
        texts = len(replay.lengths)
        self._of, self._texts = replay, torch.arange(texts).repeat(len(settings))
        self._lengths = replay.lengths.repeat(len(settings))

        def each(values: list[float]) -> torch.Tensor:
            return torch.tensor(values).repeat_interleave(texts)

        self._accept = each([_odds(s.accept_error) for s in settings])
        self._regenerate = each([_odds(s.regenerate_error) for s in settings])
        self._bonus = each([_odds(s.bonus_error) for s in settings])
        self._stop = each([s.draft_stop for s in settings])
        self._matches = each([s.full_matches for s in settings])
        self._survive = each([s.audit_survival for s in settings])
        self._ratio = each([s.full_ratio for s in settings])
        zeros = torch.zeros(len(self._texts))
        self.cost, self.errors = zeros.clone(), zeros.clone()
        self._place, self._backlog = zeros.long(), zeros.long()
        self._first_wrong, self._survival = zeros.long() - 1, zeros + 1.0
        self.live = self._place < self._lengths

    def _at(self, table: torch.Tensor, offset: torch.Tensor | int) -> torch.Tensor:
        return table[self._texts, (self._place + offset).clamp(max=self._of._width - 1)]

    def _drafted(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Nodes of each lane's draft, and how many of them are expected to be right."""
        room = (self._lengths - self._place - 1).clamp(min=0)
        nodes, product = torch.zeros_like(room), torch.ones_like(self._stop)
        expected, going = torch.zeros_like(self._stop), self.live.clone()
        for depth in range(self._of._nodes):
            going &= (room > depth) & (product >= self._stop)
            product = torch.where(going, product * self._at(self._of._chance[..., depth], depth), 0)
            expected += product
            nodes += going
        self.cost += nodes * self._of._costs.draft
        return nodes, expected

    def _full_run(self, nodes: torch.Tensor, walking: torch.Tensor, ratio: torch.Tensor) -> None:
        """The full model takes the leading nodes that please it and adds a token of its own."""
        taken = torch.zeros_like(nodes)
        for depth in range(self._of._nodes):
            wrong = self._at(self._of._draft_wrong, depth) > 0
            pleasing = ~wrong | (self._at(self._of._full_ratio, depth) >= ratio)
            walking = walking & (nodes > depth) & pleasing
            self.errors += (walking & wrong).float()
            taken += walking
        self._place += taken

    def via_step(self) -> None:
        """Draft; straight to the full model, or a slim walk that may escalate."""
        of, live = self._of, self.live
        nodes, expected = self._drafted()
        straight = live & ((expected >= self._matches) | (self._backlog >= of._max_backlog))
        slim = live & ~straight
        self.cost += straight.float() + slim * of._costs.slim
        walking, escalate = slim.clone(), torch.zeros_like(slim)
        emitted, left = torch.zeros_like(nodes), nodes.clone()
        for depth in range(of._nodes + 1):
            node = walking & (nodes > depth)
            accept = node & (
                self._at(of._draft, depth) + of._slopes[0] * (depth + 1) <= self._accept
            )
            slim_odds = self._at(of._slim, depth) + of._slopes[1] * (depth + 1)
            end_odds = self._at(of._bonus, depth) + of._slopes[2] * (depth + 1)
            own = (
                walking
                & ~accept
                & torch.where(node, slim_odds <= self._regenerate, end_odds <= self._bonus)
            )
            self.errors += accept * self._at(of._draft_wrong, depth)
            self.errors += own * self._at(of._slim_wrong, depth)
            emitted += (accept | own).long()
            escalate |= walking & ~accept & ~own
            left -= accept.long()
            walking = accept
        self.cost += escalate * of._costs.resumed
        self._place += emitted
        self._backlog = torch.where(slim & ~escalate, self._backlog + emitted, 0)
        full = straight | escalate
        self._full_run(left, full, self._ratio)
        self._place += full.long()
        self.live = self._place < self._lengths

    def exact_step(self) -> None:
        """Draft; a provisional slim walk, or an audit of the backlog together with the draft."""
        of, live = self._of, self.live
        nodes, expected = self._drafted()
        straight = (expected >= self._matches) | (self._backlog >= of._max_backlog)
        straight = live & (straight | (self._survival < self._survive))
        slim = live & ~straight
        self.cost += straight.float() + slim * of._costs.slim
        walking, emitted = slim.clone(), torch.zeros_like(nodes)
        for depth in range(of._nodes + 1):
            node = walking & (nodes > depth)
            accept = node & (self._at(of._same, depth) > 0)
            own = walking & ~accept
            # The slim verifier's first choice in either case.
            wrong = walking & (self._at(of._slim_wrong, depth) > 0)
            first = wrong & (self._first_wrong < 0)
            self._first_wrong = torch.where(first, self._place + depth, self._first_wrong)
            odds = torch.where(
                accept,
                self._at(of._draft, depth) + of._slopes[0] * (depth + 1),
                torch.where(
                    node,
                    self._at(of._slim, depth) + of._slopes[1] * (depth + 1),
                    self._at(of._bonus, depth) + of._slopes[2] * (depth + 1),
                ),
            )
            self._survival *= torch.where(walking, torch.sigmoid(-odds), 1.0)
            emitted += walking.long()
            walking = accept & ~own
        self._place += emitted
        self._backlog += emitted
        ended = live & (self._place >= self._lengths)
        # The end is audited too: without a draft, if it comes with a slim walk.
        audit = straight | (slim & ended)
        self.cost += (slim & ended).float()
        failed = audit & (self._first_wrong >= 0)
        self._place = torch.where(failed, self._first_wrong + 1, self._place)
        judged = straight & ~failed
        self._full_run(nodes, judged, torch.full_like(self._ratio, math.inf))
        self._place += judged.long()
        self._backlog = torch.where(audit, 0, self._backlog)
        self._first_wrong = torch.where(audit, -1, self._first_wrong)
        self._survival = torch.where(audit, 1.0, self._survival)
        self.live = self._place < self._lengths


def _odds(probability: float) -> float:
    if probability <= 0.0:
        return -math.inf
    return math.inf if probability >= 1.0 else math.log(probability / (1.0 - probability))
