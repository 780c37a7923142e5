# SPDX-License-Identifier: Apache-2.0
"""What `transformers`' generate hands over, read; the only file that knows its inner names.

Written against transformers 5.15 to 5.23. Processors and criteria are read from the lists that
plain generate would run, never from the configuration: a caller's own objects have replaced
default ones there.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from transformers.generation import logits_process as processes
from transformers.generation.stopping_criteria import (
    EosTokenCriteria,
    MaxLengthCriteria,
    StoppingCriteriaList,
    StopStringCriteria,
)
from transformers.generation.utils import GenerateDecoderOnlyOutput

from via_ext.engines.hooks import copy_of
from via_ext.stats import DecodeStats

# These keep what they have seen, or call the model.
_STATEFUL = ("SynthIDTextWatermarkLogitsProcessor", "WhisperTimeStampLogitsProcessor")
_CALLS_THE_MODEL = (
    "UnbatchedClassifierFreeGuidanceLogitsProcessor",
    "ClassifierFreeGuidanceLogitsProcessor",
    "WhisperNoSpeechDetection",
)


@dataclass
class ViaGenerateOutput(GenerateDecoderOnlyOutput):
    """transformers' output object with what a run of this package knows besides.

    Attributes:
        via_stats: totals of the run.
        via_tiers: [B, new] uint8, as `DecodeResult.tiers`.
        via_logprobs: [B, new] float32, as `DecodeResult.logprobs`.
    """

    via_stats: DecodeStats | None = None
    via_tiers: torch.Tensor | None = None
    via_logprobs: torch.Tensor | None = None


class EndRules(NamedTuple):
    """Stopping criteria, those that the engine knows itself apart from the others."""

    eos_token_ids: tuple[int, ...]
    max_length: int
    others: list[Any]


def read_criteria(criteria: Any, generation_config: Any) -> EndRules:
    """Splits a prepared StoppingCriteriaList.

    Args:
        criteria: what generate hands to a decoding method.
        generation_config: gives the length where no criterion does.
    """
    eos: tuple[int, ...] = ()
    lengths: list[int] = []
    others = []
    for criterion in criteria:
        if type(criterion) is EosTokenCriteria:
            eos += tuple(criterion.eos_token_id.flatten().tolist())
        elif type(criterion) is MaxLengthCriteria:
            lengths.append(criterion.max_length)
        else:
            others.append(criterion)
    return EndRules(eos, min(lengths, default=generation_config.max_length), others)


def is_stateful(processors: Any) -> bool:
    """True if one may remember its calls; those of transformers are known, others may."""
    return any(
        type(processor).__module__ != processes.__name__ or type(processor).__name__ in _STATEFUL
        for processor in processors
    )


def calls_the_model(processor: Any) -> bool:
    """True for processors that run the model on a sequence of their own (guidance)."""
    return type(processor).__name__ in _CALLS_THE_MODEL


def row_processors(processors: Any, row: int, batch: int) -> Any:
    """The processors of one batch row, to be called with one row.

    A batch of one keeps the caller's own objects. Else stateful ones are copied, those that index
    the batch are cut to their row, and an object with `for_row(index)` gives its own.

    Raises:
        TypeError: one cannot be copied.
    """
    if batch == 1:
        return processes.LogitsProcessorList(processors)
    result = processes.LogitsProcessorList()
    for processor in processors:
        if hasattr(processor, "for_row"):
            result.append(processor.for_row(row))
        elif type(processor) is processes.PrefixConstrainedLogitsProcessor:
            allowed: Any = _AllowedInRow(processor._prefix_allowed_tokens_fn, row)
            result.append(processes.PrefixConstrainedLogitsProcessor(allowed, 1))
        else:
            result.append(_cut(processor, row))
    return result


class _AllowedInRow(NamedTuple):
    """A prefix_allowed_tokens_fn that is told the row it has in the batch."""

    allowed: Any
    row: int

    def __call__(self, _: int, ids: torch.Tensor) -> Any:
        return self.allowed(self.row, ids)


def _cut(processor: Any, row: int) -> Any:
    kind = type(processor)
    if kind is processes.RepetitionPenaltyLogitsProcessor:
        ignored = processor.prompt_ignore_length
        if isinstance(ignored, torch.Tensor):
            processor = copy.copy(processor)
            processor.prompt_ignore_length = ignored[row : row + 1]
        return processor
    if kind is processes.EncoderRepetitionPenaltyLogitsProcessor:
        processor = copy.copy(processor)
        processor.encoder_input_ids = processor.encoder_input_ids[row : row + 1]
        return processor
    if kind is processes.EncoderNoRepeatNGramLogitsProcessor:
        processor = copy.copy(processor)
        processor.generated_ngrams = [processor.generated_ngrams[row]]
        processor.batch_size = 1
        return processor
    return copy_of(processor) if is_stateful([processor]) else processor


def row_criteria(criteria: list[Any], batch: int) -> Any:
    """Stopping criteria of one batch row: a function of ([1, n] ids, scores), or None.

    Raises:
        TypeError: the batch has several rows and a criterion cannot be copied.
    """
    if not criteria:
        return None
    own = StoppingCriteriaList(criteria if batch == 1 else copy_of(criteria))

    def ended(ids: torch.Tensor, scores: tuple[torch.Tensor, ...] | None) -> bool:
        return bool(own(ids, scores).all())

    return ended


def with_stop_strings(tokenizer: Any, stop_strings: tuple[str, ...], criteria: Any) -> Any:
    """A StoppingCriteriaList of `criteria` (a list or None) and the end at these texts."""
    own = StopStringCriteria(tokenizer, list(stop_strings))
    return StoppingCriteriaList([*(criteria or ()), own])


def is_users_cache(cache: Any) -> bool:
    """True for a cache that the caller gave, False for the empty one that generate prepared."""
    return bool(getattr(cache, "_is_user_defined", False) or cache.get_seq_length() > 0)
