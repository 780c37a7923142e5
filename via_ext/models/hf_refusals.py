# SPDX-License-Identifier: Apache-2.0
"""What `custom_generate` cannot honour, by name: nothing is dropped in silence."""

from __future__ import annotations

from typing import Any

import torch

from via_ext.models.hf_compat import calls_the_model, is_users_cache

# Field of GenerationConfig -> values that ask for nothing.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "num_beams": (None, 1),
    "num_beam_groups": (None, 1),
    "penalty_alpha": (None, 0.0),
    "dola_layers": (None,),
    "constraints": (None,),
    "force_words_ids": (None,),
    "guidance_scale": (None, 1.0),
    "prompt_lookup_num_tokens": (None,),
    "assistant_early_exit": (None,),
    "use_mtp": (None, False),
    "is_assistant": (None, False),
    "output_attentions": (None, False),
    "output_hidden_states": (None, False),
    "token_healing": (None, False),
    "cache_implementation": (None, "dynamic", "static"),
}
_INSTEAD = {
    "prompt_lookup_num_tokens": "; give drafter=PromptLookupDrafter()",
    "assistant_early_exit": "; give a drafter",
    "use_mtp": "; give a drafter",
}
# Prepared by generate for its own loop; the engine has a KV arena of its own.
_IGNORED = {"attention_mask", "use_cache", "logits_to_keep", "cache_position"}


def refuse_unsupported(
    model: Any,
    input_ids: torch.Tensor,
    generation_config: Any,
    processors: Any,
    model_kwargs: dict[str, Any],
) -> None:
    """Raises for what the decoding loop cannot honour.

    Args:
        model: the model that generate was called on.
        input_ids: [B, T].
        generation_config: prepared.
        processors: prepared logits processors.
        model_kwargs: what is left for the model's forward.

    Raises:
        ValueError: the text names the setting.
    """
    if getattr(model.config, "is_encoder_decoder", False):
        raise _reject("model", "be decoder-only", "an encoder-decoder")
    for name, neutral in _NEUTRAL.items():
        value = getattr(generation_config, name, None)
        if value not in neutral:
            rule = f"be {' or '.join(map(str, neutral))}{_INSTEAD.get(name, '')}"
            raise _reject(name, rule, value)
    for processor in processors:
        if calls_the_model(processor):
            raise _reject("logits_processor", "not run the model", type(processor).__name__)
    cache = model_kwargs.get("past_key_values")
    if cache is not None and is_users_cache(cache):
        raise _reject("past_key_values", "be None", type(cache).__name__)
    known = _IGNORED | {"past_key_values", "position_ids"}
    for name, value in model_kwargs.items():
        if name not in known and value is not None:
            raise _reject(name, "be None", type(value).__name__)
    mask = model_kwargs.get("attention_mask")
    if mask is not None and not bool(mask[:, -1].all()):
        raise _reject("attention_mask", "pad on the left", "padding on the right")
    expected = torch.arange(input_ids.shape[1])[None].to(input_ids.device)
    if mask is not None:
        expected = mask.long().cumsum(-1) - 1
    position_ids = model_kwargs.get("position_ids")
    if position_ids is not None:
        # Positions of padding mean nothing.
        real = torch.ones_like(expected, dtype=torch.bool) if mask is None else mask.bool()
        if bool(((position_ids != expected) & real).any()):
            raise _reject("position_ids", "count the prompt's tokens from 0", "other positions")


def _reject(name: str, rule: str, got: object) -> ValueError:
    return ValueError(f"custom_generate: {name} must {rule}, got {got}")
