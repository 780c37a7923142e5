# SPDX-License-Identifier: Apache-2.0
"""Drop-in for rejection_sample of vllm/v1/worker/gpu/spec_decode/rejection_sampler_utils.py."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from via_ext.compat._common import MAX_NODES, Arguments, emitted_tokens, view_rows
from via_ext.ops._verify import verify_rows

__all__ = ["rejection_sample"]

_OP = "rejection_sample"


def rejection_sample(
    target_logits: Tensor,
    draft_logits: Tensor | None,
    draft_sampled: Tensor,
    cu_num_logits: Tensor,
    pos: Tensor,
    idx_mapping: Tensor,
    expanded_idx_mapping: Tensor,
    expanded_local_pos: Tensor,
    temperature: Tensor,
    seed: Tensor,
    num_speculative_steps: int,
    synthetic_conditional_rates: Tensor | None = None,
    use_fp64: bool = False,
    use_block_verification: bool = False,
    *,
    draft_temperature: bool = False,
) -> tuple[Tensor, Tensor]:
    """Lossless acceptance of ragged chains from logits, greedy and random requests mixed.

    Draft x passes iff u * q(x) < p(x), p and q being the softmax of the rows as they stand; the
    first that fails is replaced by a draw from max(p - q, 0), or from p without x if there are no
    draft logits; if all pass, a token is drawn from the last row. At temperature 0 a draft passes
    iff it is the row's argmax, and the argmax follows. CUDA: no host synchronisation; may be
    captured in a graph.

    Unlike vLLM: rows after the first rejection are not read; a smaller draft vocabulary means
    q = 0 above it, and the target keeps its mass there (vLLM drops it, so its law is cut off);
    `sampled` is -1 past num_sampled; NaN counts as -inf; ids outside the vocabulary are never
    accepted. Uniforms are Philox4x32-10 of (seed; pos of the request's first row, draft, purpose):
    other numbers than vLLM's, and accept and draw never share one.

    Args:
        target_logits: [n, V] float32, float16 or bfloat16, temperature and filters applied.
        draft_logits: [R, K, V_draft], rows of the request states, or None (one-hot).
        draft_sampled: [n] int32 or int64; the draft that row i judges is draft_sampled[i + 1]. -1
            is never accepted.
        cu_num_logits: [B+1] int32 or int64, where each request's rows begin.
        pos: [n] int32 or int64 positions.
        idx_mapping: [B] int32 or int64, the request's state.
        expanded_idx_mapping: [n], the same per row; follows from idx_mapping, so only checked.
        expanded_local_pos: [n], row within the request; likewise.
        temperature: [R] float; 0 = greedy.
        seed: [R] int64.
        num_speculative_steps: K <= 127.
        synthetic_conditional_rates: refused, verification is not simulated here.
        use_fp64: decisions and sums are float64 whatever it says.
        use_block_verification: refused.
        draft_temperature: divide the draft's logits by the request's temperature, as vLLM releases
            do that store them raw; costs a copy.

    Returns:
        sampled [B, K+1] int64, padded -1, and num_sampled [B] int32.

    Raises:
        TypeError: wrong dtype or argument type.
        ValueError: wrong shape, device or range, or a refused argument.
        RuntimeError: CUDA failed, or CUDA tensors in a build without CUDA.
    """
    if synthetic_conditional_rates is not None:
        raise ValueError(f"{_OP}: synthetic_conditional_rates must be None, got rates")
    if use_block_verification:
        raise ValueError(f"{_OP}: use_block_verification must be False, got True")
    if isinstance(num_speculative_steps, bool) or not isinstance(num_speculative_steps, int):
        got = type(num_speculative_steps).__name__
        raise TypeError(f"{_OP}: num_speculative_steps must be an integer, got {got}")
    arguments = Arguments(_OP, target_logits, "target_logits")
    steps = arguments.at_most("num_speculative_steps", num_speculative_steps, MAX_NODES)
    if steps < 0:
        raise ValueError(f"{_OP}: num_speculative_steps must be at least 0, got {steps}")
    logits = arguments.rows("target_logits", target_logits, (None, None), "[n, V]")
    num_logits, vocab_size = logits.shape
    ids = arguments.ids("draft_sampled", draft_sampled, (num_logits,), "[n]")
    position = arguments.ids("pos", pos, (num_logits,), "[n]").long()
    arguments.ids("expanded_idx_mapping", expanded_idx_mapping, (num_logits,), "[n]")
    arguments.ids("expanded_local_pos", expanded_local_pos, (num_logits,), "[n]")
    state = arguments.ids("idx_mapping", idx_mapping, (None,), "[B]").long()
    batch_size = state.shape[0]
    bounds = arguments.ids("cu_num_logits", cu_num_logits, (batch_size + 1,), "[B+1]").long()
    heat = arguments.floats("temperature", temperature, (None,), "[R]")
    num_states = heat.shape[0]
    keys = arguments.ids("seed", seed, (num_states,), "[R]").long()
    draft = None
    if draft_logits is not None:
        words = "[R, K, V_draft]"
        draft = arguments.rows("draft_logits", draft_logits, (num_states, steps, None), words)
    if batch_size == 0 or num_logits == 0 or num_states == 0:
        if batch_size > 0:
            raise ValueError(f"{_OP}: target_logits must have a row per request, got {num_logits}")
        sampled = torch.empty((0, steps + 1), dtype=torch.int64, device=arguments.device)
        return sampled, torch.empty(0, dtype=torch.int32, device=arguments.device)
    # Rows of request b; what lies past its count is cut by num_nodes.
    last = num_logits - 1
    starts = bounds[:-1].clamp(0, last)
    counts = (bounds[1:].clamp(0, num_logits) - starts - 1).clamp(0, steps)
    columns = torch.arange(steps + 1, device=arguments.device)
    index = (starts[:, None] + columns).clamp(max=last)
    state = state.clamp(0, num_states - 1)
    heat = heat[state]
    drafts = ids[(index[:, :-1] + 1).clamp(max=last)]
    result = verify_rows(
        drafts,
        view_rows(logits, batch_size, steps + 1),
        "sample",
        num_nodes=counts,
        temperature=(heat != 0).float(),
        seed=keys[state],
        position=position[starts],
        logits_offsets=index * logits.stride(0),
        **_draft(draft, vocab_size, state, columns[:-1], heat if draft_temperature else None),
    )
    sampled = emitted_tokens(drafts, result.num_accepted, result.next_token, torch.int64)
    return sampled, result.num_accepted + 1


def _draft(
    draft: Tensor | None, vocab_size: int, state: Tensor, columns: Tensor, heat: Tensor | None
) -> dict[str, Any]:
    """The draft's rows, by their offsets; as many columns as the target's vocabulary, or a map."""
    if draft is None or draft.shape[1] == 0:
        return {}
    if heat is not None:
        warm = torch.where(heat > 0, heat, 1.0)[:, None, None]
        draft = draft[state].float() / warm
        state = torch.arange(len(heat), device=heat.device)
    draft = draft[..., :vocab_size]
    offsets = (state * draft.stride(0))[:, None] + columns * draft.stride(1)
    arguments = {
        "draft_logits": view_rows(draft, len(state), len(columns)),
        "draft_offsets": offsets,
    }
    if draft.shape[-1] < vocab_size:
        arguments["draft_to_target"] = torch.arange(draft.shape[-1], device=draft.device)
    return arguments
