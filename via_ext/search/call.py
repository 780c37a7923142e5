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
from via_ext.search.checks import check_drafter, check_text, check_types, check_values
from via_ext.search.costs import SublayerCosts, weight_bytes
from via_ext.search.objective import Objective, tier_gain
from via_ext.search.proposals import propose
from via_ext.search.result import RouteSearch
from via_ext.search.run import Progress, Run
from via_ext.search.space import RouteSpace
from via_ext.search.study import Study


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
        seed: in [0, 2**32); the same seed gives the same trials.
        max_backlog: of the decoding to come, see `ViaConfig`.
        drafter: a `transformers` model of the same vocabulary: adds delta, and its acceptance and
            cost to the latency.
        draft_length: tokens of a draft; latency only.
        draft_cost: of one drafted token in full passes, at least 0, None = by bytes; latency only.
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
    options: dict[str, Any] = {
        "objective": objective,
        "alpha": alpha,
        "beta": beta,
        "trials": trials,
        "patience": patience,
        "proposals": proposals,
        "seed": seed,
        "max_backlog": max_backlog,
        "draft_length": draft_length,
        "draft_cost": draft_cost,
        "costs": costs,
        "initial": initial,
        "study": study,
        "progress": progress,
    }
    check_types(options)
    check_supported(target)
    space = RouteSpace(target.config.num_hidden_layers, skip_ratio, min_shared_prefix)
    check_values(options, skip_ratio, space)
    tokens = read_sequences(target.config, sequences, "search_route")
    check_text(tokens, max_backlog)
    if drafter is not None:
        check_drafter(drafter, target)
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


def _digest(tokens: list[torch.Tensor]) -> str:
    """SHA-256 of the sequences: of each its length and its ids, as int64."""
    digest = hashlib.sha256()
    for ids in tokens:
        digest.update(torch.tensor([len(ids)]).numpy().tobytes())
        digest.update(ids.contiguous().numpy().tobytes())
    return digest.hexdigest()
