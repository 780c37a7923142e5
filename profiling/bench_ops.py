# SPDX-License-Identifier: Apache-2.0
"""Times the operations on the CPU beside plain PyTorch, and both beside the memory bandwidth.

    python profiling/bench_ops.py [--device cpu] [--quick] [--rounds 9] [--out FILE]

Verification is bound by reading logits. Floor of a call: bytes of the rows it must read (greedy and
sample: those on the walk; route: every row with a child, and the leaf if reached) over the read
bandwidth. Prediction: float32 reaches the bandwidth with two cores; bfloat16, at half the bytes per
exponential, is bound by arithmetic on rows whose log-probabilities are due, at about 11 (AVX2) to
13 GB/s (AVX-512) per Zen 4 core.

Every round times, in turn: a multi-threaded read loop over 256 MB (which also empties the caches,
so inputs come from memory), the operation, and the same decision in plain PyTorch ("eager": for
trees and draws a loop over requests). Other work on the machine thus hits all three alike. Columns:
microseconds at the 20th, 50th and 80th percentile, GB/s over the rows that must be read, its share
of the bandwidth (medians of the same rounds), median of eager over median of ours, and once, for
the smallest shape, the same ratio for via_ext.reference.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from eager_ops import eager_greedy, eager_route, eager_sample, filtered
from machine import cpu_name

from via_ext import Tree, build_info, ops, reference

RESULTS = Path(__file__).parent / "results" / "bench_ops_cpu.csv"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
READ_BYTES = 256 * 2**20
Row = dict[str, Any]


class ReadLoop:
    """Reads 256 MB with one thread per torch thread; numpy releases the interpreter lock."""

    def __init__(self) -> None:
        """Allocates one part per thread."""
        threads = torch.get_num_threads()
        self.parts = np.array_split(np.ones(READ_BYTES // 8, dtype=np.uint64), threads)
        self.pool = ThreadPoolExecutor(threads)

    def __call__(self) -> None:
        """Reads everything once."""
        list(self.pool.map(np.bitwise_or.reduce, self.parts))


def seconds(call: Callable[[], Any]) -> float:
    """Duration of one call, after torch's own threads have stopped waiting actively for work."""
    time.sleep(0.01)
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def quantile(times: list[float], q: float) -> float:
    """The element at rank q of the sorted times."""
    return sorted(times)[round(q * (len(times) - 1))]


def cases(quick: bool) -> list[Row]:
    """What is timed: rule, drafts, shape, dtype, filters, and how many draft tokens are right."""
    shapes = [(8, 128256)] if quick else [(1, 32000), (8, 32000), (1, 128256), (8, 128256)]
    kinds: list[Row] = [
        {"rule": rule, "drafts": "chain", "right": right}
        for rule in ("route", "greedy", "sample")
        for right in (8, 4)
    ]
    kinds.append({"rule": "sample", "drafts": "chain+p", "right": 4})
    kinds.append({"rule": "route", "drafts": "tree", "right": 3})
    kinds.append({"rule": "greedy", "drafts": "tree", "right": 3})
    kinds.append({"rule": "sample", "drafts": "chain", "right": 4, "top_k": 50, "top_p": 0.9})
    kinds.append({"rule": "sample", "drafts": "chain", "right": 4, "top_p": 0.9})
    return [
        {**kind, "B": batch, "V": vocab, "dtype": dtype}
        for batch, vocab in shapes
        for dtype in DTYPES
        for kind in kinds
    ]


def draft_tree(case: Row) -> Tree:
    """The shape of a case's draft."""
    return Tree.from_widths([4, 2, 1]) if case["drafts"] == "tree" else Tree.chain(8)


def build(case: Row) -> tuple[Row, Row, torch.Tensor]:
    """Arguments of `verify` and of eager, and the logits: noise and one likely token per row."""
    batch, vocab, right = case["B"], case["V"], case["right"]
    tree = draft_tree(case)
    nodes, parents = tree.num_nodes, torch.tensor(tree.parents)
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(batch, nodes + 1, vocab, generator=generator) * 2.5
    likely = torch.randint(0, vocab, (batch, nodes + 1), generator=generator)
    logits.scatter_(2, likely[..., None], 16.0)
    logits = logits.to(DTYPES[case["dtype"]])
    # The first child of every row is its likely token; siblings miss.
    first = torch.tensor([node == list(tree.parents).index(p) for node, p in enumerate(parents)])
    ids = torch.where(first, likely[:, parents + 1], (likely[:, parents + 1] + 7) % vocab)
    if right < nodes and case["drafts"] != "tree":
        ids[:, right] = (ids[:, right] + 1) % vocab
    call: Row = {"rule": case["rule"], "draft_token_ids": ids, "logits": logits}
    if case["drafts"] == "tree":
        call["parents"] = parents
    if case["rule"] == "sample":
        # Coins of 0 accept what has any probability; the one of the wrong token rejects it.
        coins = torch.zeros(batch, nodes + 1)
        coins[:, right:nodes] = 0.999999
        coins[:, nodes] = 0.5
        call |= {"temperature": 1.0, "uniform_samples": coins}
    if case["drafts"] == "chain+p":
        call["draft_probs"] = torch.zeros(batch, nodes, vocab).scatter(2, ids[..., None], 1.0)
        call["draft_probs"] += 1.0 / vocab
    return call, {name: case[name] for name in ("top_k", "top_p") if name in case}, logits


