# SPDX-License-Identifier: Apache-2.0
"""Which Hugging Face models can be routed per sublayer, and how their layers see the cache.

A family is listed once its slim views, its masks and its greedy decoding have been compared with
transformers' own model. Everything else is refused by name, because a model whose layers mix
attention and MLP in another way would decode wrongly without an error.
"""

from __future__ import annotations

from typing import Any

import torch

from via_ext.fingerprint import fingerprint
from via_ext.route import SlimRoute

# How a family's forward pass takes its attention mask: one tensor, or one per layer type.
_ONE_MASK = ("llama", "mistral", "olmo2", "phi3", "qwen3_moe")
_MASK_PER_TYPE = ("gemma2", "gemma3_text", "gpt_oss", "qwen2", "qwen3", "smollm3")
# Families with one mask whose `sliding_window`, where set, holds in every layer.
_ONE_WINDOW = ("mistral", "phi3", "qwen3_moe")

SUPPORTED_FAMILIES = tuple(sorted(_ONE_MASK + _MASK_PER_TYPE))

# Why other families are refused, by what their layers are made of.
_PARALLEL = (
    "its attention and MLP share one residual, so neither can be skipped alone",
    "cohere cohere2 cohere2_moe falcon gpt_neox gpt_neox_japanese gptj codegen phi persimmon",
)
_RECURRENT = (
    "its layers keep a recurrent state that cannot be rolled back or shared by a tree",
    "mamba mamba2 falcon_mamba falcon_h1 jamba bamba zamba zamba2 rwkv recurrent_gemma lfm2 "
    "lfm2_moe qwen3_next qwen3_5 granitemoehybrid nemotron_h kimi_linear xlstm olmo_hybrid",
)
_ENCODER_DECODER = "it is an encoder-decoder model"
_WRAPPER = "it is a wrapper around a language model, which is to be given by itself"
_UNTESTED = "it has not been compared with transformers' own decoding"

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
            f"got {config.model_type}: {_why_not(config)}"
        )
    if not hasattr(model, "lm_head") or not hasattr(getattr(model, "model", None), "layers"):
        raise TypeError(
            f"Decoder: {role} must be a causal language model with layers and an lm_head, "
            f"got {type(model).__name__}"
        )
    _check_config(config, role)
    _check_modules(model, role)
    if model.training and getattr(config, "attention_dropout", 0.0) > 0.0:
        raise ValueError(f"Decoder: {role} must be in eval mode, got training mode with dropout")
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


def _why_not(config: Any) -> str:
    """The reason why a family is refused."""
    for reason, families in (_PARALLEL, _RECURRENT):
        if config.model_type in families.split():
            return reason
    if getattr(config, "is_encoder_decoder", False):
        return _ENCODER_DECODER
    return _WRAPPER if hasattr(config, "text_config") else _UNTESTED


def _check_config(config: Any, role: str) -> None:
    """Raises ValueError for settings of a supported family that a tree cannot follow."""
    parameters = getattr(config, "rope_parameters", None) or {}
    # One set of parameters, or one per layer type.
    per_type = [value for value in parameters.values() if isinstance(value, dict)]
    for rope in per_type or [parameters]:
        rope_type = rope.get("rope_type", "default")
        if rope_type not in STATIC_ROPE_TYPES:
            raise ValueError(
                f"Decoder: {role} must use one of the rope types {', '.join(STATIC_ROPE_TYPES)}, "
                f"got {rope_type}"
            )
    for kind in getattr(config, "layer_types", None) or []:
        if kind not in ("full_attention", "sliding_attention"):
            raise ValueError(
                f"Decoder: {role} must have full_attention or sliding_attention layers, got {kind}"
            )
    if getattr(config, "use_bidirectional_attention", False):
        raise ValueError(f"Decoder: {role} must be causal, got use_bidirectional_attention")
    if config._attn_implementation not in ATTENTION_BACKENDS:
        raise ValueError(
            f"Decoder: {role} must use one of the attention backends "
            f"{', '.join(ATTENTION_BACKENDS)}, got {config._attn_implementation}"
        )


def _check_modules(model: Any, role: str) -> None:
    """Raises ValueError for modules that the views or the passes do not fit."""
    if any(hasattr(module, "_hf_hook") for module in model.modules()):
        raise ValueError(
            f"Decoder: {role} must be on one device, got a model dispatched by accelerate"
        )
    # Before the embedding scaled itself, the model's forward scaled any inputs_embeds it got:
    # passes that start from hidden states would be scaled twice.
    if model.config.model_type.startswith("gemma") and not hasattr(
        model.get_input_embeddings(), "embed_scale"
    ):
        raise ValueError(
            f"Decoder: {role} must have an embedding that scales its own output, "
            "got one of an older transformers"
        )
    packed = next((m for m in model.modules() if type(m).__name__.startswith("Mxfp4")), None)
    if packed is not None:
        raise ValueError(
            f"Decoder: {role} must have plain expert weights (load it with "
            f"Mxfp4Config(dequantize=True)), got {type(packed).__name__}"
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
    if config.model_type in _ONE_WINDOW:
        return [window] * config.num_hidden_layers
    types = getattr(config, "layer_types", None) or ["full_attention"] * config.num_hidden_layers
    return [window if kind == "sliding_attention" else None for kind in types]


def mask_by_layer_type(config: Any) -> bool:
    """True if the model's forward takes one mask per layer type instead of one tensor."""
    return config.model_type in _MASK_PER_TYPE


def sublayer_norms(layer: Any) -> tuple[list[str], list[str]]:
    """Names of the norms that serve the attention, and the MLP, of a decoder layer only.

    Layers that also, or only, norm a sublayer's output (gemma2, gemma3, olmo2) call the norm after
    the attention what others call the norm before the MLP.
    """
    if hasattr(layer, "post_feedforward_layernorm"):
        attention = ["input_layernorm", "post_attention_layernorm"]
        mlp = ["pre_feedforward_layernorm", "post_feedforward_layernorm"]
    else:
        attention, mlp = ["input_layernorm"], ["post_attention_layernorm"]
    return (
        [name for name in attention if hasattr(layer, name)],
        [name for name in mlp if hasattr(layer, name)],
    )


def mlp_returns_tuple(config: Any) -> bool:
    """True if the layers unpack (output, router scores) from their MLP."""
    return bool(config.model_type == "gpt_oss")
