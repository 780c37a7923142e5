# SPDX-License-Identifier: Apache-2.0
"""Slim views and passes over the KV arena, against transformers' own forward."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.models import FAMILIES, VOCAB_SIZE, random_model
from via_ext.engines.torch import feed
from via_ext.models import slim_view
from via_ext.models.arena import KVArena
from via_ext.models.passes import LayerPass, TokenBlock, chain_block
from via_ext.models.view import KeptLayer, route_layers
from via_ext.route import SlimRoute

ROUTES = [
    SlimRoute((True, False, True, True), (True, True, False, True)),
    SlimRoute((False, True, False, True), (True, False, False, True)),
    SlimRoute((True, True, False, True), (True, True, False, True)),
    SlimRoute.prefix(4, 2),
]


def _zero_skipped(
    model: torch.nn.Module, route: SlimRoute
) -> list[torch.utils.hooks.RemovableHandle]:
    """Zeroes the outputs of skipped sublayers of the live model."""
    handles = []
    for layer, attention, mlp in zip(
        model.model.layers, route.keep_attention, route.keep_mlp, strict=True
    ):
        if not attention:
            handles.append(
                layer.self_attn.register_forward_hook(
                    lambda _m, _i, out: (torch.zeros_like(out[0]), *out[1:])
                )
            )
        if not mlp:
            handles.append(layer.mlp.register_forward_hook(_zero_output))
    return handles


def _zero_output(_module: torch.nn.Module, _inputs: Any, output: Any) -> Any:
    # The MLP of gpt_oss returns its router's scores too.
    return (output[0] * 0, *output[1:]) if isinstance(output, tuple) else output * 0


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("route", ROUTES)
def test_slim_view_is_the_model_with_sublayers_zeroed(family: str, route: SlimRoute) -> None:
    model = random_model(family)
    view = slim_view(model, route)
    # Three rows: two would unpack like the tuple that the MLP of gpt_oss returns.
    ids = torch.randint(VOCAB_SIZE, (3, 20))
    with torch.no_grad():
        slim = view(ids, use_cache=False).logits
        full = model(ids, use_cache=False).logits
        handles = _zero_skipped(model, route)
        expected = model(ids, use_cache=False).logits
        for handle in handles:
            handle.remove()
        assert torch.equal(slim, expected)
        assert not torch.equal(slim, full)
        # The view's hooks and modules are its own: the full model is as before.
        assert torch.equal(model(ids, use_cache=False).logits, full)


@pytest.mark.parametrize("family", FAMILIES)
def test_slim_view_shares_every_weight(family: str) -> None:
    model = random_model(family)
    view = slim_view(model, ROUTES[0])
    own = {parameter.data_ptr() for parameter in model.parameters()}
    assert all(parameter.data_ptr() in own for parameter in view.parameters())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("route", ROUTES)
def test_slim_view_generates_alone(family: str, route: SlimRoute) -> None:
    """With a cache and without one, also where the first layer's attention is skipped."""
    view = slim_view(random_model(family), route)
    ids = torch.randint(VOCAB_SIZE, (1, 12))
    options = {"max_new_tokens": 10, "do_sample": False, "pad_token_id": 0}
    cached = view.generate(ids, **options)
    assert torch.equal(cached, view.generate(ids, use_cache=False, **options))


def test_route_of_another_model_is_refused(tmp_path) -> None:
    model, other = random_model("llama"), random_model("llama", seed=1)
    ROUTES[0].save(tmp_path / "route.json", other)
    route = SlimRoute.load(tmp_path / "route.json")
    slim_view(other, route)
    with pytest.raises(ValueError, match="route must be of this model"):
        slim_view(model, route)
    with pytest.raises(ValueError, match="route must have 4 layers, got 6"):
        slim_view(model, SlimRoute.evenly(6))


