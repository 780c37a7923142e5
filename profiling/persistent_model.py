# SPDX-License-Identifier: Apache-2.0
"""Predict the persistent step on an H200: the tables of docs/performance.md. Nothing is measured.

    python profiling/persistent_model.py [--write docs/performance.md]

`stream_model.py` has the arithmetic of a pass and its constants. Steps are those of one request,
greedy. --write puts the tables between the marks in a file.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import stream_model as model
from decode_shapes import SHAPES, Shape
from stream_model import BARRIER, CONTEXT, L2, LAUNCH, MEMORY, STAGE, VERIFY

from via_ext.route import SlimRoute

MODELS = {"1B": SHAPES["llama-3.2-1b"], "8B": SHAPES["llama-3.1-8b"]}
TOKENS = (8, 16, 32, 64)
BEGIN, END = "<!-- persistent_model.py: begin -->", "<!-- persistent_model.py: end -->"
# What the other ways to run a pass cost: as in "The torch engine" of docs/performance.md.
LIBRARY = 0.85  # of the memory's rate, matrix products of libraries
KERNEL, KERNELS = 1.3e-6, 8  # s inside a graph; of a compiled layer, products apart
CALL, CALLS, MORE_CALLS = 7e-6, 40, 36  # s of a torch call; per layer and per pass of transformers
LAUNCHED_VERIFY, HOST = 7.8e-6, 30e-6  # of a step made of graphs: verification, the host's wait


def route(shape: Shape) -> SlimRoute:
    """45 % of the sublayers skipped, the first quarter of the layers kept whole."""
    return SlimRoute.evenly(shape.num_hidden_layers)


def slim_step(shape: Shape, tokens: int) -> float:
    """Launch, begin, pass, verification that reads the logits again, bookkeeping."""
    logits = tokens * shape.vocab_size * 4 / L2
    around = LAUNCH + STAGE + BARRIER + VERIFY + BARRIER + STAGE + BARRIER
    return around + logits + model.pass_seconds(shape, tokens, route(shape))


def tail(shape: Shape, tokens: int) -> float:
    """The pass behind the shared prefix, a quarter of the layers."""
    return model.pass_seconds(shape, tokens, first=shape.num_hidden_layers // 4)


def branch(shape: Shape, tokens: int) -> float:
    """What an escalation costs beside the tail pass: two verifications and their bookkeeping."""
    logits = 2 * tokens * shape.vocab_size * 4 / L2
    return logits + 2 * (VERIFY + BARRIER + STAGE + BARRIER) + model.FIRST_CHUNK


def compiled_step(shape: Shape, tokens: int) -> float:
    """A slim step of compiled code in graphs, its routing decided by the host."""
    layers = {layer for layer, _ in model.sublayers(shape, route(shape))}
    size = model.pass_bytes(shape, route(shape))
    other = len(layers) * KERNELS * KERNEL + LAUNCHED_VERIFY + HOST
    return size / (LIBRARY * MEMORY) + other + tokens * shape.vocab_size * 2 / MEMORY


def eager_pass(shape: Shape) -> float:
    """Transformers without graphs: the host's calls, or the bytes."""
    calls = CALLS * shape.num_hidden_layers + MORE_CALLS
    return max(calls * CALL, model.pass_bytes(shape) / MEMORY)


def growth(shape: Shape, tokens: int) -> float:
    """Time that 7168 positions more take, over their bytes at the memory's rate."""
    times = [model.pass_seconds(shape, tokens, context=c) for c in (CONTEXT, 8 * CONTEXT)]
    sizes = [model.pass_bytes(shape, context=c) for c in (CONTEXT, 8 * CONTEXT)]
    return (times[1] - times[0]) / ((sizes[1] - sizes[0]) / MEMORY)


