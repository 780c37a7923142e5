# SPDX-License-Identifier: Apache-2.0
"""ops.verify."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from via_ext.ops._common import _C, PerRow, int32_rows, require_tensor, tracing
from via_ext.ops._verification import Verification, empty_verification
from via_ext.router import Router

_MAX_NODES = 127
_make = Verification._make


def run(*args: Any) -> Verification:
    """`verify` on real tensors, every argument positional, in the order of its signature."""
    draft_token_ids, rule, resume, top_k, out = args[0], args[2], args[5], args[15], args[22]
    if out is None:
        require_tensor("verify", "draft_token_ids", draft_token_ids)
        shape = draft_token_ids.shape
        # With any other shape the native module raises before it looks at `out`.
        if len(shape) == 2 and shape[1] <= _MAX_NODES:
            resumed = isinstance(resume, Verification) and resume.ratios is not None
            ratios = rule == "route" or resumed
            if draft_token_ids.is_cpu:
                out = _make(_C.empty_verification(Tensor, shape[0], shape[1], ratios))
            else:
                out = empty_verification(shape[0], shape[1], draft_token_ids.device, ratios=ratios)
    arguments = [*args[:15], int32_rows(top_k), *args[16:22], out, torch.get_num_threads()]
    _C.verify(*arguments)
    result: Verification = out
    return result


def verify_rows(
    draft_token_ids: Tensor,
    logits: Tensor,
    rule: str,
    *,
    parents: Tensor | None = None,
    num_nodes: Tensor | None = None,
    draft_logits: Tensor | None = None,
    draft_probs: Tensor | None = None,
    draft_to_target: Tensor | None = None,
    temperature: PerRow = 1.0,
    uniform_samples: Tensor | None = None,
    seed: Tensor | None = None,
    position: Tensor | None = None,
    logits_offsets: Tensor | None = None,
    draft_offsets: Tensor | None = None,
    logits_are_probs: bool = False,
    threshold_single: float = 1.0,
    threshold_acc: float = 1.0,
    coins: Tensor | None = None,
) -> Verification:
    """`verify` with the layouts and rules of other verifiers, for `via_ext.compat`.

    Arguments that `verify` has mean the same. Rules greedy and sample; real tensors only.

    Args:
        draft_token_ids: [B, N].
        logits: [B, N+1, V], or any [B, N+1, V] view of the memory that `logits_offsets` points to.
        rule: "greedy" or "sample".
        parents: as in `verify`.
        num_nodes: as in `verify`.
        draft_logits: as `logits`, with `draft_offsets`.
        draft_probs: as `draft_logits`.
        draft_to_target: as in `verify`.
        temperature: as in `verify`.
        uniform_samples: as in `verify`.
        seed: as in `verify`.
        position: as in `verify`.
        logits_offsets: [B, N+1] int64, elements from the first of `logits` to where each row
            starts; not checked.
        draft_offsets: [B, N] int64, the same for the draft's rows.
        logits_are_probs: `logits` holds probabilities, used as they stand: not normalised, NaN and
            negative count as 0.
        threshold_single: one-hot drafts: a child with at least this probability is accepted.
        threshold_acc: > 0, divides the children's summed probability before it meets the coin.
        coins: [B, N+1] float32, receives the acceptance coin of every column.

    Returns:
        A `Verification` without ratios and tiers.
    """
    batch_size, columns = draft_token_ids.shape
    out = empty_verification(batch_size, columns, draft_token_ids.device, ratios=False)
    extras = (logits_offsets, draft_offsets, logits_are_probs)
    _C.verify(
        *(draft_token_ids, logits, rule, parents, num_nodes, None),
        *(draft_logits, draft_probs, draft_to_target, 0.7, 0.5, None, None, None),
        *(temperature, 0, 1.0, 0.0, None, uniform_samples, seed, position, out),
        *(torch.get_num_threads(), (*extras, threshold_single, threshold_acc, coins)),
    )
    return out


def _packed(router: Router, draft_scores: Tensor | None) -> tuple[float, ...]:
    """A router's numbers: they travel by value, so that no call copies them to a device."""
    if not isinstance(router, Router):
        rule = "be a Router or a float32 tensor of shape [27] or [B, 27]"
        raise TypeError(f"verify: router must {rule}, got {router!r}")
    if draft_scores is None and router.uses_draft:
        raise ValueError(
            "verify: draft_scores must be given for a router that weighs them, got None"
        )
    return router.packed()


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
    router: Router | Tensor | None = None,
    draft_scores: Tensor | None = None,
    temperature: PerRow = 0.0,
    top_k: int | Tensor = 0,
    top_p: PerRow = 1.0,
    min_p: PerRow = 0.0,
    allowed: Tensor | None = None,
    uniform_samples: Tensor | None = None,
    seed: Tensor | None = None,
    position: Tensor | None = None,
    out: Verification | None = None,
) -> Verification:
    """Judges a batch of draft trees by the verifier's logits: ratios, route and accept in one call.

    Source: VIA-SD (arXiv 2606.12243), r(v) = s_u(v) / max_w s_u(w) and three-way routing for rule
    "route"; lossless acceptance u * p(x) < q(x) for rule "sample". `via_ext.reference.verify` is
    the specification. CPU: synchronous, torch.get_num_threads() threads, releases the GIL. CUDA:
    queued on the current stream of the logits' device, no synchronisation; may be captured in a
    graph, whose replays read what the tensors then hold (copies of one graph must not run at the
    same time). Work space belongs to the library, one per stream and one per graph.

    Args:
        draft_token_ids: [B, N] int32 or int64, 0 <= N <= 127; -1 = no node.
        logits: [B, N+1, V] float32, float16 or bfloat16; row 0 follows the root, row i+1 node i.
        rule: "route", "greedy" or "sample".
        parents: [N] or [B, N] int32 or int64, -1 = root, always below the node; None = chain.
        num_nodes: [B] int32 or int64; nodes >= num_nodes are ignored.
        resume: earlier result to continue with the full model's logits; rows that did not
            escalate are copied through. Rules greedy and sample only.
        draft_logits: [B, N, V] as `logits`; node i was drawn from their softmax.
        draft_probs: [B, N, V] instead of draft_logits; neither = one-hot drafts.
        draft_to_target: [V_draft] int32 or int64 id map of a reduced drafter vocabulary; then
            draft_logits and draft_probs have V_draft columns.
        accept_threshold: a node with ratio >= it is accepted (rule route); >= 0, > 1 = never.
        escalate_threshold: a node with ratio < it escalates; >= 0, <= accept_threshold.
        draft_threshold: a node drawn with probability >= it is accepted whatever its ratio; needs
            draft_logits or draft_probs. None = off.
        router: rule route: decides by predicted disagreement, the thresholds are not used
            (docs/design.md, section 12). A `Router`, or packed float32 [27] or [B, 27]
            (`Router.pack`); a packed weight that is not finite is reported in `status`.
        draft_scores: [B, N, 2] float32 for the router: ln p(v) of node v and ln p1 - ln p2 of the
            two largest, p the drafter at temperature 1. None = both features are 0; not with a
            `Router` that weighs them.
        temperature: finite, >= 0; 0 = greedy. A tensor counts as above 0.
        top_k: >= 0, 0 = off; keeps all ties of the k-th value.
        top_p: in (0, 1], 1 = off.
        min_p: in [0, 1], 0 = off.
        allowed: [B, N+1, ceil(V/32)] int32 bit words; bit set = token allowed in that row.
        uniform_samples: [B, N+1] float32 in [0, 1): the coins, column N for the final draw.
        seed: [B] int64 Philox key, used where uniform_samples is None; the final draw then has a
            stream of its own instead of column N (docs/design.md, section 9).
        position: [B] int64, number of this verify call within the request.
        out: result to write into, with memory of its own; see `empty_verification`.

    Returns:
        A `Verification`; `out` if given.

    Raises:
        TypeError: wrong dtype or argument type.
        ValueError: wrong shape, stride, device, range or combination of arguments.
        RuntimeError: CUDA failed, or CUDA tensors in a build without CUDA.
    """
    packed = (
        router if router is None or isinstance(router, Tensor) else _packed(router, draft_scores)
    )
    call = run
    if tracing():
        from via_ext import torch_ops

        call = torch_ops.verify
    return call(
        *(draft_token_ids, logits, rule, parents, num_nodes, resume),
        *(draft_logits, draft_probs, draft_to_target),
        *(accept_threshold, escalate_threshold, draft_threshold, packed, draft_scores),
        *(temperature, top_k, top_p, min_p, allowed, uniform_samples, seed, position, out),
    )
