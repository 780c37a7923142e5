# SPDX-License-Identifier: Apache-2.0
"""Sub-models that share every parameter with the full model: the slim verifier and its parts.

A view is made of shallow copies of the modules on the way down to the kept sublayers; weights,
embeddings, final norm and LM head are the full model's own tensors. A skipped sublayer is replaced
by a module that returns zero, which the residual stream adds: bit-identical to the full model with
that sublayer's output zeroed. A layer with neither sublayer is dropped.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

import torch

from via_ext.models.families import check_route, check_supported
from via_ext.route import SlimRoute

_Module = TypeVar("_Module", bound=torch.nn.Module)


class KeptLayer(NamedTuple):
    """One layer of a view: its index in the full model and the sublayers it keeps."""

    layer_idx: int
    attention: bool = True
    mlp: bool = True


class _SkippedAttention(torch.nn.Module):
    """Stands where an attention sublayer was: adds nothing, touches no cache."""

    def forward(self, hidden_states: torch.Tensor, **_: Any) -> tuple[torch.Tensor, None]:
        return torch.zeros_like(hidden_states), None


class _SkippedMlp(torch.nn.Module):
    """Stands where an MLP sublayer was: adds nothing."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(hidden_states)


def shallow_copy(module: _Module) -> _Module:
    """Copies a module without its parameters: same tensors and children, own registries."""
    copied = module.__class__.__new__(module.__class__)
    # Every dict of a module (children, hooks, buffers) is copied, so that hooks and replaced
    # children of the copy never reach the original.
    copied.__dict__ = {
        key: copy.copy(value) if isinstance(value, dict) else value
        for key, value in module.__dict__.items()
    }
    return copied


def layer_view(model: _Module, layers: Sequence[KeptLayer]) -> _Module:
    """Returns a model made of `layers` of `model`, in order, sharing all parameters.

    Attention sublayers are numbered 0, 1, ... in the view (`self_attn.layer_idx`), and
    `self_attn.full_layer_idx` tells which layer of the full model they came from. The first cache
    slot therefore always belongs to an attention that runs, also if the first layer's is skipped:
    transformers takes the cache's length from that slot.

    Args:
        model: a supported `transformers` causal language model.
        layers: the kept layers, ascending.

    Returns:
        A model of the same class; `.generate()` works on it.
    """
    full_config: Any = model.config
    config = copy.deepcopy(full_config)
    config.num_hidden_layers = len(layers)
    if getattr(config, "layer_types", None):
        config.layer_types = [full_config.layer_types[layer.layer_idx] for layer in layers]
    view: Any = shallow_copy(model)
    view.config = config
    view.model = shallow_copy(view.model)
    view.model.config = config
    kept = []
    slot = 0
    for layer in layers:
        block: Any = shallow_copy(view.model.layers[layer.layer_idx])
        if layer.attention:
            block.self_attn = shallow_copy(block.self_attn)
            block.self_attn.full_layer_idx = block.self_attn.layer_idx
            block.self_attn.layer_idx = slot
            slot += 1
        else:
            block.self_attn = _SkippedAttention()
            block.input_layernorm = torch.nn.Identity()  # feeds nothing but the skipped sublayer
        if not layer.mlp:
            block.mlp = _SkippedMlp()
            block.post_attention_layernorm = torch.nn.Identity()
        kept.append(block)
    view.model.layers = torch.nn.ModuleList(kept)
    if hasattr(view.model, "has_sliding_layers"):
        view.model.has_sliding_layers = "sliding_attention" in config.layer_types
    return view  # type: ignore[no-any-return]


def route_layers(route: SlimRoute) -> list[KeptLayer]:
    """Layers of the slim verifier; layers without a sublayer are dropped."""
    pairs = zip(route.keep_attention, route.keep_mlp, strict=True)
    return [
        KeptLayer(layer_idx, attention, mlp)
        for layer_idx, (attention, mlp) in enumerate(pairs)
        if attention or mlp
    ]


def slim_view(model: _Module, route: SlimRoute) -> _Module:
    """Returns the slim verifier of `model` under `route`, without a second copy of any weight.

    The result is a stock model: it runs by itself, under `torch.compile`, and as an
    `assistant_model`.

    Args:
        model: a supported `transformers` causal language model.
        route: the sublayers to keep, one pair per layer of `model`.

    Raises:
        ValueError: the route has another number of layers than the model, keeps no sublayer, or
            was saved with another model; or the family is not supported.
    """
    check_supported(model)
    check_route(route, model)
    return layer_view(model, route_layers(route))
