# SPDX-License-Identifier: Apache-2.0
"""`verify`: one call for a batch, request after request."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from via_ext.reference.draft import (
    NO_NODE,
    STATUS_TREE,
    Coins,
    DraftRows,
    Request,
    Thresholds,
)
from via_ext.reference.filters import PerRow, filters_per_row, per_row
from via_ext.reference.route import judge
from via_ext.reference.router import routers_per_row
from via_ext.reference.walk import Verification, Walk, resumed_walk, run

RULES = ("route", "greedy", "sample")


def verify(
    draft_token_ids: Tensor,
    logits: Tensor,
    *,
    rule: str,
    parents: Tensor | None = None,
    num_nodes: Tensor | None = None,
    resume: Verification | None = None,
    draft_logits: Tensor | None = None,
    draft_probs: Tensor | None = None,
    draft_to_target: Tensor | None = None,
    accept_threshold: PerRow = 0.7,
    escalate_threshold: PerRow = 0.5,
    draft_threshold: PerRow | None = None,
    router: Any = None,
    draft_scores: Tensor | None = None,
    temperature: PerRow = 0.0,
    top_k: PerRow = 0,
    top_p: PerRow = 1.0,
    min_p: PerRow = 0.0,
    allowed: Tensor | None = None,
    uniform_samples: Tensor | None = None,
    seed: Tensor | None = None,
    position: Tensor | None = None,
    out: Verification | None = None,
) -> Verification:
    """Decides which drafted nodes stay and which token follows them.

    Args:
        draft_token_ids: [B, N] int; -1 = no node.
        logits: [B, N + 1, V] float32, float16 or bfloat16; row 0 follows the root, row i + 1
            follows node i.
        rule: "route" (ratios and three-way routing), "greedy" (the child equal to the argmax, else
            the argmax; temperature and filters show in the log-probabilities only) or "sample"
            (lossless acceptance).
        parents: [N] or [B, N] int, -1 = root, always < node; None = chain.
        num_nodes: [B] int: later nodes are ignored. Outside [0, N]: a malformed tree.
        resume: result of an earlier call; its escalated rows continue from their last accepted
            node under this call's rule, the others are copied.
        draft_logits: [B, N, V_draft], softmax of them is what node i was drawn from.
        draft_probs: [B, N, V_draft], the same as probabilities. Neither = one-hot.
        draft_to_target: [V_draft] int, verifier id of each draft column.
        accept_threshold: number or [B]; above 1 never accept.
        escalate_threshold: number or [B], at most `accept_threshold`; above 1 always escalate.
        draft_threshold: number or [B]: accept what the drafter gave at least this probability.
        router: decides in place of the thresholds: a `Router`, or packed [27] or [B, 27] float32.
        draft_scores: [B, N, 2] float32, ln p(v) and ln p1 - ln p2 of the drafter, for the router;
            None = both features 0.
        temperature: number or [B]; 0 = greedy.
        top_k: number or [B]; 0 = off.
        top_p: number or [B], in (0, 1].
        min_p: number or [B], in [0, 1].
        allowed: [B, N + 1, ceil(V/32)] int32 grammar mask, bit set = allowed.
        uniform_samples: [B, N + 1] float32 in [0, 1).
        seed: [B] int64, used with `position` where no uniforms are given.
        position: [B] int64, number of this verify call of the request.
        out: a result to write into.

    Returns:
        A `Verification`. Per-row parameters out of range, numbers included, are reported in
        `status`.

    Raises:
        ValueError: an unknown rule, an impossible combination, or no source of random numbers.
    """
    random = uniform_samples is not None or (seed is not None and position is not None)
    _check(rule, resume, draft_logits, draft_probs, draft_threshold, temperature, random)
    _check_router(rule, router, draft_scores, draft_threshold)
    batch, nodes = draft_token_ids.shape
    filters = filters_per_row(batch, temperature, top_k, top_p, min_p)
    thresholds = [Thresholds(1.0, 0.0, None)] * batch
    if rule == "route" and router is None:
        accept = per_row(accept_threshold, batch)
        escalate = per_row(escalate_threshold, batch)
        gate = [None] * batch if draft_threshold is None else per_row(draft_threshold, batch)
        thresholds = [Thresholds(*row) for row in zip(accept, escalate, gate, strict=True)]
    routers = routers_per_row(router, batch)
    if parents is None:
        parents = torch.arange(-1, nodes - 1)
    drawn_from = draft_probs if draft_logits is None else draft_logits
    result = _blank(batch, nodes, logits.device, rule, resume) if out is None else out
    for b in range(batch):
        if resume is not None and not bool(resume.escalate[b]):
            for target, source in zip(result, resume, strict=True):
                if target is not None and source is not None:
                    target[b] = source[b]
            continue
        count = nodes if num_nodes is None else int(num_nodes[b])
        count_is_valid = 0 <= count <= nodes
        count = count if count_is_valid else 0
        request = Request(
            logits=logits[b],
            allowed=None if allowed is None else allowed[b],
            tokens=draft_token_ids[b, :count].tolist(),
            parents=parents.expand(batch, nodes)[b, :count].tolist(),
            filters=filters[b],
            thresholds=thresholds[b],
            draft=None
            if drawn_from is None
            else DraftRows(
                drawn_from[b], draft_logits is not None, draft_to_target, logits.shape[-1]
            ),
            coins=Coins(
                None if uniform_samples is None else uniform_samples[b].tolist(),
                0 if seed is None else int(seed[b]),
                0 if position is None else int(position[b]),
            ),
            router=routers[b],
            scores=None if draft_scores is None else draft_scores[b].tolist(),
            status=0 if count_is_valid else STATUS_TREE,
        )
        walk = Walk(request, [], []) if resume is None else resumed_walk(request, resume, b)
        ratios, tiers = judge(request, nodes) if rule == "route" else ([], [])
        run(walk, rule, ratios, tiers)
        _write(result, b, walk, resume, ratios, tiers)
    return result


def _blank(
    batch: int, nodes: int, device: torch.device, rule: str, resume: Verification | None
) -> Verification:
    """An unwritten result. Ratios and tiers exist for rule route, or if `resume` has them."""
    routed = rule == "route" or (resume is not None and resume.ratios is not None)

    def empty(*shape: int, dtype: torch.dtype) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=device)

    return Verification(
        ratios=empty(batch, nodes, dtype=torch.float32) if routed else None,
        tiers=empty(batch, nodes, dtype=torch.uint8) if routed else None,
        path=empty(batch, nodes, dtype=torch.int32),
        num_accepted=empty(batch, dtype=torch.int32),
        next_token=empty(batch, dtype=torch.int64),
        next_row=empty(batch, dtype=torch.int32),
        escalate=empty(batch, dtype=torch.bool),
        logprobs=empty(batch, nodes + 1, dtype=torch.float32),
        status=empty(batch, dtype=torch.int32),
    )


def _write(
    result: Verification,
    b: int,
    walk: Walk,
    resume: Verification | None,
    ratios: list[float],
    tiers: list[int],
) -> None:
    """Every element of row b."""
    nodes = result.path.shape[1]
    if result.ratios is not None and result.tiers is not None:
        if resume is None:
            result.ratios[b] = torch.tensor(ratios)
            result.tiers[b] = torch.tensor(tiers, dtype=torch.uint8)
        elif resume.ratios is not None and resume.tiers is not None:
            result.ratios[b] = resume.ratios[b]
            result.tiers[b] = resume.tiers[b]
    padding = nodes - len(walk.path)
    result.path[b] = torch.tensor(walk.path + [NO_NODE] * padding, dtype=torch.int32)
    result.num_accepted[b] = len(walk.path)
    result.next_token[b] = walk.next_token
    result.next_row[b] = walk.node + 1
    result.escalate[b] = walk.escalate
    padding = nodes + 1 - len(walk.logprobs)
    result.logprobs[b] = torch.tensor(walk.logprobs + [0.0] * padding)
    result.status[b] = walk.request.status | (0 if resume is None else int(resume.status[b]))


def _check(
    rule: str,
    resume: Verification | None,
    draft_logits: Tensor | None,
    draft_probs: Tensor | None,
    draft_threshold: PerRow | None,
    temperature: PerRow,
    has_randomness: bool,
) -> None:
    """Impossible combinations; `ops` checks types, shapes and ranges as well."""
    if rule not in RULES:
        raise ValueError(f"verify: rule must be one of {RULES}, got {rule!r}")
    if rule == "route" and resume is not None:
        raise ValueError("verify: resume must be None for rule 'route', got a Verification")
    if draft_logits is not None and draft_probs is not None:
        raise ValueError("verify: draft_logits must be None beside draft_probs, got both")
    if draft_threshold is not None and draft_logits is None and draft_probs is None:
        raise ValueError("verify: draft_threshold must come with a draft distribution, got none")
    # A tensor counts as above 0: the op does not read values on the device.
    hot = rule == "sample" or isinstance(temperature, Tensor) or temperature > 0.0
    if hot and not has_randomness:
        raise ValueError(
            "verify: uniform_samples must be given, or seed and position, for rule 'sample' or a "
            "temperature above 0, got neither"
        )


def _check_router(
    rule: str, router: Any, draft_scores: Tensor | None, draft_threshold: PerRow | None
) -> None:
    """Impossible combinations of the router's arguments."""
    if router is None:
        if draft_scores is not None:
            raise ValueError("verify: draft_scores must come with router, got None")
        return
    if rule != "route":
        raise ValueError(f"verify: router must be None for rule {rule!r}, got a router")
    if draft_threshold is not None:
        raise ValueError(f"verify: draft_threshold must be None with router, got {draft_threshold}")
    if draft_scores is None and getattr(router, "uses_draft", False):
        raise ValueError(
            "verify: draft_scores must be given for a router that weighs them, got None"
        )