def test_other_families_are_refused_by_name() -> None:
    import transformers

    config = transformers.GPT2Config(n_layer=2, n_embd=32, n_head=2, vocab_size=VOCAB_SIZE)
    with pytest.raises(ValueError, match="got gpt2"):
        slim_view(transformers.GPT2LMHeadModel(config), SlimRoute.full(2))
    dynamic = random_model(
        "llama", rope_parameters={"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
    )
    with pytest.raises(ValueError, match=r"rope types .* got dynamic"):
        slim_view(dynamic, SlimRoute.full(4))


def _layers(first: int, last: int) -> list[KeptLayer]:
    return [KeptLayer(index) for index in range(first, last)]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
def test_resumed_tree_pass_equals_the_model_from_scratch(family: str, attention: str) -> None:
    """Prefill, slim pass over a ragged backlog, then the tail resumed from saved hidden rows."""
    model = random_model(family)
    if attention == "sdpa" and not model._supports_sdpa:
        pytest.skip(f"{family} runs eager attention only")
    model.set_attn_implementation(attention)
    route = ROUTES[0]
    shared = route.shared_prefix
    arena = KVArena(model, rows=3, capacity=48)
    prompts = [torch.randint(VOCAB_SIZE, (n,)).tolist() for n in (17, 5, 11)]
    # Root with a chain of 3 (the backlog), then a tree of 4 nodes at its end.
    chain = torch.randint(VOCAB_SIZE, (3, 4))
    nodes = torch.randint(VOCAB_SIZE, (3, 4))
    parents = [-1, -1, 0, 1]
    ancestors = torch.zeros(3, 8, 8, dtype=torch.bool)
    ancestors[:] = torch.ones(8, 8).tril().bool()
    ancestors[:, 4:, 4:] = torch.tensor(
        [[1, 0, 0, 0], [0, 1, 0, 0], [1, 0, 1, 0], [0, 1, 0, 1]]
    ).bool()
    depths = torch.tensor([0, 1, 2, 3, 4, 4, 5, 5]).expand(3, -1)
    starts = [len(prompt) for prompt in prompts]
    block = TokenBlock([0, 1, 2], starts, depths, ancestors)
    ids = torch.cat([chain, nodes], 1)
    with torch.inference_mode():
        feed(LayerPass(model, _layers(0, 4)), arena, [0, 1, 2], prompts)
        slim = LayerPass(model, route_layers(route), capture_after=shared)
        slim(arena, chain_block([0, 1, 2], starts, 4), token_ids=chain)
        slim(arena, block, token_ids=ids, num_logits=8)
        tail = LayerPass(model, _layers(shared, 4))
        logits = tail(arena, block, hidden=slim.hidden, num_logits=8)
        for row, prompt in enumerate(prompts):
            lead = prompt + chain[row].tolist()
            scratch = model(torch.tensor([lead])).logits[0, -4:]
            torch.testing.assert_close(logits[row, :4], scratch, atol=1e-5, rtol=1e-5)
            for node in range(4):
                path, at = [], node
                while at >= 0:
                    path.insert(0, nodes[row, at].item())
                    at = parents[at]
                scratch = model(torch.tensor([lead + path])).logits[0, -1]
                torch.testing.assert_close(logits[row, 4 + node], scratch, atol=1e-5, rtol=1e-5)


def test_rows_apart_from_each_other_use_their_own_cache() -> None:
    """A pass over rows 0 and 2 neither reads nor writes row 1."""
    model = random_model("llama")
    arena = KVArena(model, rows=3, capacity=32)
    full = LayerPass(model, _layers(0, 4))
    prompts = [torch.randint(VOCAB_SIZE, (n,)).tolist() for n in (6, 9, 12)]
    with torch.inference_mode():
        feed(full, arena, [0, 1, 2], prompts)
        before = [tensor[1].clone() for tensor in arena.tensors]
        ids = torch.randint(VOCAB_SIZE, (2, 2))
        logits = full(arena, chain_block([0, 2], [6, 12], 2), token_ids=ids, num_logits=2)
        for index, row in enumerate((0, 2)):
            scratch = model(torch.tensor([prompts[row] + ids[index].tolist()])).logits[0, -2:]
            torch.testing.assert_close(logits[index], scratch, atol=1e-5, rtol=1e-5)
    assert all(torch.equal(a, b[1]) for a, b in zip(before, arena.tensors, strict=True))
