# SPDX-License-Identifier: Apache-2.0
"""Methods made runnable: one prompt at a time, with what is known of every run."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from via_ext.config import ViaConfig
from via_ext.decode import Decoder
from via_ext.drafters import PromptLookupDrafter
from via_ext.drafters.model import ModelDrafter
from via_ext.evaluation.costs import PassCosts, Passes, pass_costs
from via_ext.evaluation.methods import Method, Subject, config_of
from via_ext.evaluation.oracle import cheapest_plan, right_drafts, right_slim
from via_ext.models import slim_view


@dataclass
class Record:
    """One method on one prompt.

    Attributes:
        sequence: [T + n] int64 on the CPU, prompt and new tokens.
        new: n.
        passes: forward passes.
        cost: of the passes, in full passes.
        steps: decoding steps, None if unknown.
        examined: draft tokens that got a verdict, None if unknown.
        kept: those of them that stayed.
        routes: the slim verifier's verdicts accept, regenerate, escalate as shares; None without.
        tiers: emitted tokens by deciding tier: draft token accepted by the slim verifier, the slim
            verifier's own, the full model's. None if unknown.
        by_position: share of the examined draft tokens of depth 1, 2, ... that were kept.
        slim_logprobs: (index among the new tokens, log-probability under the slim verifier) of the
            tokens that it alone decided.
    """

    sequence: torch.Tensor
    new: int
    passes: Passes
    cost: float
    steps: int | None = None
    examined: int | None = None
    kept: int | None = None
    routes: tuple[float, float, float] | None = None
    tiers: tuple[int, int, int] | None = None
    by_position: tuple[float, ...] = ()
    slim_logprobs: list[tuple[int, float]] = field(default_factory=list)


class Ours:
    """A `Decoder`; `first` also reads its statistics."""

    simulated = False

    def __init__(self, method: Method, subject: Subject, config: ViaConfig) -> None:
        """Builds the decoder."""
        alone = method.tiers == "slim alone"
        own = method.route or subject.route
        route = {"slim": own, "calibrated two": subject.two_tier}.get(method.tiers)
        drafter: Any = None
        if method.drafts == "lookup":
            drafter = PromptLookupDrafter()
        elif method.drafts == "model":
            drafter = ModelDrafter(subject.drafter, method.draft_temperature)
        target = slim_view(subject.target, own) if alone and own else subject.target
        self._decoder = Decoder(target, drafter, route, config)
        # The slim verifier alone is its decoder's full model.
        self._share = own.cost(subject.target.config) if alone and own else 1.0
        self._alone = alone
        self._judges = route is not None and not route.is_full
        self._lossy = self._judges and config.mode == "via" and config.audit_threshold is None
        model = subject.drafter if method.drafts == "model" else None
        self._costs = pass_costs(subject.target, model, route)

    def run(self, ids: torch.Tensor) -> int:
        """Decodes; returns the number of new tokens."""
        result = self._decoder.generate(ids[None])
        return int(result.lengths[0]) - len(ids)

    def first(self, ids: torch.Tensor) -> Record:
        """Decodes and keeps what is known of it."""
        result = self._decoder.generate(ids[None])
        length, stats = int(result.lengths[0]), result.stats
        new = length - len(ids)
        passes = Passes(
            stats.full_passes, stats.resumed_passes, stats.slim_passes, stats.draft_passes
        )
        cost = self._costs.total(passes)
        if self._alone:
            cost, passes = cost * self._share, Passes(0, 0, passes.full, 0)
        tiers = result.tiers[0, :new].tolist()
        record = Record(result.sequences[0, :length], new, passes, cost, stats.steps)
        if stats.drafted:
            record.examined, record.kept = stats.examined, stats.accepted
            record.by_position = tuple(stats.accepted_by_position)
        if self._judges and stats.slim_passes:
            record.routes = (stats.accept_rate, stats.regenerate_rate, stats.escalate_rate)
        counts = [tiers.count(tier) for tier in range(3)]
        record.tiers = (0, new, 0) if self._alone else (counts[0], counts[1], counts[2])
        if self._lossy:
            values = result.logprobs[0, :new].tolist()
            pairs = enumerate(zip(tiers, values, strict=True))
            record.slim_logprobs = [(i, value) for i, (tier, value) in pairs if tier < 2]
        return record


class Peer:
    """transformers' own generate, plain or assisted by the drafter.

    Passes are counted by hooks. The pass that reads the prompt is counted, too: it is the one that
    gives the first token, which costs ours a pass of its own.
    """

    simulated = False

    def __init__(self, method: Method, subject: Subject, config: ViaConfig) -> None:
        """Keeps the models."""
        self._target = subject.target
        self._drafter = subject.drafter if method.drafts == "model" else None
        self._new = config.max_new_tokens
        self._count = method.settings.get("num_assistant_tokens")
        self._costs = pass_costs(subject.target, self._drafter, None)

    def run(self, ids: torch.Tensor) -> int:
        """Generates; returns the number of new tokens."""
        return len(self._generate(ids)) - len(ids)

    def first(self, ids: torch.Tensor) -> Record:
        """Generates and counts the passes."""
        with _counted(self._target) as full, _counted(self._drafter) as draft:
            sequence = self._generate(ids)
        passes = Passes(full[0], 0, 0, draft[0])
        new = len(sequence) - len(ids)
        record = Record(sequence, new, passes, self._costs.total(passes), full[0])
        record.tiers = (0, 0, new)
        return record

    def _generate(self, ids: torch.Tensor) -> torch.Tensor:
        rows = ids[None].to(self._target.device)
        options: dict[str, Any] = {"max_new_tokens": self._new, "do_sample": False}
        if getattr(self._target.generation_config, "pad_token_id", None) is None:
            options["pad_token_id"] = 0
        with _quiet(), self._assistant() as assisted:
            mask = torch.ones_like(rows)
            found = self._target.generate(rows, attention_mask=mask, **options, **assisted)
        sequence: torch.Tensor = found[0].cpu()
        return sequence

    @contextmanager
    def _assistant(self) -> Iterator[dict[str, Any]]:
        """Arguments for assisted generation; what transformers writes to the drafter is undone."""
        if self._drafter is None:
            yield {}
            return
        kept = self._drafter.generation_config
        self._drafter.generation_config = drafting = copy.deepcopy(kept)
        if self._count is not None:
            # A fixed length: not adapted to what was accepted, never cut short.
            drafting.num_assistant_tokens = self._count
            drafting.num_assistant_tokens_schedule = "constant"
            drafting.assistant_confidence_threshold = 0.0
        try:
            yield {"assistant_model": self._drafter}
        finally:
            self._drafter.generation_config = kept


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' advice, which is not about what is measured."""
    logger = logging.getLogger("transformers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


@contextmanager
def _counted(model: Any) -> Iterator[list[int]]:
    """A list whose only entry counts the forward passes of a model."""
    count = [0]

    def add(*_: Any) -> None:
        count[0] += 1

    handle = None if model is None else model.register_forward_hook(add)
    try:
        yield count
    finally:
        if handle is not None:
            handle.remove()


class Oracle:
    """The simulated router of `oracle.py`; `run` has no meaning for it."""

    simulated = True

    def __init__(self, method: Method, subject: Subject, config: ViaConfig) -> None:
        """Builds the decoder of the full model's own text."""
        self._subject = subject
        self._route = (method.route or subject.route) if method.tiers == "slim" else None
        self._costs: PassCosts = pass_costs(subject.target, subject.drafter, self._route)
        self._max_backlog = config.max_backlog
        self._plain = Decoder(subject.target, None, None, config)

    def first(self, ids: torch.Tensor) -> Record:
        """Plans the cheapest way through the full model's greedy text."""
        result = self._plain.generate(ids[None])
        sequence, prompt = result.sequences[0, : int(result.lengths[0])], len(ids)
        slim = None
        if self._route is not None:
            target = self._subject.target
            slim = right_slim(target, self._route, sequence, prompt, self._max_backlog)
        drafts = right_drafts(self._subject.drafter, sequence, prompt)
        plan = cheapest_plan(drafts, slim, self._costs)
        record = Record(sequence, len(sequence) - prompt, plan.passes, plan.cost, plan.steps)
        record.examined = record.kept = plan.drafted
        record.by_position = (1.0,) * max(plan.lengths, default=0)
        record.tiers = (plan.by_slim, plan.own, plan.by_full)
        return record


Runner = Ours | Peer | Oracle


def make_runner(method: Method, subject: Subject, max_new_tokens: int, seed: int) -> Runner:
    """Makes a method runnable.

    Raises:
        ValueError: it does not fit the models.
    """
    if method.kind == "peer":
        return Peer(method, subject, ViaConfig(max_new_tokens=max_new_tokens, seed=seed))
    config = config_of(method, subject, max_new_tokens, seed)
    return (Oracle if method.kind == "oracle" else Ours)(method, subject, config)