def eager_call(call: Row, filters: Row, logits: torch.Tensor) -> Callable[[], Any]:
    """The same decision in plain PyTorch."""
    ids, parents = call["draft_token_ids"], call.get("parents")
    if call["rule"] == "route":
        return lambda: eager_route(ids, logits, parents)
    if call["rule"] == "greedy":
        return lambda: eager_greedy(ids, logits, parents)
    coins, drawn_from = call["uniform_samples"], call.get("draft_probs")
    return lambda: eager_sample(ids, filtered(logits, **filters), coins, drawn_from)


def bytes_to_read(case: Row, logits: torch.Tensor) -> int:
    """Rows that the call must read, in bytes; a rejected draft distribution counts as one more."""
    tree, vocab = draft_tree(case), case["V"]
    rows = case["right"] + 1
    if case["rule"] == "route":
        # Every row with a child, and the leaf's where the walk gets that far.
        rows = len(set(tree.parents)) + (case["right"] == tree.max_depth)
    rejected = vocab * 4 if case["drafts"] == "chain+p" else 0
    return case["B"] * (rows * vocab * logits.element_size() + rejected)


def measure(case: Row, read: ReadLoop, rounds: int) -> Row:
    """Times one case and returns its row."""
    call, filters, logits = build(case)
    result = ops.verify(**call, **filters)
    if result.num_accepted.tolist() != [case["right"]] * case["B"]:
        raise RuntimeError(f"bench: {case} accepted {result.num_accepted.tolist()}")
    eager = eager_call(call, filters, logits)
    eager_rounds = 3 if filters else rounds
    ours, theirs, reads = [], [], []
    for number in range(rounds):
        reads.append(seconds(read))
        ours.append(seconds(lambda: ops.verify(**call, **filters)))
        if number < eager_rounds:
            seconds(read)
            theirs.append(seconds(eager))
    median = statistics.median(ours)
    bandwidth = READ_BYTES / statistics.median(reads)
    rate = bytes_to_read(case, logits) / median
    slowest: float | str = ""
    if case["B"] == 1 and case["V"] == 32000:
        slowest = round(seconds(lambda: reference.verify(**call, **filters)) / median, 1)
    return {
        **{key: case[key] for key in ("rule", "drafts", "B")},
        "N": result.path.shape[1],
        **{key: case[key] for key in ("V", "dtype", "right")},
        "filters": " ".join(f"{name}={value}" for name, value in filters.items()),
        "p20_us": round(quantile(ours, 0.2) * 1e6, 1),
        "p50_us": round(median * 1e6, 1),
        "p80_us": round(quantile(ours, 0.8) * 1e6, 1),
        "gb_per_s": round(rate / 1e9, 2),
        "read_gb_per_s": round(bandwidth / 1e9, 2),
        "of_bandwidth": round(rate / bandwidth, 3),
        "over_eager": round(statistics.median(theirs) / median, 2),
        "over_reference": slowest,
    }


def show(rows: list[Row]) -> None:
    """Prints the rows, with rich where it is installed."""
    columns = list(rows[0])[:16]
    try:
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        for row in rows:
            print("  ".join(f"{name}={row[name]}" for name in columns))
        return
    table = Table(*columns)
    for row in rows:
        table.add_row(*(str(row[name]) for name in columns))
    Console(width=170).print(table)


def commit() -> str:
    """The commit of this checkout, or what the build says."""
    asked = subprocess.run(
        ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"],
        capture_output=True,
        text=True,
        check=False,
    )
    return asked.stdout.strip() or str(build_info()["git_commit"])


def main() -> None:
    """Runs all cases and writes the CSV."""
    parser = argparse.ArgumentParser(description="Time ops.verify beside plain PyTorch.")
    parser.add_argument("--device", choices=["cpu"], default="cpu")
    parser.add_argument("--quick", action="store_true", help="only B=8, V=128256")
    parser.add_argument("--rounds", type=int, default=9, help="timed calls per case")
    parser.add_argument("--out", type=Path, default=RESULTS, help="CSV file")
    options = parser.parse_args()
    facts = {
        "threads": torch.get_num_threads(),
        "cpu": cpu_name(),
        "isa": build_info()["cpu_isa"],
        "torch": torch.__version__,
        "commit": commit(),
    }
    print("  ".join(f"{name}={value}" for name, value in facts.items()))
    read = ReadLoop()
    rows = [measure(case, read, options.rounds) | facts for case in cases(options.quick)]
    show(rows)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with options.out.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    print(f"written to {options.out}")


if __name__ == "__main__":
    main()
