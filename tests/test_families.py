# SPDX-License-Identifier: Apache-2.0
"""Every supported family decodes as transformers does; others are refused by name."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import pytest
import torch

from tests.models import FAMILIES, VOCAB_SIZE, greedy, random_model
from via_ext.config import ViaConfig
from via_ext.decode import Decoder
from via_ext.drafters.model import ModelDrafter
from via_ext.models import SUPPORTED_FAMILIES, slim_view
from via_ext.models.arena import KVArena
from via_ext.models.passes import LayerPass, TokenBlock
from via_ext.models.view import KeptLayer, layer_view
from via_ext.route import SlimRoute
from via_ext.tree import Tree

NEW = 12
ROUTE = SlimRoute((True, False, True, True), (True, True, False, True))
SHAPES = {"chain": Tree.chain(4), "tree": Tree.from_widths([3, 2, 1])}
BATCHES = {"one": [9], "ragged": [13, 4, 20]}
POST_NORM = ["gemma2", "gemma3_text", "olmo2"]


def _prompt(length: int) -> list[int]:
    generator = torch.Generator().manual_seed(length)
    return torch.randint(VOCAB_SIZE, (length,), generator=generator).tolist()


@lru_cache(maxsize=1)
def _family(name: str) -> tuple[Any, Any, dict[int, list[int]]]:
    """Target, a drafter that is often right, and what transformers decodes, by prompt length."""
    model = random_model(name)
    drafter = random_model(name, num_layers=3)  # the same weights with one layer less
    drafter.load_state_dict(model.state_dict(), strict=False)
    lengths = [length for batch in BATCHES.values() for length in batch]
    return model, drafter, {n: greedy(model, _prompt(n), NEW) for n in lengths}


def test_the_list_of_families_is_the_tested_one() -> None:
    assert sorted(FAMILIES) == sorted(SUPPORTED_FAMILIES)


CASES = [
    *(("ragged", shape, route) for shape in SHAPES for route in (None, ROUTE)),
    ("one", "chain", None),
    ("one", "tree", ROUTE),
]


@pytest.mark.parametrize(("lengths", "shape", "route"), CASES)
@pytest.mark.parametrize("family", FAMILIES)
def test_exact_equals_generate(
    family: str, lengths: str, shape: str, route: SlimRoute | None
) -> None:
    model, drafter, expected = _family(family)
    config = ViaConfig(mode="exact", tree=SHAPES[shape], max_new_tokens=NEW, max_backlog=3)
    prompts = [torch.tensor(_prompt(length)) for length in BATCHES[lengths]]
    result = Decoder(model, ModelDrafter(drafter), route, config).generate(prompts)
    for row, length in enumerate(BATCHES[lengths]):
        assert result.sequences[row, : result.lengths[row]].tolist() == expected[length]
    assert result.status.tolist() == [0] * len(prompts)
    assert 0 < result.stats.examined <= result.stats.drafted
    if lengths == "ragged" and route is None:  # both verdicts occur, or it would show little
        assert result.stats.accepted > 0
        assert result.stats.accepted < result.stats.examined or shape == "tree"
    assert (result.stats.slim_passes > 0) == (route is not None)


@pytest.mark.parametrize(
    "route",
    [SlimRoute.prefix(4, 2), SlimRoute((False, True, True, False), (True, False, True, True))],
    ids=["exit", "no-prefix"],
)
@pytest.mark.parametrize("family", ["gemma2", "gpt_oss"])
def test_hybrid_layers_with_and_without_a_shared_prefix(family: str, route: SlimRoute) -> None:
    """The hidden rows that a full pass resumes from are those of the embedding without one."""
    model, drafter, expected = _family(family)
    config = ViaConfig(mode="exact", max_new_tokens=NEW, max_backlog=3)
    prompts = [torch.tensor(_prompt(length)) for length in (13, 4)]
    result = Decoder(model, ModelDrafter(drafter), route, config).generate(prompts)
    for row, length in enumerate((13, 4)):
        assert result.sequences[row, : result.lengths[row]].tolist() == expected[length]


@pytest.mark.parametrize("family", POST_NORM)
def test_a_skipped_sublayer_leaves_the_residual_alone(family: str) -> None:
    """Its output norm must not turn the zero into something, also where that norm has a bias."""
    model = random_model(family)
    inputs: list[torch.Tensor] = []

    def keep(_module: torch.nn.Module, given: tuple[torch.Tensor, ...]) -> None:
        inputs.append(given[0])

    view = layer_view(model, [KeptLayer(0), KeptLayer(1, False, False), KeptLayer(2)])
    for layer in view.model.layers[1:]:
        layer.register_forward_pre_hook(keep)
    with torch.no_grad():
        view(torch.tensor([_prompt(12)]), use_cache=False)
    assert torch.equal(inputs[0], inputs[1])
    # The norm that llama calls "before the MLP" serves the attention here.
    view = layer_view(model, [KeptLayer(0, True, False)])
    assert not isinstance(view.model.layers[0].post_attention_layernorm, torch.nn.Identity)


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "gemma3_text"])
def test_slim_view_drafts_for_transformers(family: str) -> None:
    """As a stock `assistant_model`, over sliding caches that are rolled back past the window."""
    model, _, expected = _family(family)
    # Qwen2 has its windows in the last two layers here.
    route = SlimRoute((False, True, False, True), (True, True, True, True))
    got = greedy(model, _prompt(20), NEW, assistant_model=slim_view(model, route))
    assert got == expected[20]


@pytest.mark.parametrize("family", ["gemma2", "gemma3_text", "gpt_oss"])
def test_masks_by_layer_type_in_a_tree(family: str) -> None:
    """Every layer gets the mask of its own type, and eager attention an additive one."""
    model = random_model(family)
    model.set_attn_implementation("eager")
    seen: dict[int, torch.Tensor] = {}

    def keep(module: Any, _inputs: Any, given: dict[str, Any]) -> None:
        seen[module.full_layer_idx] = given["attention_mask"]

    for layer in model.model.layers:
        layer.self_attn.register_forward_pre_hook(keep, with_kwargs=True)
    # A root at position 10 with two children; the first has a child of its own.
    ancestors = torch.tensor([[1, 0, 0, 0], [1, 1, 0, 0], [1, 0, 1, 0], [1, 1, 0, 1]]).bool()
    block = TokenBlock([0], [10], torch.tensor([[0, 1, 1, 2]]), ancestors[None])
    ids = torch.zeros(1, 4, dtype=torch.int64)
    part = LayerPass(model, [KeptLayer(index) for index in range(1, 4)])
    with torch.inference_mode():
        part(KVArena(model, 1, 16), block, token_ids=ids)
    assert sorted(seen) == [1, 2, 3]
    for index, mask in seen.items():
        sliding = model.config.layer_types[index] == "sliding_attention"
        window = model.config.sliding_window if sliding else 99
        assert mask.dtype == torch.float32
        for row, depth in enumerate([0, 1, 1, 2]):
            past = [int(position > 10 + depth - window) for position in range(10)]
            visible = past + ancestors[row].int().tolist()
            assert (mask[0, 0, row] == 0).int().tolist() == visible
            assert float(mask[0, 0, row].min()) == torch.finfo(torch.float32).min


def test_why_eager_attention_gets_an_additive_mask() -> None:
    """A boolean mask is added as 0 and 1 there, without an error; sdpa reads it as a mask."""
    ids = torch.tensor([_prompt(6)])
    visible = torch.ones(6, 6).tril().bool()[None, None]
    for attention, right in (("sdpa", True), ("eager", False)):
        model = random_model("llama")
        model.set_attn_implementation(attention)
        with torch.no_grad():
            masked = model(ids, attention_mask=visible, use_cache=False).logits
            plain = model(ids, use_cache=False).logits
        assert torch.allclose(masked, plain, atol=1e-5) == right


def test_an_attention_backend_of_unknown_masks_is_refused() -> None:
    """Without a registered mask function transformers would pass none: silently wrong."""
    from transformers import AttentionInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    AttentionInterface.register("families_test", sdpa_attention_forward)
    model = random_model("llama")
    model.set_attn_implementation("families_test")
    with pytest.raises(ValueError, match=r"attention backends sdpa, eager.*, got families_test"):
        Decoder(model, None)


SIZES = {"vocab_size": VOCAB_SIZE, "hidden_size": 32, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 4, "intermediate_size": 48}
PARALLEL = "attention and MLP share one residual"
RECURRENT = "recurrent state"
REFUSED = {
    "Cohere": (SIZES | HEADS | {"num_key_value_heads": 2, "pad_token_id": 0}, PARALLEL),
    "GPTNeoX": (SIZES | HEADS, PARALLEL),
    "Falcon": (SIZES | {"num_attention_heads": 4}, PARALLEL),
    "Phi": (SIZES | HEADS, PARALLEL),
    "Mamba": (SIZES | {"state_size": 4}, RECURRENT),
    "Jamba": (SIZES | HEADS | {"num_key_value_heads": 2, "num_experts": 2}, RECURRENT),
    "T5": ({"vocab_size": VOCAB_SIZE, "d_model": 16, "num_layers": 1}, "encoder-decoder"),
    "Gemma3": ({}, "wrapper around a language model"),
    "GPT2": ({"vocab_size": VOCAB_SIZE, "n_embd": 32, "n_layer": 2, "n_head": 2}, "not been"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_families_are_refused_with_the_reason(name: str) -> None:
    import transformers

    sizes, reason = REFUSED[name]
    if name == "Gemma3":
        text = SIZES | HEADS | {"num_key_value_heads": 2, "head_dim": 8}
        vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
        vision |= {"num_attention_heads": 2, "image_size": 28, "patch_size": 14}
        sizes = {"text_config": text, "vision_config": vision, "mm_tokens_per_image": 4}
    config = getattr(transformers, f"{name}Config")(**sizes)
    kinds = {"T5": "T5ForConditionalGeneration", "Gemma3": "Gemma3ForConditionalGeneration"}
    kinds["GPT2"] = "GPT2LMHeadModel"
    model = getattr(transformers, kinds.get(name, f"{name}ForCausalLM"))(config).eval()
    match = rf"target must be of one of the families .*, got {config.model_type}: .*{reason}"
    with pytest.raises(ValueError, match=match):
        Decoder(model, None)
    with pytest.raises(ValueError, match=rf"drafter must be .* got {config.model_type}"):
        ModelDrafter(model)


def test_settings_that_a_tree_cannot_follow_are_refused() -> None:
    dynamic = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
    with pytest.raises(ValueError, match=r"rope types .* got dynamic"):
        Decoder(random_model("llama", rope_parameters=dynamic), None)
    per_type = {"sliding_attention": {"rope_type": "default", "rope_theta": 100.0}}
    model = random_model("gemma3_text", rope_parameters=per_type | {"full_attention": dynamic})
    with pytest.raises(ValueError, match=r"rope types .* got dynamic"):
        Decoder(model, None)
    longrope = {"rope_type": "longrope", "rope_theta": 10000.0}
    longrope |= {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
    model = random_model("phi3", rope_parameters=longrope, original_max_position_embeddings=128)
    with pytest.raises(ValueError, match=r"rope types .* got longrope"):
        Decoder(model, None)
    with pytest.raises(ValueError, match="must be causal, got use_bidirectional_attention"):
        Decoder(random_model("gemma3_text", use_bidirectional_attention=True), None)
    model = random_model("qwen2")
    model.config.layer_types[1] = "chunked_attention"
    with pytest.raises(ValueError, match="got chunked_attention"):
        Decoder(model, None)


def test_packed_experts_and_old_embeddings_are_refused() -> None:
    from transformers.integrations.mxfp4 import Mxfp4GptOssExperts

    model = random_model("gpt_oss")
    model.model.layers[1].mlp.experts = Mxfp4GptOssExperts(model.config)
    with pytest.raises(ValueError, match=r"plain expert weights .*, got Mxfp4GptOssExperts"):
        Decoder(model, None)
    model = random_model("gemma2")
    model.model.embed_tokens = torch.nn.Embedding(VOCAB_SIZE, 32)
    with pytest.raises(ValueError, match="embedding that scales its own output"):
        Decoder(model, None)
