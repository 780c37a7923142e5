# SPDX-License-Identifier: Apache-2.0
"""Time decoding on the embedded pair: plain greedy, two-tier exact, via, exact three-tier.

    python profiling/bench_decode.py [--repeats 5] [--max-new-tokens 96] [--threads 1] [--out FILE]

Every repeat decodes every demo prompt with every method, methods in turn, and takes its ratios from
that repeat alone; the file holds the median of each column over the repeats, and the lowest and
highest ratio. Prompts are read before the clock starts. `overhead` is the share of a step outside
the models' forward passes. Batch 1, greedy, float32.
"""

from __future__ import annotations

import argparse
import csv
import os
import statistics
from pathlib import Path

import torch
from machine import cpu_name

import via_ext
from via_ext import demo
from via_ext.config import ViaConfig
from via_ext.demo_table import METHODS, Row, measure, pass_cost

OUT = Path(__file__).parent / "results" / "bench_decode.csv"
COLUMNS = (
    "tokens_per_second",
    "ratio",
    "slim_per_token",
    "full_per_token",
    "tokens_per_step",
    "full_per_step",
    "accept",
    "regenerate",
    "escalate",
    "rejection",
    "agreement",
    "overhead",
)


def median(rows: list[Row], column: str) -> float | None:
    """Median of a column over the repeats, None where the method does not have it."""
    values = [row.to_dict()[column] for row in rows]
    return None if values[0] is None else round(statistics.median(values), 4)


def main() -> None:
    """Measure, print, write the CSV."""
    parser = argparse.ArgumentParser(description="Time decoding on the embedded pair.")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--max-new-tokens", type=int, default=96)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()

    torch.set_num_threads(options.threads)
    load = os.getloadavg()[0]  # other work on the machine: above 0 the speeds are too low
    pair = demo.load()
    encode = pair.tokenizer.encode
    prompts = [torch.tensor(encode(prompt.text), dtype=torch.int64) for prompt in demo.prompts()]
    config = ViaConfig(max_new_tokens=options.max_new_tokens, seed=0)
    repeats = []
    for number in range(options.repeats):
        repeats.append(measure(pair, prompts, config))
        print(f"repeat {number + 1}/{options.repeats} done", flush=True)
    cost = pass_cost(pair, 1 + config.num_nodes)

    conditions = {
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "load_before": round(load, 2),
        "threads": options.threads,
        "torch": torch.__version__,
        "via_ext": via_ext.build_info()["version"],
        "prompts": len(prompts),
        "max_new_tokens": options.max_new_tokens,
        "repeats": options.repeats,
        "slim_over_full_seconds": round(cost.slim / cost.full, 4),
    }
    table = []
    for index, method in enumerate(METHODS.values()):
        rows = [repeat[index] for repeat in repeats]
        ratios = [row.ratio for row in rows]
        entry: dict[str, object] = {"method": method.name}
        entry |= {column: median(rows, column) for column in COLUMNS}
        entry |= {"ratio_min": round(min(ratios), 4), "ratio_max": round(max(ratios), 4)}
        table.append(entry | conditions)
        shown = "  ".join(f"{column} {entry[column]}" for column in COLUMNS[:2] + COLUMNS[-2:])
        print(f"{method.name:<18}{shown}")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with options.out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, table[0])
        writer.writeheader()
        writer.writerows(table)
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
