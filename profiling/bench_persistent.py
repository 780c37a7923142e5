# SPDX-License-Identifier: Apache-2.0
"""Time the persistent engine: passes of M tokens, and decoding, beside other ways to do the same.

    python profiling/bench_persistent.py [--shapes llama-3.2-1b,llama-3.1-8b] [--tokens 8,16,32,64]
        [--budget-s 300] [--out FILE] [--append] [--stamps FILE.csv]

Needs a GPU; on a machine without one it says so, and ends with status 0. Weights are made up
(decode_models.py), one request, 1024 positions before the new tokens; what is called how is in
persistent_subjects.py. `impl`: persistent; compile+graph and graph, a plain decoder under
torch.compile and CUDA graphs, or the graphs alone; transformers, eager; for decoding also torch,
this package's own engine on graphs. `mode` as in bench_cuda.py: graph is the device's time, eager
the host's included. A row is in the file when it is measured; what does not run is a row with the
reason.

`gb` are weights, keys and values that a pass has to read; `floor_us` their time at the copy
bandwidth of the same run, `of_copy` the share of it that was reached, `predicted_us` what
stream_model.py expects of the persistent engine on an H200, and `over_ours` the time over that of
the persistent engine, same mode or ours in its first. --stamps: one full pass of M = 16, for
phase_plot.py; the module must have been built with VIA_STAMPS.
"""

from __future__ import annotations

import argparse
import csv
import gc
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import machine
import torch
from bench_timers import CopyBandwidth, EventTimer
from decode_shapes import SHAPES, TARGETS
from persistent_rows import CASE_S, FACTS, NO_TIME, Bench, Rows

RESULTS = Path(__file__).parent / "results"


