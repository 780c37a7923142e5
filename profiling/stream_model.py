# SPDX-License-Identifier: Apache-2.0
"""Times of a persistent pass on an H200, from bytes and latencies: arithmetic, nothing measured.

A pass is followed phase by phase with one state: how many bytes of weights lie ready in the rings
of all blocks. While blocks wait (barrier, epilogue, first activations, rotary embedding,
attention) memory fills the rings, until they are full; while they multiply, memory goes on
supplying and the tensor cores take, whichever is slower. ASSUMED lists the constants: what
benchmarks elsewhere found, or a guess; `make gpu-check STAGES=s0` measures most of them.
persistent_model.py makes tables of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from decode_shapes import Shape

from via_ext.route import SlimRoute

MEMORY = 4.3e12  # bytes/s, read
L2 = 5.5e12  # bytes/s from the second-level cache to all multiprocessors, weights included
BLOCKS, CLOCK = 132, 1.755e9
BARRIER, EPILOGUE, FIRST_CHUNK = 1.3e-6, 0.6e-6, 0.8e-6  # s; a product has one of each
STAGE_CLOCKS = 100  # of a stage beside its arithmetic: wait, barrier, latencies
SWEEP_ROWS, RING_SLOTS, SLOT_CHUNKS = 256, 4, 8  # csrc/persistent/tuning.cuh, layout.h
ROTARY, ROTARY_ROUND = 0.8e-6, 0.3e-6
ATTENTION_UNIT, ATTENTION_MERGE = 1.7e-6, 2.6e-6  # keys, last tile, warps; partial results
MERGE_RATE = 100e9  # bytes/s that one block reads from L2
VERIFY, DRAW, STAGE, LAUNCH = 5.8e-6, 2.5e-6, 3.0e-6, 2.0e-6
ASSUMED = (
    ("memory, read", f"{MEMORY / 1e12} TB/s"),
    ("L2 to all multiprocessors", f"{L2 / 1e12} TB/s"),
    ("multiprocessors, clock", f"{BLOCKS}, {CLOCK / 1e9} GHz"),
    ("grid barrier", f"{BARRIER * 1e6:.1f} us"),
    ("first chunk of activations behind a barrier", f"{FIRST_CHUNK * 1e6:.1f} us"),
    ("epilogue of a product", f"{EPILOGUE * 1e6:.1f} us"),
    ("a stage of 64 / kTokens chunks of 64 columns, beside arithmetic", f"{STAGE_CLOCKS} clocks"),
    ("rotary phase", f"{ROTARY * 1e6:.1f} us + {ROTARY_ROUND * 1e6:.1f} per round of warps"),
    (
        "attention",
        f"{ATTENTION_UNIT * 1e6:.1f} us per round of units + {ATTENTION_MERGE * 1e6:.1f},"
        f" merges at {MERGE_RATE / 1e9:.0f} GB/s a block",
    ),
    (
        "verify, drawing in it, a stage",
        f"{VERIFY * 1e6:.1f}, {DRAW * 1e6:.1f}, {STAGE * 1e6:.1f} us",
    ),
    ("launch", f"{LAUNCH * 1e6:.1f} us"),
)
CONTEXT = 1024


def bucket(tokens: int) -> int:
    """Token columns that a pass multiplies."""
    return next(size for size in (16, 32, 64) if tokens <= size)


@dataclass(frozen=True)
class Product:
    """One matrix: `rows` of it in units shared out over the blocks, all `columns` read."""

    rows: int
    columns: int
    unit: int

    @property
    def bytes(self) -> int:
        """Of the weights."""
        return 2 * self.rows * self.columns

    @property
    def own_rows(self) -> int:
        """Rows of the block with the most of them."""
        return math.ceil(self.rows / self.unit / BLOCKS) * self.unit

    @property
    def slot_chunks(self) -> int:
        """Chunks of 64 columns that a slot of the ring takes."""
        padded = math.ceil(min(self.own_rows, SWEEP_ROWS) / 16) * 16
        return min(SWEEP_ROWS // padded, SLOT_CHUNKS, self.columns // 64)

    @property
    def ring(self) -> float:
        """Bytes of this product that the rings of all blocks hold together."""
        rows = min(self.rows / BLOCKS, SWEEP_ROWS)
        return min(RING_SLOTS * self.slot_chunks * rows * 128 * BLOCKS, self.bytes)

    def clocks(self, tokens: int) -> float:
        """Of one block for one chunk of one sweep: tensor cores or shared memory, and the rest."""
        rows = min(self.own_rows, SWEEP_ROWS)
        tiles, n = math.ceil(rows / 16), bucket(tokens)
        tensor = tiles * 16 / 64 * n / 64 * 64 * 4
        # ldmatrix: weights once, activations by every warp that has a tile of the k16 step; and
        # what cp.async writes.
        moved = tiles * 16 * 128 + min(tiles, 8) * n * 128 + (rows + tokens) * 128
        in_stage = min(64 // n, self.slot_chunks)
        return max(tensor, moved / 128) + STAGE_CLOCKS / in_stage

    def sweeps(self) -> int:
        """Times that a block reads the activations."""
        return math.ceil(self.own_rows / SWEEP_ROWS)

    def activations(self, tokens: int) -> float:
        """Bytes that all blocks read through L2, weights apart."""
        busy = min(BLOCKS, self.rows // self.unit)
        return float(busy * self.sweeps() * tokens * self.columns * 2)


class Rings:
    """Time that passes, and the bytes of weights that lie ready."""

    def __init__(self) -> None:
        """Nothing has begun."""
        self.seconds = 0.0
        self.ready = 0.0

    def wait(self, seconds: float, room: float) -> None:
        """Blocks do something else; memory fills the rings up to `room`."""
        self.seconds += seconds
        self.ready = max(self.ready, min(room, self.ready + MEMORY * seconds))

    def multiply(self, product: Product, tokens: int) -> None:
        """Takes a product's weights out of the rings as fast as they and the blocks allow."""
        extra = product.activations(tokens)
        supply = min(MEMORY, L2 * product.bytes / (product.bytes + extra))
        chunks = product.columns // 64 * product.sweeps()
        alone = max(chunks * product.clocks(tokens) / CLOCK, extra / L2)
        rate = product.bytes / alone
        drained = self.ready / (rate - supply) if rate > supply else math.inf
        if alone <= drained:
            self.seconds += alone
            self.ready = max(0.0, self.ready + (supply - rate) * alone)
        else:
            self.seconds += (product.bytes - self.ready) / supply
            self.ready = 0.0


