# SPDX-License-Identifier: Apache-2.0
"""Milliseconds of a verification pass in plain torch: what the persistent kernels have to beat.

A Llama-shaped decoder (1B and 8B, bfloat16, 1024 cached positions) runs M = 1 to 64 tokens, all
sublayers or without 45 % of them (slim), as a CUDA graph of eager kernels and as a CUDA graph of
sublayers compiled by torch.compile (one compilation per M and kind of sublayer, so that the time
allows it). Beside each time stands the rate at which the pass read its weights.
Checked: the logits of a replayed graph are finite and within TOLERANCE (relative to their norm) of
those of an eager pass, for bfloat16 rounds after every kernel; slim differs from full by more.
Usage: baselines.py SECONDS, rows on stdout as the other benchmarks print them.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from decoder import SHAPES, Decoder, Shape, random_decoder, slim_mask
from torch import Tensor

CONTEXT = 1024
TOKENS = (1, 8, 16, 32, 64)
REPEATS = 20
# What the passes of one M may take; not begun with less time left.
GRAPH_S, COMPILE_S = 5.0, 45.0
TOLERANCE = 0.15


class WrongResult(Exception):
    """A pass gave logits that another one contradicts."""


def print_row(
    params: dict[str, Any], value: float, unit: str, status: str = "ok", note: str = ""
) -> None:
    """One JSON line, as run.py reads it."""
    row = {"benchmark": "baselines", "params": params, "value": value, "unit": unit}
    print(json.dumps(row | {"status": status, "note": note}), flush=True)


def difference(found: Tensor, expected: Tensor) -> float:
    """Distance relative to the norm of `expected`; NaN if anything is not finite."""
    found, expected = found.float(), expected.float()
    return float((found - expected).norm() / expected.norm())


def capture(call: Callable[[], Tensor]) -> tuple[torch.cuda.CUDAGraph, Tensor]:
    """The call as a graph, and the tensor that a replay fills."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = call()
    return graph, out


def replay_ms(graph: torch.cuda.CUDAGraph) -> float:
    """Median milliseconds of a replay."""
    times = []
    for repeat in range(REPEATS + 2):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        if repeat >= 2:
            times.append(begin.elapsed_time(end))
    return statistics.median(times)


def compiled(model: Decoder) -> Decoder:
    """The same weights, with every sublayer compiled; sublayers of a kind share their code."""
    twin = Decoder.__new__(Decoder)
    torch.nn.Module.__init__(twin)
    twin.shape, twin.context = model.shape, model.context
    twin.embed, twin.norm, twin.lm_head = model.embed, model.norm, model.lm_head
    twin.sublayers = torch.nn.ModuleList(
        torch.compile(sublayer, dynamic=False) for sublayer in model.sublayers
    )
    return twin


class Baseline:
    """All passes of one model."""

    def __init__(self, model: Decoder, deadline: float) -> None:
        """`deadline`: when to stop, on the monotonic clock."""
        self.model, self.deadline = model, deadline
        self.skips = {"full": frozenset[int](), "slim": slim_mask(model.shape.num_hidden_layers)}
        self.inputs = {tokens: model.inputs(tokens, "cuda") for tokens in TOKENS}

    def time_pass(self, runner: Decoder, how: str, tokens: int, which: str) -> None:
        """One row in milliseconds and one in GB/s, after checking the logits."""
        skipped, inputs = self.skips[which], self.inputs[tokens]
        params = {"model": self.model.shape.name, "how": how, "tokens": tokens, "pass": which}
        expected = self.model(**inputs, skipped=skipped)
        graph, out = capture(lambda: runner(**inputs, skipped=skipped))
        graph.replay()
        error = difference(out, expected)
        if not error <= TOLERANCE:
            raise WrongResult(f"{params}: logits differ by {error:.3g} of their norm")
        if which == "slim":
            full = self.model(**inputs, skipped=self.skips["full"])
            if not difference(expected, full) > TOLERANCE:
                raise WrongResult(f"{params}: skipping sublayers changes nothing")
        ms = replay_ms(graph)
        print_row(params, ms, "ms", note=f"logits differ by {error:.2g}")
        print_row(params, self.model.shape.pass_bytes(skipped) / ms * 1e-6, "GB/s")

    def run(self, runner: Decoder, how: str, reserve_s: float) -> None:
        """All M, most telling first; stops where less than `reserve_s` is left."""
        for tokens in (1, 16, 64, 8, 32):
            if self.deadline - time.monotonic() < reserve_s:
                params = {"model": self.model.shape.name, "how": how, "tokens": tokens}
                print_row(params, 0.0, "ms", "skipped", "no time left")
                continue
            for which in self.skips:
                self.time_pass(runner, how, tokens, which)


def fits(shape: Shape) -> bool:
    """Whether weights and working memory have room."""
    needed = shape.pass_bytes(frozenset()) + 2 * shape.vocab_size * shape.hidden_size
    return torch.cuda.mem_get_info()[0] > 1.2 * needed + 2**30


def run_shape(shape: Shape, deadline: float) -> bool:
    """Both ways of running one model; whether neither failed."""
    if not fits(shape):
        print_row({"model": shape.name}, 0.0, "ms", "skipped", "not enough device memory")
        return True
    model = random_decoder(shape, CONTEXT, "cuda")
    baseline = Baseline(model, deadline)
    torch._dynamo.reset()
    # M is a constant of the compiled code; the default limit of recompilations is 8.
    torch._dynamo.config.recompile_limit = 64
    ways = (("graph", model, GRAPH_S), ("compile+graph", compiled(model), COMPILE_S))
    success = True
    for how, runner, reserve_s in ways:
        try:
            baseline.run(runner, how, reserve_s)
        except (WrongResult, RuntimeError) as error:
            # A failure of the compiler or of the allocator must not cost the other baselines.
            first_line = str(error).strip().partition("\n")[0][:200]
            params = {"model": shape.name, "how": how}
            print_row(params, 0.0, "ms", "failed", f"{type(error).__name__}: {first_line}")
            success = False
    return success


def main() -> int:
    """Exit status as the other benchmarks have it."""
    deadline = time.monotonic() + float(sys.argv[1] if len(sys.argv) > 1 else 300.0)
    if not torch.cuda.is_available():
        print_row({}, 0.0, "ms", "skipped", "torch finds no GPU")
        return 3
    torch.manual_seed(0)
    success = True
    with torch.inference_mode():
        for index, shape in enumerate(SHAPES):
            # The first model leaves half of the time to the second.
            now = time.monotonic()
            share = (deadline - now) / (len(SHAPES) - index)
            success &= run_shape(shape, now + share)
            torch.cuda.empty_cache()
    return 0 if success else 1


if __name__ == "__main__":
    sys.exit(main())
