# SPDX-License-Identifier: Apache-2.0
"""Sub-models that share every parameter with the full model: the slim verifier and its parts.

A view is made of shallow copies of the modules on the way down to the kept sublayers; weights,
embeddings, final norm and LM head are the full model's own tensors. A skipped sublayer is replaced
by a module that returns zero, and the norms that serve only that sublayer by the identity, so that
the residual stream adds zero: bit-identical to the full model with that sublayer's output zeroed,
before or after an output norm alike. A layer with neither sublayer is dropped.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

import torch

from via_ext.models.families import (
    layer_windows,
    mask_by_layer_type,
    mlp_returns_tuple,
    sublayer_norms,
)
from via_ext.route import SlimRoute

_Module = TypeVar("_Module", bound=torch.nn.Module)

_FULL, _SLIDING = "full_attention", "sliding_attention"


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

    def __init__(self, returns_tuple: bool) -> None:
        super().__init__()
        self._returns_tuple = returns_tuple

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, None]:
        zeros = torch.zeros_like(hidden_states)
        return (zeros, None) if self._returns_tuple else zeros


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

    Every attention sublayer has a cache slot of its own in the view (`self_attn.layer_idx`), and
    `self_attn.full_layer_idx` tells which layer of the full model it came from; see `_cache_slots`.

    Args:
        model: a supported `transformers` causal language model.
        layers: the kept layers, ascending.

    Returns:
        A model of the same class; `.generate()` works on it.
    """
    full: Any = model
    full_config = full.config
    # A model that is a view itself lacks what it skips.
    layers = [
        layer._replace(attention=layer.attention and not _skips_attention(full, layer.layer_idx))
        for layer in layers
    ]
    config = copy.deepcopy(full_config)
    config.num_hidden_layers = len(layers)
    if mask_by_layer_type(full_config):
        config.layer_types = _layer_types(full_config.layer_types, layers)
    elif any(layer_windows(full_config)):
        # Read by caches only: a slot without keys must not be a sliding one.
        count = sum(layer.attention for layer in layers)
        config.layer_types = [_SLIDING] * count + [_FULL] * (len(layers) - count)
    slots = _cache_slots(config, layers)
    view: Any = shallow_copy(model)
    view.config = config
    view.model = shallow_copy(view.model)
    view.model.config = config
    kept = []
    for layer, slot in zip(layers, slots, strict=True):
        block: Any = shallow_copy(view.model.layers[layer.layer_idx])
        attention_norms, mlp_norms = sublayer_norms(block)
        unused = []
        if layer.attention:
            block.self_attn = shallow_copy(block.self_attn)
            block.self_attn.full_layer_idx = layer.layer_idx
            block.self_attn.layer_idx = slot
        else:
            block.self_attn = _SkippedAttention()
            unused += attention_norms
        if not layer.mlp:
            block.mlp = _SkippedMlp(mlp_returns_tuple(config))
            unused += mlp_norms
        for name in unused:
            setattr(block, name, torch.nn.Identity())
        kept.append(block)
    view.model.layers = torch.nn.ModuleList(kept)
    if hasattr(view.model, "has_sliding_layers"):
        view.model.has_sliding_layers = "sliding_attention" in config.layer_types
    return view  # type: ignore[no-any-return]


def _skips_attention(model: Any, layer_idx: int) -> bool:
    return isinstance(model.model.layers[layer_idx].self_attn, _SkippedAttention)


def _layer_types(full_types: Sequence[str], layers: Sequence[KeptLayer]) -> list[str]:
    """Layer types of a view: a skipped attention has no use for a mask, so its type is free."""
    kept = {full_types[layer.layer_idx] for layer in layers if layer.attention}
    types = [full_types[layer.layer_idx] if layer.attention else _FULL for layer in layers]
    if layers and not layers[0].attention and kept == {_SLIDING}:
        types[0] = _SLIDING
    return types


def _cache_slots(config: Any, layers: Sequence[KeptLayer]) -> list[int]:
    """Cache slot of each layer's attention in a view, -1 without one.

    A transformers cache has one slot per layer, of that layer's type, and takes its length from
    slot 0 and its mask sizes from the first slot of a type. The attentions of a type therefore take
    the first slots of that type, and `_layer_types` sees to it that slot 0 is among them, also
    where the first layer's attention is skipped.
    """
    one_mask = not mask_by_layer_type(config)
    types = [None] * len(layers) if one_mask else config.layer_types
    free: dict[str | None, list[int]] = {}
    for index, kind in enumerate(types):
        free.setdefault(kind, []).append(index)
    return [
        free[kind].pop(0) if layer.attention else -1
        for kind, layer in zip(types, layers, strict=True)
    ]


def arena_layers(view: Any) -> list[int]:
    """Layer of the full model whose keys and values each cache slot of a view holds.

    Slots that no attention uses hold -1.
    """
    layers = [-1] * len(view.model.layers)
    for block in view.model.layers:
        slot = getattr(block.self_attn, "layer_idx", None)
        if slot is not None:
            layers[slot] = block.self_attn.full_layer_idx
    return layers


def route_layers(route: SlimRoute) -> list[KeptLayer]:
    """Layers of the slim verifier; layers without a sublayer are dropped."""
    pairs = zip(route.keep_attention, route.keep_mlp, strict=True)
    return [
        KeptLayer(layer_idx, attention, mlp)
        for layer_idx, (attention, mlp) in enumerate(pairs)
        if attention or mlp
    ]
