# SPDX-License-Identifier: Apache-2.0
"""The slim verifier as a stock transformers model: alone, or as `assistant_model`.

transformers takes lengths and mask sizes from the first cache slot of a kind and assumes that every
layer fills its own. Where attention is skipped nothing would: single tokens look right then, but
several tokens at once are masked wrongly. So a skipped attention stores one zero per token in its
slot, by the cache's own `update`: a counter that crops, slides and grows like its neighbours.
"""

from __future__ import annotations

import copy
from typing import Any

import torch

from via_ext.models.families import check_route, check_supported
from via_ext.models.view import layer_view, route_layers
from via_ext.route import SlimRoute


class _CountingAttention(torch.nn.Module):
    """A skipped attention that keeps its cache slot in step.

    Args:
        skipped: what stands where the attention was.
        layer_idx: cache slot.
    """

    def __init__(self, skipped: torch.nn.Module, layer_idx: int) -> None:
        super().__init__()
        self.skipped = skipped
        self.layer_idx = layer_idx

    def forward(self, hidden_states: torch.Tensor, past_key_values: Any = None, **rest: Any) -> Any:
        if past_key_values is not None:
            count = hidden_states.new_zeros((hidden_states.shape[0], 1, hidden_states.shape[1], 1))
            past_key_values.update(count, count, self.layer_idx)
        return self.skipped(hidden_states, **rest)


def slim_view(model: Any, route: SlimRoute) -> Any:
    """Returns the slim verifier of `model` under `route`, without a second copy of any weight.

    The result is a model of the same class with caches of transformers' own: `.generate()` works on
    it, and so does `model.generate(..., assistant_model=view)`, whose tokens are then those of
    plain generate. It has a generation_config of its own, a copy of the model's.

    Args:
        model: a supported `transformers` causal language model.
        route: the sublayers to keep, one pair per layer of `model`.

    Raises:
        TypeError: `model` is not a causal language model.
        ValueError: the family is not supported, the route has another number of layers than the
            model or was saved with another one, or it keeps no attention.
    """
    check_supported(model)
    check_route(route, model)
    if not any(route.keep_attention):
        raise ValueError("slim_view: route must keep an attention sublayer, got none")
    layers = route_layers(route)
    view = layer_view(model, layers)
    # One cache slot per layer, of that layer's type, whatever slots the view was made with.
    types = getattr(model.config, "layer_types", None)
    if types:
        view.config.layer_types = [types[layer.layer_idx] for layer in layers]
        if hasattr(view.model, "has_sliding_layers"):
            view.model.has_sliding_layers = "sliding_attention" in view.config.layer_types
    elif "layer_types" in vars(view.config):
        del view.config.layer_types
    for index, block in enumerate(view.model.layers):
        if hasattr(block.self_attn, "full_layer_idx"):
            block.self_attn.layer_idx = index
        else:
            block.self_attn = _CountingAttention(block.self_attn, index)
    # transformers writes into an assistant's: it must not be the target's.
    view.generation_config = copy.deepcopy(model.generation_config)
    return view
