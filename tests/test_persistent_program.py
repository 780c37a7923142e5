# SPDX-License-Identifier: Apache-2.0
"""Program, weight map and validator of the persistent engine: integer work on the host."""

from __future__ import annotations

import re
import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from via_ext import _C

PHASE = struct.Struct("<6i4q")
EMBED, LOAD, SAVE, QKV, ROTARY, ATTENTION, OUTPUT, GATE_UP, DOWN, HEAD = range(10)
SLIM, PREFIX, TAIL, FULL = range(4)
OPEN = [(1 << 64) - 1] * 4
SHAPE = {
    "hidden_size": 192,
    "num_layers": 3,
    "num_heads": 4,
    "num_kv_heads": 2,
    "head_dim": 64,
    "intermediate_size": 200,
    "vocab_size": 301,
    "has_head_norms": False,
    "has_bias": False,
    "is_tied": False,
    "norm_epsilon": 1e-6,
}


@st.composite
def shapes(draw: st.DrawFn) -> dict[str, Any]:
    kv_heads = draw(st.integers(1, 4))
    return {
        "hidden_size": 64 * draw(st.integers(1, 6)),
        "num_layers": draw(st.integers(1, 5)),
        "num_heads": kv_heads * draw(st.integers(1, 4)),
        "num_kv_heads": kv_heads,
        "head_dim": draw(st.sampled_from([64, 128])),
        "intermediate_size": draw(st.integers(1, 500)),
        "vocab_size": draw(st.integers(1, 1000)),
        "has_head_norms": draw(st.booleans()),
        "has_bias": draw(st.booleans()),
        "is_tied": draw(st.booleans()),
        "norm_epsilon": 1e-5,
    }


def phases_of(table: bytes) -> list[tuple[int, ...]]:
    return list(PHASE.iter_unpack(table))


def padded(count: int, unit: int) -> int:
    return count + -count % unit


def matrices(shape: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """Rows and columns of a layer's packed matrices."""
    hidden, heads = shape["hidden_size"], shape["num_heads"] * shape["head_dim"]
    features = shape["intermediate_size"]
    return {
        "qkv": (heads + 2 * shape["num_kv_heads"] * shape["head_dim"], hidden),
        "output": (hidden, heads),
        "gate_up": (2 * padded(features, 8), hidden),
        "down": (hidden, padded(features, 64)),
    }


@given(shapes())
def test_weight_map_covers_both_buffers_without_overlap(shape):
    places = _C.persistent_weight_map(shape)
    hidden, head_dim = shape["hidden_size"], shape["head_dim"]
    heads = shape["num_heads"] + 2 * shape["num_kv_heads"]
    packed = [(places["head"], padded(shape["vocab_size"], 8) * hidden)]
    vectors = [(places["final_norm"], hidden)]
    for layer in places["layers"]:
        packed += [(layer[name], rows * k) for name, (rows, k) in matrices(shape).items()]
        vectors += [(layer["attention_norm"], hidden), (layer["mlp_norm"], hidden)]
        assert (layer["bias"] >= 0) == shape["has_bias"]
        assert (layer["head_norms"] >= 0) == shape["has_head_norms"]
        if shape["has_bias"]:
            vectors.append((layer["bias"], heads * head_dim))
        if shape["has_head_norms"]:
            vectors.append((layer["head_norms"], 2 * head_dim))
    for spans, size in ((packed, places["packed_size"]), (vectors, places["vectors_size"])):
        end = 0
        for first, count in sorted(spans):
            assert first == end and first % 64 == 0
            end += count
        assert end == size
    assert len(places["layers"]) == shape["num_layers"]


@given(shapes(), st.data())
def test_program_runs_every_layer_once_in_order(shape, data):
    layers = shape["num_layers"]
    shared = data.draw(st.integers(0, layers))
    table, passes = _C.persistent_program(shape, shared)
    phases = phases_of(table)
    sublayers = [QKV, ROTARY, ATTENTION, OUTPUT, GATE_UP, DOWN]

    def walk(number: int) -> list[tuple[int, int]]:
        first, last = passes[number]
        return [(kind, layer) for kind, layer, *_ in phases[first:last]]

    head = [(kind, layer) for layer in range(shared) for kind in sublayers]
    tail = [(kind, layer) for layer in range(shared, layers) for kind in sublayers]
    assert walk(FULL) == [(EMBED, -1), *head, *tail, (HEAD, -1)]
    assert walk(SLIM) == [(EMBED, -1), *head, (SAVE, -1), *tail, (HEAD, -1)]
    assert walk(PREFIX) == [(EMBED, -1), *head, (SAVE, -1)]
    assert walk(TAIL) == [(LOAD, -1), *tail, (HEAD, -1)]
    names = {QKV: "qkv", OUTPUT: "output", GATE_UP: "gate_up", DOWN: "down"}
    places = _C.persistent_weight_map(shape)
    for kind, layer, gate, rows, chunks, unit, weights, *_ in phases:
        assert unit == (16 if kind == GATE_UP else 8)
        if layer >= 0:
            assert gate == 2 * layer + (kind in (GATE_UP, DOWN))
        if kind in names:
            assert (rows, 64 * chunks) == matrices(shape)[names[kind]]
            assert weights == places["layers"][layer][names[kind]]
        elif kind != HEAD:
            assert rows == chunks == 0
            assert weights == (places["head"] if kind == EMBED and shape["is_tied"] else -1)


@settings(max_examples=30)
@given(shapes(), st.data())
def test_validator_takes_every_program_and_gate(shape, data):
    shared = data.draw(st.integers(0, shape["num_layers"]))
    table, passes = _C.persistent_program(shape, shared)
    slim = data.draw(st.integers(0, (1 << 64) - 1)) << 2 * shared
    words = [[(slim | (1 << 2 * shared) - 1) & OPEN[0], 0, 0, 0], OPEN, OPEN, OPEN]
    batch_size, grid = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 170))
    assert _C.persistent_validate(shape, table, passes, words, batch_size, grid) == ""