def time_table() -> Iterator[str]:
    """Milliseconds of passes and steps, with the share of the floor that a pass reaches."""
    yield "| model | GB, floor ms | M = 8 | M = 16 | M = 32 | M = 64 |"
    yield "|---|---|---|---|---|---|"
    for name, shape in MODELS.items():
        passes = (("full pass", None, 0), ("slim pass", route(shape), 0))
        for word, kept, first in (*passes, ("tail pass", None, shape.num_hidden_layers // 4)):
            size = model.pass_bytes(shape, kept, first)
            floor = size / MEMORY
            times = [model.pass_seconds(shape, tokens, kept, first) for tokens in TOKENS]
            cells = " | ".join(f"{1e3 * t:.2f} ({floor / t:.0%})" for t in times)
            yield f"| {name}, {word} | {size / 1e9:.2f}, {1e3 * floor:.2f} | {cells} |"
        for word, seconds in (
            ("slim step", slim_step),
            ("step that escalates", lambda s, m: slim_step(s, m) + tail(s, m) + branch(s, m)),
        ):
            cells = " | ".join(f"{1e3 * seconds(shape, tokens):.2f}" for tokens in TOKENS)
            yield f"| {name}, {word} | | {cells} |"


def product_table() -> Iterator[str]:
    """Where the time of a product goes, per phase."""
    times = "us at the memory | us of the blocks alone, M = 8 / 16 / 32 / 64"
    yield f"| product | rows a block | MB, {times} | activations over weights |"
    yield "|---|---|---|---|---|"
    names = {0: ("QKV", "output"), 1: ("gate and up", "down")}
    for name, shape in MODELS.items():
        for kind, words in names.items():
            for word, product in zip(words, model.products(shape, kind), strict=True):
                chunks = product.columns // 64 * product.sweeps()
                alone = [1e6 * chunks * product.clocks(m) / model.CLOCK for m in TOKENS]
                extra = [product.activations(m) / product.bytes for m in TOKENS]
                at_memory = f"{product.bytes / 1e6:.1f}, {1e6 * product.bytes / MEMORY:.1f}"
                cells = (
                    f"{name}, {word}",
                    str(product.own_rows),
                    at_memory,
                    " / ".join(f"{t:.1f}" for t in alone),
                    " / ".join(f"{share:.2f}" for share in extra),
                )
                yield f"| {' | '.join(cells)} |"


def target_table() -> Iterator[str]:
    """The targets, what is predicted, and whether that meets them."""
    small, large = MODELS.values()

    def share(shape: Shape, tokens: int) -> float:
        return model.pass_bytes(shape) / MEMORY / model.pass_seconds(shape, tokens)

    floor = model.pass_bytes(large, route(large)) / MEMORY
    over_compiled = {
        name: min(compiled_step(s, m) / slim_step(s, m) for m in TOKENS[:3])
        for name, s in MODELS.items()
    }
    over_eager = {
        name: min(eager_pass(s) / slim_step(s, m) for m in TOKENS[:3]) for name, s in MODELS.items()
    }
    flat = {name: slim_step(s, 16) / slim_step(s, 8) - 1 for name, s in MODELS.items()}
    grown = {name: growth(s, 8) for name, s in MODELS.items()}
    overhead = branch(large, 8)
    slim = slim_step(large, 8) / floor
    rows = (
        (
            "8B, full pass, M <= 16: 88 % of the memory's rate",
            f"{share(large, 8):.0%} at 8, {share(large, 16):.0%} at 16",
            share(large, 16) >= 0.88,
        ),
        (
            "1B, the same: 80 %",
            f"{share(small, 8):.0%} at 8, {share(small, 16):.0%} at 16",
            share(small, 16) >= 0.80,
        ),
        ("8B, slim step: 1.1 times its floor", f"{slim:.2f} at M = 8", slim <= 1.1),
        ("8B, branch beside slim and tail: 10 us", f"{1e6 * overhead:.0f} us", overhead <= 10e-6),
        (
            "step, M = 8 to 32: 1.3 times compiled graphs",
            _both(over_compiled, ".2f"),
            min(over_compiled.values()) >= 1.3,
        ),
        (
            "step, M = 8 to 32: 5 times eager",
            _both(over_eager, ".1f"),
            min(over_eager.values()) >= 5,
        ),
        ("from M = 8 to 16: 10 % more at most", _both(flat, ".1%"), max(flat.values()) <= 0.1),
        (
            "growth with the context: 1.2 times the bytes",
            f"{_both(grown, '.2f')}, M = 8",
            max(grown.values()) <= 1.2,
        ),
    )
    yield "| target | predicted | met |"
    yield "|---|---|---|"
    for target, said, met in rows:
        yield f"| {target} | {said} | {'yes' if met else 'no'} |"


def _both(values: dict[str, float], form: str) -> str:
    """The values of both models in words."""
    return ", ".join(f"{name} {value:{form}}" for name, value in values.items())


def text() -> str:
    """All tables, as they stand in docs/performance.md."""
    assumed = ["| assumed | value |", "|---|---|"]
    assumed += [f"| {what} | {value} |" for what, value in model.ASSUMED]
    parts = (assumed, time_table(), product_table(), target_table())
    return "\n\n".join("\n".join(part) for part in parts)


def main(arguments: list[str]) -> int:
    """Prints the tables, or puts them into a file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--write", type=Path, help="Markdown file with the two marks")
    options = parser.parse_args(arguments)
    if options.write is None:
        print(text())
        return 0
    old = options.write.read_text(encoding="utf-8")
    before, _, rest = old.partition(BEGIN)
    _, mark, after = rest.partition(END)
    if not mark:
        parser.error(f"--write must name a file with {BEGIN} and {END}, got {options.write}")
    new = f"{before}{BEGIN}\n{text()}\n{END}{after}"
    options.write.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