def parse(arguments: list[str]) -> argparse.Namespace:
    """Options; an unknown shape or too many tokens is a usage error."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--shapes", default="llama-3.2-1b,llama-3.1-8b")
    parser.add_argument("--tokens", default="8,16,32,64", help="M of the passes")
    parser.add_argument("--budget-s", type=float, default=300.0, help="seconds for everything")
    parser.add_argument("--append", action="store_true", help="keep the file's rows")
    parser.add_argument("--stamps", type=Path, help="CSV for phase_plot.py")
    parser.add_argument("--out", type=Path, default=RESULTS / "bench_persistent_cuda.csv")
    options = parser.parse_args(arguments)
    options.shapes = options.shapes.split(",")
    for name in options.shapes:
        if name not in TARGETS or SHAPES[name].dtype != "bfloat16":
            fit = ", ".join(name for name in TARGETS if SHAPES[name].dtype == "bfloat16")
            parser.error(f"--shapes must name {fit}, got {name}")
    options.tokens = [int(word) for word in options.tokens.split(",")]
    if not all(1 <= tokens <= 64 for tokens in options.tokens):
        parser.error(f"--tokens must be from 1 to 64, got {options.tokens}")
    return options


def attempt(bench: Bench, shape: str, impl: str, tokens: list[int], make: Any, modes: Any) -> None:
    """Makes one way to run passes, and times what it can; its memory is given back."""
    try:
        passes = make()
    except Exception as error:  # what other packages raise is theirs
        bench.failed(shape, "all passes", impl, "", f"{type(error).__name__}: {error}")
        return
    which = {"persistent": ("full", "slim", "tail"), "transformers": ("full",)}
    for count in tokens:
        for name in which.get(impl, ("full", "slim")):
            if bench.left() < 10 * CASE_S:
                bench.failed(shape, f"{name} pass", impl, count, NO_TIME)
                continue
            try:
                bench.time_pass(shape, name, impl, count, passes.call(name, count), modes)
            except Exception as error:
                bench.failed(shape, f"{name} pass", impl, count, f"{type(error).__name__}: {error}")
    del passes


def free() -> None:
    """Gives memory of models back."""
    torch._dynamo.reset()
    gc.collect()
    torch.cuda.empty_cache()


def time_decoding(bench: Bench, shape: str, subject: Any, tokens: int, nodes: int) -> None:
    """Whole runs by both engines: the first prepares, the second is timed."""
    import persistent_subjects

    runs = persistent_subjects.decoding(subject, tokens, nodes)
    for engine, method, make in runs:
        what = f"decoding, {method}"
        if bench.left() < 10 * CASE_S:
            bench.failed(shape, what, engine, nodes + 1, NO_TIME)
            continue
        try:
            run = make()
            run()
            torch.cuda.synchronize()
            begin = time.perf_counter()
            made, steps = run()
            seconds = time.perf_counter() - begin
        except Exception as error:
            bench.failed(shape, what, engine, nodes + 1, f"{type(error).__name__}: {error}")
            continue
        row = {"shape": shape, "what": what, "impl": engine, "mode": "eager", "M": nodes + 1}
        row |= {"tokens_per_second": made / seconds, "ms_per_step": 1e3 * seconds / steps}
        bench.rows.add(row | {"synthetic": subject.synthetic, "note": ""})


def with_model(bench: Bench, shape: str, tokens: list[int]) -> frozenset[int]:
    """What runs the weights of one model; returns what its slim pass skips."""
    import persistent_subjects as subjects
    from decode_models import make_subject

    subject = make_subject(shape, "cuda", 0.8, 4)
    both = bench.timer.modes
    attempt(bench, shape, "persistent", tokens, lambda: subjects.PersistentPasses(subject), both)
    free()
    eager = ("eager",)
    attempt(
        bench, shape, "transformers", tokens, lambda: subjects.TransformersPasses(subject), eager
    )
    time_decoding(bench, shape, subject, 96, 7)
    return subjects.skipped_sublayers(subject)


def run_shape(bench: Bench, shape: str, tokens: list[int]) -> None:
    """Ours first, then the others, each gone from the memory before the next."""
    import persistent_subjects as subjects

    skipped = with_model(bench, shape, tokens)
    free()
    for impl in ("graph", "compile+graph"):

        def make(impl: str = impl) -> Any:
            return subjects.GraphPasses(shape, skipped, compiled=impl != "graph")

        attempt(bench, shape, impl, tokens, make, ("graph",))
        free()


def keep_stamps(shape: str, path: Path) -> str:
    """Writes the stamps of one full pass, and says what came of it."""
    import persistent_subjects as subjects
    from decode_models import make_subject
    from phase_plot import COLUMNS as STAMP_COLUMNS

    passes = subjects.PersistentPasses(make_subject(shape, "cuda", 0.8, 4), stamps=True)
    call = passes.call("full", 16)
    for _ in range(2):  # the first one meets a cold instruction cache
        passes.engine.stamps.zero_()
        call()
        torch.cuda.synchronize()
    lines = passes.read_stamps()
    if not lines:
        return "no stamps: build with CMAKE_ARGS=-DCMAKE_CUDA_FLAGS=-DVIA_STAMPS"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([STAMP_COLUMNS, *lines])
    return f"written to {path}"


def main(arguments: list[str]) -> int:
    """Measures; 1 if a pass of ours failed."""
    options = parse(arguments)
    if not torch.cuda.is_available():
        print("bench_persistent: nothing is timed: torch finds no GPU here")
        return 0
    gpu = machine.find_gpu()
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    values = (torch.cuda.get_device_name(0), gpu.driver if gpu else "", torch.__version__)
    facts = dict(zip(FACTS, (*values, torch.version.cuda, machine.commit(), now), strict=True))
    if options.stamps:
        print(keep_stamps(options.shapes[0], options.stamps))
        return 0
    rows = Rows(options.out, facts, append=options.append)
    failures, end = 0, time.monotonic() + options.budget_s
    with torch.inference_mode():
        for index, shape in enumerate(options.shapes):
            share = (end - time.monotonic()) / (len(options.shapes) - index)
            bench = Bench(EventTimer(), CopyBandwidth("cuda"), rows, time.monotonic() + share)
            run_shape(bench, shape, options.tokens)
            failures += bench.failures
            del bench
            free()
    print(f"written to {options.out}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
