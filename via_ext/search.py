# SPDX-License-Identifier: Apache-2.0
"""`search_route`: find the slim route of a model on calibration text."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from typing import Any

import torch

from via_ext._build import build_info
from via_ext.fingerprint import fingerprint
from via_ext.models.families import check_supported
from via_ext.route import SlimRoute
from via_ext.scoring import DeployedScorer, read_sequences
from via_ext.search_costs import SublayerCosts, weight_bytes
from via_ext.search_objective import OBJECTIVES, Objective, tier_gain
from via_ext.search_proposals import propose, require_optuna
from via_ext.search_result import RouteSearch
from via_ext.search_run import Progress, Run
from via_ext.search_space import RouteSpace
from via_ext.search_study import Study

PROPOSALS = ("swaps", "bayes")


def search_route(
    target: Any,
    sequences: torch.Tensor | Sequence[torch.Tensor | Sequence[int]],
    *,
    skip_ratio: float | None = 0.45,
    min_shared_prefix: int | None = None,
    objective: str = "divergence",
    alpha: float = 0.5,
    beta: float = 0.3,
    trials: int = 200,
    patience: int | None = None,
    proposals: str = "swaps",
    seed: int = 0,
    max_backlog: int = 32,
    drafter: Any = None,
    draft_length: int = 5,
    draft_cost: float | None = None,
    costs: SublayerCosts | None = None,
    initial: SlimRoute | None = None,
    study: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> RouteSearch:
    """Search the route whose slim verifier is best on some text (docs/design.md, section 13).

    Every trial scores the slim verifier as deployed, on all tokens. First an even route, then each
    sublayer skipped alone, then the least sensitive ones together, then swaps.

    Args:
        target: a supported `transformers` causal language model, on the CPU or a GPU.
        sequences: calibration text, [B, T] token ids or a list of sequences of any lengths.
        skip_ratio: share of the sublayers that every route skips, rounded to a number of them.
            None = any number; latency only.
        min_shared_prefix: leading layers kept whole, at least the first; None = num_layers // 4.
        objective: "divergence" (R, equation 8), "missing_mass" (8a), or "latency" (14).
        alpha: a of (8), in [0, 1).
        beta: b of (8), in (0, 1].
        trials: routes to score, at least two more than sublayers that may be skipped.
        patience: stop after so many trials without a better route, None = never.
        proposals: "swaps", or "bayes": every fourth proposal is optuna's.
        seed: the same seed gives the same trials.
        max_backlog: of the decoding to come, see `ViaConfig`.
        drafter: a `transformers` model of the same vocabulary: adds delta, and its acceptance and
            cost to the latency.
        draft_length: tokens of a draft; latency only.
        draft_cost: of one drafted token in full passes, None = by bytes; latency only.
        costs: of the target's sublayers for the latency, from `sublayer_seconds`; None = by bytes.
        initial: scored first, in place of the even route.
        study: file of the trials; where it exists, its search goes on.
        progress: called after every trial with it and with the best one.

    Returns:
        The best route and all trials; after Ctrl-C, those so far.

    Raises:
        TypeError, ValueError: a bad argument, an unsupported model, no such route, text shorter
            than max_backlog + 1 tokens, or a study of another search; before any work.
        OSError: the study cannot be written.
        ImportError: optuna is missing.
        KeyboardInterrupt: interrupted before the first route was scored.
    """
    _check_types(
        {"alpha": alpha, "beta": beta, "draft_cost": 0.0 if draft_cost is None else draft_cost},
        {"seed": seed, "max_backlog": max_backlog},
        costs,
        initial,
    )
    check_supported(target)
    space = RouteSpace(target.config.num_hidden_layers, skip_ratio, min_shared_prefix)
    _check(objective, alpha, beta, trials, patience, proposals, draft_length, skip_ratio, space)
    tokens = read_sequences(target.config, sequences)
    _check_text(tokens, max_backlog)
    if drafter is not None:
        _check_drafter(drafter, target)
    first = space.evenly() if initial is None else space.skips(initial)
    by_bytes = SublayerCosts.from_bytes(target.config)
    timed, drafts = objective == "latency", objective == "latency" and drafter is not None
    if drafts and draft_cost is None:
        draft_cost = weight_bytes(drafter) / weight_bytes(target)
    settings: dict[str, Any] = {
        "model": fingerprint(target),
        "text_sha256": _digest(tokens),
        "skipped": space.count,
        "min_shared_prefix": space.prefix,
        "objective": objective,
        "alpha": alpha,
        "beta": beta,
        "proposals": proposals,
        "seed": seed,
        "max_backlog": max_backlog,
        "initial": sorted(first),
        "drafter": fingerprint(drafter) if drafts else None,
        "draft_length": draft_length if drafts else None,
        "draft_cost": draft_cost if drafts else None,
        "costs": (costs or by_bytes).to_dict() if timed else None,
    }
    store = Study(study, settings)
    try:
        scorer = DeployedScorer(target, tokens, max_backlog)
        used = SublayerCosts.from_dict(store.settings["costs"]) if timed else by_bytes
        score = Objective(scorer, objective, alpha, beta, used)
        if drafts:
            logits = DeployedScorer(drafter, tokens, max_backlog).logits
            score.add_drafter(logits, store.settings["draft_cost"], draft_length)
        run = Run(space, score, store, progress)
        run.go(propose(space, first, seed, proposals == "bayes"), trials, patience)
    finally:
        store.close()
    delta = None
    if drafter is not None and not run.interrupted:
        logits = DeployedScorer(drafter, tokens, max_backlog).logits
        missing = objective == "missing_mass"
        delta = tier_gain(
            scorer, run.best.route, logits, alpha=alpha, beta=beta, missing_mass=missing
        )
    facts = {
        "objective": objective,
        "value": run.best.value,
        "delta": delta,
        "agreement": run.best.agreement,
        "skip_ratio": run.best.route.skip_ratio,
        "bytes": run.best.route.cost(target.config),
        "min_shared_prefix": space.prefix,
        "max_backlog": max_backlog,
        "alpha": alpha,
        "beta": beta,
        "proposals": proposals,
        "seed": seed,
        "trials": len(run.trials),
        "tokens": sum(map(len, tokens)),
        "text_sha256": settings["text_sha256"],
        "via_ext": build_info()["version"],
    }
    if timed:
        facts |= {"costs": score.costs.unit, "two_tier": score.two_tier}
    masks = run.best.route.keep_attention, run.best.route.keep_mlp
    route = SlimRoute(*masks, settings["model"], facts=facts)
    return RouteSearch(route, run.best.value, delta, tuple(run.trials), run.interrupted)


def _check_types(
    numbers: dict[str, object], integers: dict[str, object], costs: object, initial: object
) -> None:
    rules: list[tuple[dict[str, object], Any, str]] = [
        (numbers, int | float, "a number"),
        (integers, int, "an int"),
        ({} if costs is None else {"costs": costs}, SublayerCosts, "SublayerCosts or None"),
        ({} if initial is None else {"initial": initial}, SlimRoute, "a SlimRoute or None"),
    ]
    for values, kind, rule in rules:
        for name, value in values.items():
            if isinstance(value, bool) or not isinstance(value, kind):
                raise TypeError(f"search_route: {name} must be {rule}, got {value!r}")


def _check(
    objective: str,
    alpha: float,
    beta: float,
    trials: int,
    patience: int | None,
    proposals: str,
    draft_length: int,
    skip_ratio: float | None,
    space: RouteSpace,
) -> None:
    for name, value, known in (
        ("objective", objective, OBJECTIVES),
        ("proposals", proposals, PROPOSALS),
    ):
        if value not in known:
            raise ValueError(f"search_route: {name} must be one of {', '.join(known)}, got {value}")
    if skip_ratio is None and objective != "latency":
        rule = "be a number unless objective is latency (skipping nothing is best otherwise)"
        raise ValueError(f"search_route: skip_ratio must {rule}, got None")
    if not 0.0 <= alpha < 1.0:
        raise ValueError(f"search_route: alpha must be in [0, 1), got {alpha}")
    if not 0.0 < beta <= 1.0:
        raise ValueError(f"search_route: beta must be in (0, 1], got {beta}")
    least = len(space.sublayers) + 2
    for name, number, low in (
        ("trials", trials, least),
        ("patience", patience, 1),
        ("draft_length", draft_length, 1),
    ):
        if number is None and name == "patience":
            continue
        if isinstance(number, bool) or not isinstance(number, int):
            raise TypeError(f"search_route: {name} must be an int, got {number!r}")
        if number < low:
            why = f" ({least - 2} sublayers alone, and 2)" if name == "trials" else ""
            raise ValueError(f"search_route: {name} must be at least {low}{why}, got {number}")
    if proposals == "bayes":
        require_optuna()


def _check_text(tokens: list[torch.Tensor], max_backlog: int) -> None:
    longest = max(map(len, tokens))
    if longest <= max_backlog:
        rule = (
            f"hold one of max_backlog + 1 = {max_backlog + 1} tokens, so that every backlog occurs"
        )
        raise ValueError(f"search_route: sequences must {rule}, got {longest} tokens at most")


def _check_drafter(drafter: Any, target: Any) -> None:
    check_supported(drafter, "drafter")
    own, vocabulary = drafter.config.vocab_size, target.config.vocab_size
    if own != vocabulary:
        rule = f"have the target's vocabulary of {vocabulary} ids"
        raise ValueError(f"search_route: drafter must {rule}, got {own}")


def _digest(tokens: list[torch.Tensor]) -> str:
    """SHA-256 of the sequences: of each its length and its ids, as int64."""
    digest = hashlib.sha256()
    for ids in tokens:
        digest.update(torch.tensor([len(ids)]).numpy().tobytes())
        digest.update(ids.contiguous().numpy().tobytes())
    return digest.hexdigest()
