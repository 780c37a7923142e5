# SPDX-License-Identifier: Apache-2.0
"""Weights of a Llama-like model in the layout of the persistent engine.

The layout is that of csrc/persistent/layout.h: `W[k / 64][row / 8][8 rows x 64 columns]`, the eight
16-byte pieces of a row exchanged by piece XOR row. Every matrix is packed straight into its place
on the model's device, so the most memory in use is the packed size and one matrix.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from via_ext.models.arena import head_dim
from via_ext.ops._common import _C

CHUNK = 64  # columns
ROWS = 8  # rows of a unit; also the pieces of a row and the elements of a piece


class PackedModel(NamedTuple):
    """What the kernel reads of a model, on the model's device.

    Attributes:
        shape: `ModelShape` of csrc/include/via/persistent_program.h, by field name.
        packed: [packed_size] bfloat16, every matrix.
        vectors: [vectors_size] float32, norms and biases.
        embedding: [V, hidden_size] bfloat16, the model's own; None if tied to the head.
    """

    shape: dict[str, Any]
    packed: torch.Tensor
    vectors: torch.Tensor
    embedding: torch.Tensor | None


def model_shape(model: Any) -> dict[str, Any]:
    """Sizes of a supported model, by the field names of `ModelShape`."""
    config, attention = model.config, model.model.layers[0].self_attn
    return {
        "hidden_size": config.hidden_size,
        "num_layers": config.num_hidden_layers,
        "num_heads": config.num_attention_heads,
        "num_kv_heads": config.num_key_value_heads,
        "head_dim": head_dim(config),
        "intermediate_size": config.intermediate_size,
        "vocab_size": config.vocab_size,
        "has_head_norms": hasattr(attention, "q_norm"),
        "has_bias": attention.q_proj.bias is not None,
        "is_tied": model.lm_head.weight is model.get_input_embeddings().weight,
        "norm_epsilon": config.rms_norm_eps,
    }


def _units(packed: torch.Tensor, offset: int, rows: int, columns: int) -> torch.Tensor:
    """A packed matrix as [chunks, rows / 8, row in unit, piece, 8], a view."""
    rows, columns = rows + -rows % ROWS, columns + -columns % CHUNK
    part = packed[offset : offset + rows * columns]
    return part.view(columns // CHUNK, rows // ROWS, ROWS, ROWS, ROWS)


def pack_matrix(weight: torch.Tensor, units: torch.Tensor) -> None:
    """Writes a matrix into its place; padding keeps what it had.

    Args:
        weight: [rows, columns].
        units: [chunks, ceil(rows / 8), 8, 8, 8], a view of the packed matrix: chunk of columns,
            unit of rows, row, exchanged piece, element.
    """
    rows, columns = weight.shape
    padding = (0, -columns % CHUNK, 0, -rows % ROWS)
    source = torch.nn.functional.pad(weight, padding) if any(padding) else weight
    source = source.view(units.shape[1], ROWS, units.shape[0], ROWS, ROWS)
    source = source.permute(2, 0, 1, 3, 4)
    pieces = torch.arange(ROWS, device=weight.device)
    for row in range(ROWS):
        units[:, :, row] = source[:, :, row].index_select(2, pieces ^ row)


def unpack_matrix(packed: torch.Tensor, offset: int, rows: int, columns: int) -> torch.Tensor:
    """[rows, columns]: the inverse of `pack_matrix`."""
    units = _units(packed, offset, rows, columns)
    result = packed.new_empty(units.shape[1], ROWS, units.shape[0], ROWS, ROWS)
    pieces = torch.arange(ROWS, device=packed.device)
    for row in range(ROWS):
        found = units[:, :, row].index_select(2, pieces ^ row)
        result[:, row] = found.transpose(0, 1)
    return result.view(units.shape[1] * ROWS, -1)[:rows, :columns]


def _pack_layer(layer: Any, places: dict[str, int], packed: torch.Tensor) -> None:
    attention, mlp = layer.self_attn, layer.mlp
    parts = [attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight]
    rows = sum(part.shape[0] for part in parts)
    units, first = _units(packed, places["qkv"], rows, parts[0].shape[1]), 0
    for part in parts:
        last = first + part.shape[0] // ROWS
        pack_matrix(part, units[:, first:last])
        first = last
    for name, weight in (("output", attention.o_proj.weight), ("down", mlp.down_proj.weight)):
        pack_matrix(weight, _units(packed, places[name], *weight.shape))
    features, columns = mlp.gate_proj.weight.shape
    both = _units(packed, places["gate_up"], 2 * (features + -features % ROWS), columns)
    pack_matrix(mlp.gate_proj.weight, both[:, 0::2])
    pack_matrix(mlp.up_proj.weight, both[:, 1::2])


def _layer_vectors(layer: Any, places: dict[str, int]) -> list[tuple[int, torch.Tensor]]:
    attention = layer.self_attn
    found = [
        (places["attention_norm"], layer.input_layernorm.weight),
        (places["mlp_norm"], layer.post_attention_layernorm.weight),
    ]
    if places["bias"] >= 0:
        parts = [attention.q_proj.bias, attention.k_proj.bias, attention.v_proj.bias]
        found.append((places["bias"], torch.cat(parts)))
    if places["head_norms"] >= 0:
        norms = torch.cat([attention.q_norm.weight, attention.k_norm.weight])
        found.append((places["head_norms"], norms))
    return found


@torch.no_grad()
def pack_model(model: Any) -> PackedModel:
    """Packs every weight of a supported model once.

    Args:
        model: a bfloat16 model that `check_model` accepts; its own weights stay as they are.

    Raises:
        RuntimeError: no room for the packed weights; the model is unharmed.
    """
    shape = model_shape(model)
    places = _C.persistent_weight_map(shape)
    head = model.lm_head.weight
    try:
        packed = head.new_zeros(places["packed_size"])
        vectors = head.new_zeros(places["vectors_size"], dtype=torch.float32)
        for layer, own in zip(model.model.layers, places["layers"], strict=True):
            _pack_layer(layer, own, packed)
            for place, values in _layer_vectors(layer, own):
                vectors[place : place + values.numel()] = values
        pack_matrix(head, _units(packed, places["head"], *head.shape))
    except torch.OutOfMemoryError as error:
        size = 2 * places["packed_size"] / 2**30
        raise RuntimeError(
            f"Decoder: engine 'persistent' needs {size:.2f} GiB for packed weights beside the "
            f"model's own: {error}"
        ) from error
    final = model.model.norm.weight
    vectors[places["final_norm"] : places["final_norm"] + final.numel()] = final
    embedding = None if shape["is_tied"] else model.get_input_embeddings().weight.detach()
    return PackedModel(shape, packed, vectors, embedding)


@torch.no_grad()
def rotary_tables(model: Any, positions: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines [positions, D / 2] as the model multiplies with them, scaling included.

    Args:
        model: its own rotary module computes them, in the model's dtype.
        positions: rows of the tables.
    """
    like = model.model.norm.weight.detach()[:1].view(1, 1, 1)
    ids = torch.arange(positions, device=like.device)[None]
    cosines, sines = model.model.rotary_emb(like, ids)
    half = cosines.shape[-1] // 2
    return cosines[0, :, :half].contiguous(), sines[0, :, :half].contiguous()
