# SPDX-License-Identifier: Apache-2.0
"""Time decoding, ours beside transformers': same models, same prompts, greedy, batch 1.

    python profiling/bench_decode.py [--device cpu|cuda] [--shapes pair,llama-3.2-1b,...] [--quick]
        [--repeats 5] [--max-new-tokens 96] [--draft-tokens 5] [--agreement 0.8] [--out FILE]

Every repeat runs every prompt by every method, methods in turn, and takes its ratios from that
repeat alone; the file holds medians over the repeats. Times are of whole calls, reading of the
prompt included; prompts are tokenised before. `pair` is the embedded pair, all else is made up
(column `synthetic`, see decode_models.py): there the drafts' acceptance is asked for
(`asked_acceptance`), `drafts_right` of the tokens to come agree with the drafter, and it costs what
a model of the shape `drafter` costs. A method that did not run is a row with the reason.

`ratio` is over plain greedy decoding of this package, `over_eager` and `over_assisted` over two of
transformers'. `ms_per_step`: of a whole call, per step; a step is a round of drafting, or a token.
`overhead` (CPU): share of a step outside the models' passes. `outside_us`, `enqueue_us`,
`launch_us`, `graphs`: per step, see decode_overhead.py; on the CPU `outside_us` is the time
outside the passes.
"""

from __future__ import annotations

import argparse
import csv
import gc
import os
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import decode_cases
import machine
import torch
from decode_models import make_subject
from decode_shapes import TARGETS

from via_ext import build_info
from via_ext.config import ViaConfig
from via_ext.evaluation.machine import cpu_name

RESULTS = Path(__file__).parent / "results"
COLUMNS = (
    *("shape", "method", "synthetic", "drafter", "asked_acceptance", "drafts_right"),
    *("tokens_per_second", "tokens_per_second_p20", "tokens_per_second_p80"),
    *("ratio", "ratio_min", "ratio_max", "over_eager", "over_assisted", "ms_per_step"),
    *("tokens_per_step", "full_per_step", "full_per_token", "slim_per_token"),
    *("accept", "regenerate", "escalate", "rejection", "agreement", "overhead"),
    *("outside_us", "enqueue_us", "launch_us", "graphs"),
    *("repeats", "prompts", "max_new_tokens", "draft_tokens", "note"),
)
SHOWN = ("tokens_per_second", "over_eager", "ms_per_step", "tokens_per_step", "outside_us")
DEFAULT_SHAPES = {"cpu": "pair", "cuda": "pair,llama-3.2-1b"}
QUICK = {"repeats": 2, "max_new_tokens": 24, "prompts": 2}


def parse(arguments: list[str]) -> argparse.Namespace:
    """Options; an unknown shape is a usage error."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--shapes", help=f"of pair, {', '.join(TARGETS)}")
    parser.add_argument("--quick", action="store_true", help="few tokens, prompts and repeats")
    parser.add_argument("--repeats", type=int)
    parser.add_argument("--prompts", type=int, help="per shape; default all of the pair's, 4 else")
    parser.add_argument("--max-new-tokens", type=int)
    parser.add_argument("--draft-tokens", type=int, default=5)
    parser.add_argument("--agreement", type=float, default=0.8, help="synthetic acceptance")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--budget-s", type=float, default=3600.0, help="seconds for everything")
    parser.add_argument("--append", action="store_true", help="keep the file's rows")
    parser.add_argument("--out", type=Path, help="CSV file")
    options = parser.parse_args(arguments)
    options.shapes = (options.shapes or DEFAULT_SHAPES[options.device]).split(",")
    for name in options.shapes:
        if name not in ("pair", *TARGETS):
            parser.error(f"--shapes must name pair, {', '.join(TARGETS)}, got {name}")
    if not 0.0 <= options.agreement <= 1.0:
        parser.error(f"--agreement must be in [0, 1], got {options.agreement}")
    usual = {"repeats": 5, "max_new_tokens": 96, "prompts": None}
    for name, value in (QUICK if options.quick else usual).items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    suffix = "_cuda" if options.device == "cuda" else ""
    options.out = options.out or RESULTS / f"bench_decode{suffix}.csv"
    return options


def facts(options: argparse.Namespace) -> dict[str, Any]:
    """Machine and versions."""
    import transformers

    on_cuda = options.device == "cuda"
    gpu = machine.find_gpu() if on_cuda else None
    return {
        "gpu": torch.cuda.get_device_name(0) if on_cuda else "",
        "driver": gpu.driver if gpu else "",
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "threads": options.threads,
        # Other work on the machine: above 0 the speeds are too low.
        "load_before": round(os.getloadavg()[0], 2),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "via_ext": build_info()["version"],
        "commit": machine.commit(),
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


def run_shape(name: str, options: argparse.Namespace, seconds: float) -> Iterator[decode_cases.Row]:
    """All methods on one subject, within some seconds as far as their first runs allow it."""
    end = time.monotonic() + seconds

    def left() -> float:
        return end - time.monotonic()

    subject = make_subject(name, options.device, options.agreement, options.prompts)
    config = ViaConfig(
        num_draft_tokens=options.draft_tokens,
        max_new_tokens=options.max_new_tokens,
        eos_token_id=(),
        seed=0,
    )
    items = decode_cases.make_methods(subject, config)
    about = {
        "shape": name,
        "synthetic": subject.synthetic,
        "drafter": subject.drafter_name,
        "asked_acceptance": subject.agreement,
        "drafts_right": subject.drafts_right(options.max_new_tokens),
        "prompts": len(subject.prompts),
        "max_new_tokens": options.max_new_tokens,
        "draft_tokens": options.draft_tokens,
    }
    for row in decode_cases.run_all(items, subject, options.repeats, left):
        yield about | row
    options.wrong += sum(item.wrong for item in items)


def rows_of(name: str, options: argparse.Namespace, seconds: float) -> Iterator[decode_cases.Row]:
    """The rows of a shape; one with the reason if it does not fit into the memory."""
    try:
        yield from run_shape(name, options, seconds)
    except torch.OutOfMemoryError as error:
        note = decode_cases.first_line(error)
        yield {"shape": name, "method": "all", "note": note, "repeats": 0}
    if options.device == "cuda":
        # Compiled code and recorded graphs hold memory of the models.
        torch._dynamo.reset()
        gc.collect()
        torch.cuda.empty_cache()


def main(arguments: list[str]) -> int:
    """Measures, prints, writes the CSV, each row when it is known."""
    options = parse(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        print("bench_decode: --device cuda needs a GPU that torch can use", file=sys.stderr)
        return 2
    torch.set_num_threads(options.threads)
    options.wrong, known = 0, facts(options)
    header = [*COLUMNS, *known]
    end = time.monotonic() + options.budget_s
    options.out.parent.mkdir(parents=True, exist_ok=True)
    old = options.out.read_text().split("\n", 1)[0] if options.out.exists() else ""
    more = options.append and old == ",".join(header)
    with options.out.open("a" if more else "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, header, lineterminator="\n")
        if not more:
            writer.writeheader()
        for index, name in enumerate(options.shapes):
            share = (end - time.monotonic()) / (len(options.shapes) - index)
            for row in rows_of(name, options, share):
                rounded = {k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}
                writer.writerow(rounded | known)
                said = "  ".join(f"{key} {rounded[key]}" for key in SHOWN if key in rounded)
                print(f"{name:<14}{row['method']:<37}{row['note'] or said}", flush=True)
                file.flush()
    print(f"written to {options.out}")
    return 1 if options.wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