@settings(max_examples=60)
@given(shapes(), st.data())
def test_validator_rejects_any_changed_field(shape, data):
    table, passes = _C.persistent_program(shape, 0)
    phases = [list(phase) for phase in phases_of(table)]
    phase = data.draw(st.sampled_from(phases))
    field = data.draw(st.integers(0, 9))
    phase[field] += data.draw(st.sampled_from([-(1 << 20), -8, -1, 1, 8, 1 << 20]))
    changed = b"".join(PHASE.pack(*phase) for phase in phases)
    assert _C.persistent_validate(shape, changed, passes, [OPEN] * 4, 1, 5)


def test_validator_names_what_is_wrong():
    table, passes = _C.persistent_program(SHAPE, 1)

    def check(table=table, passes=passes, gates=(OPEN,) * 4, grid=5):
        return _C.persistent_validate(SHAPE, table, list(passes), list(gates), 2, grid)

    assert check() == ""
    closed = [[OPEN[0] ^ 1, *OPEN[1:]], OPEN, OPEN, OPEN]
    assert check(gates=closed) == "gate 0 is not in pass slim what it is in pass full"
    assert check(passes=[(0, 1000), *passes[1:]]) == "pass slim is no range of the table"
    assert check(table=table[:56] * (len(table) // 56)).startswith("pass slim")
    with pytest.raises(ValueError, match=r"grid must be in \[1, 1024\], got 0"):
        check(grid=0)
    with pytest.raises(ValueError, match=r"phases must have a multiple of 56 bytes, got 57"):
        check(table=table[:57])
    with pytest.raises(ValueError, match=r"gates must have one element per kind of pass, 4, got 1"):
        check(gates=[OPEN])
    with pytest.raises(ValueError, match="gates must have 4 words per pass, got 1"):
        check(gates=[[1], OPEN, OPEN, OPEN])
    with pytest.raises(TypeError, match="gates must be words of 64 bits, got -1"):
        check(gates=[[-1, 0, 0, 0], OPEN, OPEN, OPEN])


REFUSED = [
    ("hidden_size", 100, "be a multiple of 64, got 100"),
    ("hidden_size", 0, "be in [1, 1048576], got 0"),
    ("hidden_size", 1 << 40, "fit 32 bits, got 1099511627776"),
    ("num_layers", 0, "be in [1, 128], got 0"),
    ("num_layers", 129, "be in [1, 128], got 129"),
    ("head_dim", 80, "be 64 or 128, got 80"),
    ("head_dim", 256, "be 64 or 128, got 256"),
    ("num_heads", 5, "be a multiple of num_kv_heads (2), got 5"),
    ("num_heads", -4, "be in [1, 16384], got -4"),
    ("num_kv_heads", 0, "be in [1, 16384], got 0"),
    ("intermediate_size", 0, "be in [1, 1048576], got 0"),
    ("vocab_size", 0, "be in [1, 16777216], got 0"),
    ("vocab_size", 1 << 25, "be in [1, 16777216], got 33554432"),
    ("norm_epsilon", 0.0, "be positive and finite, got 0"),
    ("norm_epsilon", float("nan"), "be positive and finite, got nan"),
]


@pytest.mark.parametrize(("field", "value", "rule"), REFUSED)
def test_refusals_name_the_field(field, value, rule):
    text = re.escape(f"PersistentEngine: {field} must {rule}")
    for call in (lambda s: _C.persistent_program(s, 0), _C.persistent_weight_map):
        with pytest.raises(ValueError, match=f"^{text}$"):
            call({**SHAPE, field: value})


@pytest.mark.parametrize("shared", [-1, 4])
def test_shared_prefix_lies_in_the_model(shared):
    text = f"shared_prefix must be in [0, 3], got {shared}"
    with pytest.raises(ValueError, match=re.escape(text)):
        _C.persistent_program(SHAPE, shared)


def test_fields_are_those_of_a_shape():
    with pytest.raises(ValueError, match="shape must have a field head_dim, got"):
        _C.persistent_weight_map({k: v for k, v in SHAPE.items() if k != "head_dim"})
    with pytest.raises(ValueError, match="shape must have the fields of a model's shape and no"):
        _C.persistent_weight_map({**SHAPE, "rope_theta": 1e4})
    for field, value, kind in (
        ("num_heads", 4.0, "int"),
        ("num_heads", True, "int"),
        ("has_bias", 1, "bool"),
        ("norm_epsilon", "small", "float"),
    ):
        with pytest.raises(TypeError, match=f"PersistentEngine: {field} must be an? {kind}, got"):
            _C.persistent_weight_map({**SHAPE, field: value})
