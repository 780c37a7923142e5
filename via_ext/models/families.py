# SPDX-License-Identifier: Apache-2.0
"""Which Hugging Face models can be routed per sublayer, and how their layers see the cache.

A family is listed once its slim views, its masks and its greedy decoding have been compared with
transformers' own model. Everything else is refused by name, because a model whose layers mix
attention and MLP in another way would decode wrongly without an error.
"""

from __future__ import annotations

from typing import Any

import torch

from via_ext.route import SlimRoute, fingerprint

SUPPORTED_FAMILIES = ("llama", "mistral", "qwen2", "qwen3")

# Rope types whose frequencies depend on the sequence length seen so far give other values for a
# draft tree than for plain decoding: they are refused.
STATIC_ROPE_TYPES = ("default", "linear", "llama3", "yarn")

# Mask formats we can build for a tree: boolean for sdpa, additive for eager.
ATTENTION_BACKENDS = ("sdpa", "eager")


def check_supported(model: Any, role: str = "target") -> None:
    """Raises if `model` cannot be decoded by the torch engine.

    Args:
        model: a `transformers` causal language model.
        role: the argument's name in error messages.

    Raises:
        TypeError: `model` is not a causal language model with a config, or its weights are fake,
            sparse or distributed.
        ValueError: its family, rope type, attention backend or placement is not supported.
    """
    config: Any = getattr(model, "config", None)
    if not isinstance(model, torch.nn.Module) or not hasattr(config, "model_type"):
        raise TypeError(f"Decoder: {role} must be a transformers model, got {type(model).__name__}")
    if config.model_type not in SUPPORTED_FAMILIES:
        raise ValueError(
            f"Decoder: {role} must be of one of the families {', '.join(SUPPORTED_FAMILIES)}, "
            f"got {config.model_type}"
        )
    if not hasattr(model, "lm_head") or not hasattr(getattr(model, "model", None), "layers"):
        raise TypeError(
            f"Decoder: {role} must be a causal language model with layers and an lm_head, "
            f"got {type(model).__name__}"
        )
    rope_type = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    if rope_type not in STATIC_ROPE_TYPES:
        raise ValueError(
            f"Decoder: {role} must use one of the rope types {', '.join(STATIC_ROPE_TYPES)}, "
            f"got {rope_type}"
        )
    if config._attn_implementation not in ATTENTION_BACKENDS:
        raise ValueError(
            f"Decoder: {role} must use one of the attention backends "
            f"{', '.join(ATTENTION_BACKENDS)}, got {config._attn_implementation}"
        )
    if model.training and getattr(config, "attention_dropout", 0.0) > 0.0:
        raise ValueError(f"Decoder: {role} must be in eval mode, got training mode with dropout")
    if any(hasattr(module, "_hf_hook") for module in model.modules()):
        raise ValueError(
            f"Decoder: {role} must be on one device, got a model dispatched by accelerate"
        )
    for name, weight in model.named_parameters():
        # By name: importing DTensor would load torch.distributed.
        kinds = {kind.__name__ for kind in type(weight).__mro__}
        if weight.layout != torch.strided or kinds & {"DTensor", "FakeTensor"}:
            got = f"{type(weight).__name__} of layout {weight.layout} as {name}"
            raise TypeError(f"Decoder: {role} must have dense local weights, got {got}")
        if weight.device.type not in ("cpu", "cuda"):
            raise ValueError(
                f"Decoder: {role} must be on the CPU or a CUDA device, got {name} on "
                f"{weight.device}"
            )
        if weight.device != (first := next(model.parameters()).device):
            raise ValueError(
                f"Decoder: {role} must be on one device, got {name} on {weight.device} beside "
                f"{first}"
            )


def check_route(route: SlimRoute, model: Any) -> None:
    """Raises ValueError if `route` has other layers than `model` or was saved with another one."""
    layers = model.config.num_hidden_layers
    if route.num_layers != layers:
        raise ValueError(f"Decoder: route must have {layers} layers, got {route.num_layers}")
    if route.fingerprint is not None and route.fingerprint != fingerprint(model):
        raise ValueError(
            f"Decoder: route must be of this model, got one saved with {route.fingerprint}"
        )


def layer_windows(config: Any) -> list[int | None]:
    """Sliding window of every layer in positions (own included), None = all positions."""
    window = getattr(config, "sliding_window", None)
    if config.model_type == "mistral":
        return [window] * config.num_hidden_layers
    types = getattr(config, "layer_types", None) or ["full_attention"] * config.num_hidden_layers
    return [window if kind == "sliding_attention" else None for kind in types]


def mask_by_layer_type(config: Any) -> bool:
    """True if the model's forward takes one mask per layer type instead of one tensor."""
    return config.model_type in ("qwen2", "qwen3")