def attention_seconds(shape: Shape, tokens: int, context: int) -> float:
    """One attention phase: rounds of units, bytes of keys and values, merging of splits."""
    heads, group = shape.num_key_value_heads, shape.num_attention_heads // shape.num_key_value_heads
    tiles = math.ceil(tokens * group / 32)
    splits = max(1, min(128 // heads, context // 128))
    rounds = math.ceil(splits * heads * tiles / BLOCKS)
    size = 2 * context * heads * shape.head_dim * 2
    merged = splits * 32 * shape.head_dim * 4 / MERGE_RATE * math.ceil(heads * tiles / BLOCKS)
    moving = max(size / (0.9 * MEMORY), tiles * size / L2)
    return rounds * ATTENTION_UNIT + ATTENTION_MERGE + moving + merged


def sublayers(shape: Shape, route: SlimRoute | None) -> list[tuple[int, int]]:
    """(layer, 0 attention or 1 MLP) of those that a pass runs; None: all."""
    layers = range(shape.num_hidden_layers)
    if route is None:
        return [(layer, kind) for layer in layers for kind in (0, 1)]
    kept = (route.keep_attention, route.keep_mlp)
    return [(layer, kind) for layer in layers for kind in (0, 1) if kept[kind][layer]]


def products(shape: Shape, kind: int) -> tuple[Product, Product]:
    """The two of a sublayer: 0 attention, 1 MLP."""
    heads, hidden = shape.num_attention_heads * shape.head_dim, shape.hidden_size
    if kind == 0:
        rows = heads + 2 * shape.num_key_value_heads * shape.head_dim
        return Product(rows, hidden, 8), Product(hidden, heads, 8)
    return Product(2 * shape.intermediate_size, hidden, 16), Product(
        hidden, shape.intermediate_size, 8
    )


def pass_seconds(
    shape: Shape,
    tokens: int,
    route: SlimRoute | None = None,
    first: int = 0,
    context: int = CONTEXT,
) -> float:
    """A pass of the layers from `first` on, with LM head."""
    kept = [kind for layer, kind in sublayers(shape, route) if layer >= first]
    head = Product(math.ceil(shape.vocab_size / 8) * 8, shape.hidden_size, 8)
    order = [(product, kind) for kind in kept for product in products(shape, kind)] + [(head, 1)]
    warps = tokens * (shape.num_attention_heads + 2 * shape.num_key_value_heads)
    between = ROTARY + ROTARY_ROUND * math.ceil(warps / (8 * BLOCKS)) + 2 * BARRIER
    between += attention_seconds(shape, tokens, context)
    rings = Rings()
    rings.wait(2 * BARRIER, order[0][0].ring)  # embedding
    for place, (product, kind) in enumerate(order):
        following = order[min(place + 1, len(order) - 1)][0].ring
        rings.wait(FIRST_CHUNK, product.ring)
        rings.multiply(product, tokens)
        rings.wait(EPILOGUE + BARRIER, following)
        if kind == 0 and place % 2 == 0:  # query, key and value are there
            rings.wait(between, following)
    return rings.seconds


def pass_bytes(
    shape: Shape, route: SlimRoute | None = None, first: int = 0, context: int = CONTEXT
) -> float:
    """Weights, and keys and values of the context, of the same pass."""
    kept = [kind for layer, kind in sublayers(shape, route) if layer >= first]
    cache = 2 * context * shape.num_key_value_heads * shape.head_dim * 2
    return kept.count(0) * cache + shape.pass_bytes(kept.count(0), kept.count(1))
