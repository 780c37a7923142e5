# SPDX-License-Identifier: Apache-2.0
"""transformers' logits processors as settings of `ViaConfig`, where they mean the same."""

from __future__ import annotations

from typing import Any, NamedTuple

from transformers.generation import logits_process as processes


class FusedRules(NamedTuple):
    """Processors that `ops.verify` applies itself.

    Attributes:
        filters: temperature, top_k, top_p, min_p.
        min_new_tokens: end of sequence is masked until then.
    """

    filters: dict[str, Any]
    min_new_tokens: int


def fused_rules(processors: Any, prompt_length: int, eos: tuple[int, ...]) -> FusedRules | None:
    """The processors as settings of `ViaConfig`, or None where one of them is something else.

    Order and meaning are the same for temperature, top-k (ties of the k-th value stay), top-p (mass
    before a kept token < p) and min-p; tokens of equal probability at the edge of top-p are ordered
    by id here and arbitrarily there. Other orders, other filter values and `min_tokens_to_keep` > 1
    are not expressed.

    Args:
        processors: what generate hands to a decoding method.
        prompt_length: padded.
        eos: end-of-sequence ids of the run.
    """
    filters: dict[str, Any] = {"temperature": 1.0}
    min_new, rank = 0, 0
    for processor in processors:
        kind = type(processor)
        if kind in (
            processes.MinLengthLogitsProcessor,
            processes.MinNewTokensLengthLogitsProcessor,
        ):
            if set(processor.eos_token_id.flatten().tolist()) != set(eos):
                return None
            if kind is processes.MinLengthLogitsProcessor:
                needed = processor.min_length - prompt_length
            elif processor.prompt_length_to_skip == prompt_length:
                needed = processor.min_new_tokens
            else:
                return None
            place, min_new = 0, max(min_new, needed)
        elif kind is processes.TemperatureLogitsWarper:
            place, filters["temperature"] = 1, float(processor.temperature)
        elif kind is processes.TopKLogitsWarper and _cuts_off(processor):
            place, filters["top_k"] = 2, int(processor.top_k)
        elif kind is processes.TopPLogitsWarper and _cuts_off(processor) and processor.top_p > 0:
            place, filters["top_p"] = 3, float(processor.top_p)
        elif kind is processes.MinPLogitsWarper and _cuts_off(processor):
            place, filters["min_p"] = 4, float(processor.min_p)
        else:
            return None
        if place < rank or (place == rank > 0):
            return None
        rank = place
    return FusedRules(filters, min_new)


def _cuts_off(processor: Any) -> bool:
    """True for a filter that sets -inf and may leave one token."""
    keeps = getattr(processor, "min_tokens_to_keep", 1)
    return bool(processor.filter_value == -float("inf") and keeps == 1)


def drafting_filters(processors: Any) -> dict[str, Any]:
    """Temperature and filters among the processors, for a drafter to draw in a like manner.

    Any distribution drafts exactly; one that is near the target's is accepted more often.
    """
    filters: dict[str, Any] = {}
    for processor in processors:
        kind = type(processor)
        if kind is processes.TemperatureLogitsWarper:
            filters["temperature"] = float(processor.temperature)
        elif kind is processes.TopKLogitsWarper:
            filters["top_k"] = int(processor.top_k)
        elif kind is processes.TopPLogitsWarper and processor.top_p > 0:
            filters["top_p"] = float(processor.top_p)
        elif kind is processes.MinPLogitsWarper:
            filters["min_p"] = float(processor.min_p)
    return filters
