# SPDX-License-Identifier: Apache-2.0
"""The persistent engine's weights: every one in its place; what it refuses, by name."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.models import random_model
from tests.persistent_cases import toy_model
from via_ext import Decoder, SlimRoute, ViaConfig
from via_ext.engines.hooks import RowHooks
from via_ext.engines.persistent import PASSES, route_gates
from via_ext.engines.persistent_checks import check_model, run_config
from via_ext.engines.persistent_pack import (
    PackedModel,
    model_shape,
    pack_matrix,
    pack_model,
    rotary_tables,
    unpack_matrix,
)
from via_ext.ops._common import _C


def packed_index(row: int, column: int, rows: int) -> int:
    """Of csrc/persistent/layout.h."""
    chunk, within = divmod(column, 64)
    piece = within // 8 ^ row % 8
    return (chunk * rows + row) * 64 + piece * 8 + within % 8


@pytest.mark.parametrize(("rows", "columns"), [(8, 64), (13, 70), (40, 192)])
def test_every_element_lies_where_the_layout_says(rows: int, columns: int) -> None:
    weight = torch.arange(rows * columns, dtype=torch.float32).view(rows, columns) + 1
    padded_rows, chunks = rows + -rows % 8, (columns + 63) // 64
    packed = torch.zeros(padded_rows * chunks * 64)
    pack_matrix(weight, packed.view(chunks, padded_rows // 8, 8, 8, 8))
    expected = torch.zeros_like(packed)
    for row in range(rows):
        for column in range(columns):
            expected[packed_index(row, column, padded_rows)] = weight[row, column]
    assert torch.equal(packed, expected)
    assert torch.equal(unpack_matrix(packed, 0, rows, columns), weight)


def check_layer(layer: Any, places: dict[str, int], model: PackedModel) -> None:
    attention, mlp = layer.self_attn, layer.mlp
    parts = (attention.q_proj, attention.k_proj, attention.v_proj)
    qkv = torch.cat([part.weight for part in parts])
    for name, weight in (
        ("qkv", qkv),
        ("output", attention.o_proj.weight),
        ("down", mlp.down_proj.weight),
    ):
        assert torch.equal(unpack_matrix(model.packed, places[name], *weight.shape), weight), name
    features, columns = mlp.gate_proj.weight.shape
    units = (features + 7) // 8
    both = unpack_matrix(model.packed, places["gate_up"], 16 * units, columns)
    both = both.view(units, 2, 8, columns)
    assert torch.equal(both[:, 0].reshape(-1, columns)[:features], mlp.gate_proj.weight)
    assert torch.equal(both[:, 1].reshape(-1, columns)[:features], mlp.up_proj.weight)
    vectors = [
        ("attention_norm", layer.input_layernorm.weight),
        ("mlp_norm", layer.post_attention_layernorm.weight),
    ]
    if model.shape["has_bias"]:
        vectors.append(("bias", torch.cat([part.bias for part in parts])))
    if model.shape["has_head_norms"]:
        norms = torch.cat([attention.q_norm.weight, attention.k_norm.weight])
        vectors.append(("head_norms", norms))
    for name, values in vectors:
        found = model.vectors[places[name] : places[name] + len(values)]
        assert torch.equal(found, values.float()), name


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
@pytest.mark.parametrize("tied", [True, False])
def test_models_are_packed_whole(family: str, tied: bool) -> None:
    # Sizes that leave padding everywhere: rows of gate and up, columns of down, the vocabulary.
    model = toy_model(family, tie_word_embeddings=tied, intermediate_size=84, vocab_size=301)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.copy_(torch.randn(parameter.shape))
    check_model(model)
    packed = pack_model(model)
    places = _C.persistent_weight_map(packed.shape)
    for layer, own in zip(model.model.layers, places["layers"], strict=True):
        check_layer(layer, own, packed)
    head = unpack_matrix(packed.packed, places["head"], *model.lm_head.weight.shape)
    assert torch.equal(head, model.lm_head.weight)
    first = places["final_norm"]
    norm = packed.vectors[first : first + model.config.hidden_size]
    assert torch.equal(norm, model.model.norm.weight.float())
    assert (packed.embedding is None) == tied
    if not tied:
        assert packed.embedding.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    used = sum(parameter.numel() for parameter in model.parameters() if parameter.dim() > 1)
    used -= 0 if tied else packed.embedding.numel()
    assert int((packed.packed != 0).sum()) <= used <= packed.packed.numel()


def test_rotary_tables_are_what_the_model_multiplies_with() -> None:
    scaled = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0}
    scaled["original_max_position_embeddings"] = 64
    model = toy_model(rope_parameters=scaled)
    cosines, sines = rotary_tables(model, 96)
    like = torch.zeros(1, 1, 1, dtype=torch.bfloat16)
    expected = model.model.rotary_emb(like, torch.arange(96)[None])
    assert cosines.dtype == torch.bfloat16 and cosines.shape == (96, 32)
    for found, both_halves in zip((cosines, sines), expected, strict=True):
        assert torch.equal(torch.cat([found, found], -1), both_halves[0])
    assert cosines[0, 0] > 1.0  # yarn scales the tables themselves


def test_no_room_for_the_packed_weights_is_an_error_that_leaves_the_model(monkeypatch) -> None:
    model = toy_model()
    ids = torch.tensor([[1, 2, 3]])
    before = model(ids).logits
    message = "CUDA out of memory"

    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError(message)

    with monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, "new_zeros", full)
        with pytest.raises(RuntimeError, match=r"needs .* GiB for packed weights .*out of memory"):
            pack_model(model)
    assert torch.equal(model(ids).logits, before)
    assert pack_model(model).packed.numel() > 0


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"head_dim": 32}, "head_dim 64 or 128"),
        ({"hidden_size": 160}, "a hidden_size that is a multiple of 64"),
        ({"hidden_act": "gelu"}, "hidden_act silu"),
        ({"attention_bias": True}, "no bias in the attention's output projection"),
        ({"mlp_bias": True}, "no bias in the gate projection"),
        ({"num_layers": 129, "hidden_size": 64, "vocab_size": 64}, "at most 128 layers"),
    ],
)
def test_models_of_another_make_are_refused_by_name(changes: dict[str, Any], text: str) -> None:
    model = toy_model(**({"num_layers": 1} | changes))
    with pytest.raises(ValueError, match=f"Decoder: target must have {text}"):
        Decoder(model, None, engine="persistent")


def test_families_dtypes_and_windows_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"target must be one of llama, .* got olmo2"):
        Decoder(random_model("olmo2").bfloat16(), None, engine="persistent")
    with pytest.raises(ValueError, match=r"bfloat16 weights .* got torch.float32 in model"):
        Decoder(random_model("llama"), None, engine="persistent")
    # Two of the four layers of this model have a window.
    windows = {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 2}
    with pytest.raises(ValueError, match=r"one sliding window for all layers .* got 8, None"):
        Decoder(toy_model("qwen2", 4, **windows), None, engine="persistent")
    check_model(toy_model("mistral", sliding_window=8))


def test_settings_of_the_host_are_refused_by_name() -> None:
    model = toy_model()
    config = ViaConfig(auto_tier=True)
    with pytest.raises(ValueError, match=r"config.auto_tier must be False .* got True"):
        Decoder(model, None, SlimRoute.evenly(2), config, engine="persistent")
    hooks = [RowHooks(processors=lambda ids, scores: scores)]
    with pytest.raises(ValueError, match=r"logits_processor.* must be unset"):
        run_config(ViaConfig(), 1, 5, hooks, has_slim=False)


def test_the_backlog_is_cut_to_what_a_pass_holds() -> None:
    config = ViaConfig(max_backlog=32)
    cuts = [run_config(config, rows, 8, None, has_slim=True).max_backlog for rows in (1, 2, 4)]
    assert cuts == [32, 23, 7]
    with pytest.raises(ValueError, match=r"max_backlog must be at least 4.* = 3"):
        run_config(config, 4, 12, None, has_slim=True)
    with pytest.raises(ValueError, match=r"max_backlog must be at least 4.* got 3"):
        run_config(ViaConfig(max_backlog=3), 1, 4, None, has_slim=True)
    assert run_config(config, 4, 12, None, has_slim=False).max_backlog == 3
    with pytest.raises(ValueError, match=r"at most 4 rows .* got 5"):
        run_config(config, 5, 1, None, has_slim=False)
    with pytest.raises(ValueError, match="at most 15 nodes with 4 rows"):
        run_config(config, 4, 16, None, has_slim=False)


def test_a_model_that_is_not_on_a_gpu_is_refused_and_auto_says_what_decodes() -> None:
    model = toy_model()
    with pytest.raises(ValueError, match=r"engine must be 'torch' or 'auto' .* model on cpu"):
        Decoder(model, None, engine="persistent")
    decoder = Decoder(model, None)
    assert decoder.engine == "torch"
    assert "not been measured on a GPU" in decoder.engine_reason
    assert Decoder(model, None, engine="torch").engine_reason == "asked for by name"


def test_gates_keep_what_the_route_keeps_and_the_program_fits_the_shape() -> None:
    words = route_gates(SlimRoute((True, False, True), (False, True, True)))
    assert words == [0b111001, 0, 0, 0]
    shape = model_shape(toy_model())
    phases, passes = _C.persistent_program(shape, 1)
    assert len(passes) == len(PASSES)
    assert len(phases) == 56 * max(last for _, last in passes)
