# SPDX-License-Identifier: Apache-2.0
"""The slim view as a stock transformers model: alone, cached, and as `assistant_model`."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import via_ext
from tests.generate_cases import plain, prompt
from tests.models import random_model
from via_ext.route import SlimRoute

ROUTES = {
    "layer 0 kept": SlimRoute((True, False, True, True), (True, True, False, True)),
    "no attention in layer 0": SlimRoute((False, True, True, True), (True, True, False, True)),
    "the last attention only": SlimRoute((False, False, False, True), (True, False, True, True)),
}
FAMILIES = ("llama", "qwen2", "mistral")  # qwen2 mixes windows and full layers, mistral has windows


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("family", FAMILIES)
def test_as_assistant_model(family: str, route: str) -> None:
    """The tokens of plain generate, past the window too, and not only by rejecting everything."""
    model = random_model(family)
    view = via_ext.slim_view(model, ROUTES[route])
    passes: list[int] = []
    hook = model.register_forward_hook(lambda *_: passes.append(1))
    expected = plain(model, prompt(), max_new_tokens=24).tolist()
    hook.remove()
    assert plain(model, prompt(), max_new_tokens=24, assistant_model=view).tolist() == expected
    options = {"assistant_model": view, "num_assistant_tokens": 3}
    assert plain(model, prompt(), max_new_tokens=24, **options).tolist() == expected
    assert len(passes) == 24


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("family", FAMILIES)
def test_generates_alone(family: str, route: str) -> None:
    view = via_ext.slim_view(random_model(family), ROUTES[route])
    expected = plain(view, prompt(), use_cache=False).tolist()
    assert plain(view, prompt()).tolist() == expected
    static = {"cache_implementation": "static", "disable_compile": True}
    assert plain(view, prompt(), **static).tolist() == expected


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("family", FAMILIES)
def test_several_tokens_over_a_cache(family: str, route: str) -> None:
    """Verification runs several tokens at once: masks must know how long the cache is.

    With an empty slot 0 one token at a time is right and several are not.
    """
    from transformers import DynamicCache

    view = via_ext.slim_view(random_model(family), ROUTES[route])
    ids = prompt(15)
    with torch.no_grad():
        expected = view(ids, use_cache=False).logits
        cache = DynamicCache(config=view.config)
        for layer in cache.layers:
            if hasattr(layer, "activate_past_recording"):
                layer.activate_past_recording()
        view(ids[:, :11], past_key_values=cache)
        cache.crop(-4)
        got = view(ids[:, 7:], past_key_values=cache).logits
    assert cache.get_seq_length() == 15
    torch.testing.assert_close(got, expected[:, 7:], rtol=1e-4, atol=1e-4)


def test_settings_are_its_own() -> None:
    model = random_model("llama")
    view = via_ext.slim_view(model, ROUTES["layer 0 kept"])
    before = model.generation_config.to_dict()
    plain(model, prompt(), assistant_model=view, num_assistant_tokens=2)
    view.generation_config.num_assistant_tokens = 7
    assert model.generation_config.to_dict() == before
    assert [layer.self_attn.layer_idx for layer in model.model.layers] == [0, 1, 2, 3]


@pytest.mark.parametrize("route", ROUTES)
def test_weights_are_shared(route: str) -> None:
    model: Any = random_model("llama")
    own = {parameter.data_ptr() for parameter in model.parameters()}
    view = via_ext.slim_view(model, ROUTES[route])
    assert {parameter.data_ptr() for parameter in view.parameters()} <= own


def test_a_route_without_attention_is_refused() -> None:
    model = random_model("llama")
    route = SlimRoute((False,) * 4, (True,) * 4)
    with pytest.raises(ValueError, match="route must keep an attention sublayer, got none"):
        via_ext.slim_view(model, route)
