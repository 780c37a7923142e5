# SPDX-License-Identifier: Apache-2.0
"""`generate`: one call, with every argument that transformers keeps from a custom method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from functools import partial
from typing import Any

import torch

from via_ext.config import ViaConfig
from via_ext.custom import GENERATION_FIELDS, custom_generate
from via_ext.decode import Decoder
from via_ext.drafters import Drafter
from via_ext.prompts import read_prompts
from via_ext.result import DecodeResult
from via_ext.route import SlimRoute

# What GenerationConfig decides, at rest.
_DEFAULTS: dict[str, Any] = {
    field.name: field.default for field in fields(ViaConfig) if field.name in GENERATION_FIELDS
}


def generate(
    target: Any,
    input_ids: torch.Tensor | Sequence[torch.Tensor],
    drafter: Drafter | Any | None = None,
    route: SlimRoute | None = None,
    config: ViaConfig | None = None,
    *,
    attention_mask: torch.Tensor | None = None,
    streamer: Any = None,
    tokenizer: Any = None,
    assistant_model: Any = None,
    stop_strings: str | Sequence[str] = (),
    **options: Any,
) -> DecodeResult:
    """Decodes a batch in one call.

    `options` are arguments of `target.generate` (`generation_config`, `logits_processor`,
    `stopping_criteria`, `prefix_allowed_tokens_fn`, `repetition_penalty`, `do_sample`, ...): with
    one of them the run goes through `custom_generate`, with its rules and refusals, and the model's
    own generation_config counts. There an option stands above `config`, and a `generation_config`
    decides lengths and sampling alone. Without options only `config` counts (and the model's end of
    sequence).

    Args:
        target: a supported `transformers` causal language model.
        input_ids: [B, T] or [T] int32 or int64, or a list of 1-D tensors.
        drafter: a `Drafter`, a model, or None.
        route: the slim verifier, None = two tiers.
        config: mode, thresholds, sampling, lengths; default `ViaConfig()`.
        attention_mask: [B, T], 1 = token, 0 = padding.
        streamer: object with `put(ids)` and `end()`; gets the prompt [1, T], then each confirmed
            piece [n] once and in order. Batch 1 only.
        tokenizer: needed for stop strings.
        assistant_model: transformers' name for a drafter.
        stop_strings: texts that end a request, besides those of `config`.
        options: see above.

    Returns:
        As `Decoder.generate`.

    Raises:
        TypeError: a wrong type or dtype.
        ValueError: a wrong shape or value, a streamer with more than one prompt, or an option that
            cannot be honoured (beams, ...).
    """
    config = ViaConfig() if config is None else config
    if not isinstance(config, ViaConfig):
        raise TypeError(f"generate: config must be a ViaConfig, got {type(config).__name__}")
    if assistant_model is not None:
        if drafter is not None:
            raise ValueError("generate: assistant_model must be None beside a drafter, got both")
        drafter = assistant_model
    stops = (stop_strings,) if isinstance(stop_strings, str) else tuple(stop_strings)
    config = replace(config, stop_strings=config.stop_strings + stops)
    if options:
        return _through_transformers(
            target, input_ids, drafter, route, config, attention_mask, streamer, tokenizer, options
        )
    decoder = Decoder(target, drafter, route, config, tokenizer=tokenizer)
    return decoder.run(input_ids, attention_mask, streamer=streamer)


def _through_transformers(
    target: Any,
    input_ids: torch.Tensor | Sequence[torch.Tensor],
    drafter: Any,
    route: SlimRoute | None,
    config: ViaConfig,
    mask: torch.Tensor | None,
    streamer: Any,
    tokenizer: Any,
    options: dict[str, Any],
) -> DecodeResult:
    """Lets `target.generate` prepare processors and criteria for `custom_generate`."""
    if "custom_generate" in options:
        raise ValueError("generate: custom_generate must not be given, got one")
    ids, mask = _left_padded(input_ids, mask, target.config)
    if streamer is not None and len(ids) != 1:
        raise ValueError(f"generate: streamer must have a batch of 1, got {len(ids)}")
    settings = _settings(config, options)
    if config.stop_strings:
        # transformers drops the tokenizer on the way and would then ask for it.
        criteria = options.get("stopping_criteria")
        settings["stopping_criteria"] = _with_stop_strings(config, tokenizer, criteria)
    results: list[DecodeResult] = []
    method = partial(
        custom_generate,
        drafter=drafter,
        route=route,
        config=replace(config, **_DEFAULTS),
        streamer=streamer,
        tokenizer=tokenizer,
        results=results,
    )
    target.generate(ids, attention_mask=mask, streamer=streamer, custom_generate=method, **settings)
    return results[0]


def _left_padded(
    input_ids: torch.Tensor | Sequence[torch.Tensor], mask: torch.Tensor | None, config: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """[B, T] ids and mask as transformers wants them; rows given without padding are filled up."""
    prompts = read_prompts(input_ids, mask, config, 1)
    if isinstance(input_ids, torch.Tensor) and input_ids.dim() == 2:
        filled = torch.ones_like(input_ids) if mask is None else mask
        if bool(filled[:, -1].all()):
            return input_ids, filled
    pad = getattr(config, "pad_token_id", None) or 0
    width = max(map(len, prompts))
    ids = torch.tensor([[pad] * (width - len(row)) + row for row in prompts])
    return ids, torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in prompts])


def _settings(config: ViaConfig, options: dict[str, Any]) -> dict[str, Any]:
    """Arguments of transformers' generate: those of `config` under the caller's own."""
    if options.get("generation_config") is not None:
        for name, default in _DEFAULTS.items():
            if name != "stop_strings" and getattr(config, name) != default:
                raise ValueError(
                    f"generate: config.{name} must be left at its default beside a "
                    f"generation_config, got {getattr(config, name)!r}"
                )
        return dict(options)
    settings: dict[str, Any] = {"min_new_tokens": config.min_new_tokens or None}
    if "max_length" not in options:
        settings["max_new_tokens"] = config.max_new_tokens
    settings["do_sample"] = config.is_sampling
    if config.is_sampling:
        settings |= {"temperature": config.temperature, "top_k": config.top_k}
        settings |= {"top_p": config.top_p, "min_p": config.min_p or None}
    return settings | options


def _with_stop_strings(config: ViaConfig, tokenizer: Any, criteria: Any) -> Any:
    from via_ext.models import hf_compat

    if tokenizer is None:
        raise ValueError("generate: tokenizer must be given with stop_strings, got None")
    return hf_compat.with_stop_strings(tokenizer, config.stop_strings, criteria)
