# SPDX-License-Identifier: Apache-2.0
"""Times `ops.verify` on the CPU beside plain PyTorch, and both beside the memory bandwidth.

Verification is bound by reading logits. The floor of a call is

    bytes of the rows it must read / measured read bandwidth,

where greedy and sample must read the rows on the walk and route every row with a child (and the
leaf, if reached). The bandwidth is that of a multi-threaded sum over an array far larger than the
caches, in the same run. Three copies of the logits take turns, so that the 37 MB of the largest
case do not stay in a cache; smaller cases may.

"eager" is the same decision written in plain PyTorch (no trees, no status, no ragged rows): softmax
over all rows, gather, compare, cumulative product, argmax or multinomial.

    python profiling/bench_ops.py [--device cpu] [--quick] [--out FILE]

Columns: microseconds at the 20th, 50th and 80th percentile, GB/s over the rows that must be read,
share of the measured bandwidth, and the median of eager over the median of ours.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from machine import cpu_name

from via_ext import build_info, ops

RESULTS = Path(__file__).parent / "results" / "bench_ops_cpu.csv"
COPIES = 3
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def percentiles(call: Callable[[], Any], budget: float) -> tuple[float, float, float]:
    """20th, 50th and 80th percentile of a call, in seconds, over about `budget` seconds."""
    for _ in range(3):
        call()
    times: list[float] = []
    end = time.perf_counter() + budget
    while len(times) < 9 or time.perf_counter() < end:
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    times.sort()
    low, median, high = (times[int(q * (len(times) - 1))] for q in (0.2, 0.5, 0.8))
    return low, median, high


def read_bandwidth(budget: float) -> float:
    """Bytes per second of summing 256 MB with torch's threads (the best percentile)."""
    data = torch.ones(64 * 2**20)
    return data.numel() * 4 / percentiles(data.sum, budget)[0]


def eager(rule: str, ids: torch.Tensor, logits: torch.Tensor, coins: torch.Tensor) -> Any:
    """The decision for a chain in plain PyTorch."""
    probs = torch.softmax(logits.float(), -1)
    drafted = probs[:, :-1].gather(2, ids[..., None])[..., 0]
    if rule == "route":
        ratios = drafted / probs[:, :-1].amax(-1)
        accepted = (ratios >= 0.7).cumprod(1).sum(1)
        tiers = (ratios < 0.7).int() + (ratios < 0.5).int()
    elif rule == "greedy":
        accepted = (probs[:, :-1].argmax(-1) == ids).cumprod(1).sum(1)
    else:
        accepted = (coins[:, :-1] < drafted).cumprod(1).sum(1)
    last = probs[torch.arange(len(probs)), accepted]
    if rule != "sample":
        return accepted, last.argmax(-1), probs.amax(-1).log(), tiers if rule == "route" else None
    # One-hot drafts: the rejected token leaves the last row, the bonus row keeps all.
    rejected = ids.gather(1, accepted.clamp(max=ids.shape[1] - 1)[:, None])
    kept = (accepted == ids.shape[1]).to(last.dtype)[:, None]
    last = last.scatter(1, rejected, last.gather(1, rejected) * kept)
    return accepted, torch.multinomial(last, 1), drafted.log()


def cases(quick: bool) -> list[dict[str, Any]]:
    """What is timed: rule, shape, dtype, filters, and how many draft tokens are right."""
    shapes = [(8, 128256)] if quick else [(1, 32000), (8, 32000), (1, 128256), (8, 128256)]
    found = []
    for batch, vocab in shapes:
        for dtype in DTYPES:
            for rule in ("route", "greedy", "sample"):
                for right in (8, 4):
                    found.append(dict(rule=rule, B=batch, N=8, V=vocab, dtype=dtype, right=right))
            for name, value in ({} if quick else {"top_k": 50, "top_p": 0.9}).items():
                case = dict(rule="sample", B=batch, N=8, V=vocab, dtype=dtype, right=8)
                found.append(case | {name: value})
    return found


def measure(case: dict[str, Any], bandwidth: float, budget: float) -> dict[str, Any]:
    """Times one case and returns its row."""
    batch, nodes, vocab, right = case["B"], case["N"], case["V"], case["right"]
    generator = torch.Generator().manual_seed(0)
    base = (torch.randn(batch, nodes + 1, vocab, generator=generator) * 3).to(DTYPES[case["dtype"]])
    copies = [base.clone() for _ in range(COPIES)]
    ids = base.float().argmax(-1)[:, :nodes]
    if right < nodes:
        ids[:, right] = (ids[:, right] + 1) % vocab
    filters = {name: case[name] for name in ("top_k", "top_p") if name in case}
    # Coins of zero accept every token of positive probability: the walk is the same every time.
    coins = torch.zeros(batch, nodes + 1)
    if case["rule"] == "sample":
        coins[:, right:nodes] = 0.999999
        filters |= {"temperature": 1.0, "uniform_samples": coins}
    turn = [0]

    def logits() -> torch.Tensor:
        turn[0] = (turn[0] + 1) % COPIES
        return copies[turn[0]]

    result = ops.verify(ids, base, rule=case["rule"], **filters)
    if result.num_accepted.tolist() != [right] * batch:
        raise RuntimeError(f"bench: case must accept {right}, got {result.num_accepted.tolist()}")
    fast = percentiles(lambda: ops.verify(ids, logits(), rule=case["rule"], **filters), budget)
    slow = percentiles(lambda: eager(case["rule"], ids, logits(), coins), budget)
    # Route reads every row that has a child; the leaf's row only if the walk gets there.
    rows = right + 1 if case["rule"] != "route" else nodes + (right == nodes)
    rate = batch * rows * vocab * base.element_size() / fast[1]
    return {
        **{key: case[key] for key in ("rule", "B", "N", "V", "dtype", "right")},
        "filters": " ".join(f"{name}={case[name]}" for name in ("top_k", "top_p") if name in case),
        "p20_us": round(fast[0] * 1e6, 1),
        "p50_us": round(fast[1] * 1e6, 1),
        "p80_us": round(fast[2] * 1e6, 1),
        "gb_per_s": round(rate / 1e9, 2),
        "of_bandwidth": round(rate / bandwidth, 3),
        "over_eager": "" if len(filters) > 2 else round(slow[1] / fast[1], 2),
    }


def show(rows: list[dict[str, Any]]) -> None:
    """Prints the rows, with rich where it is installed."""
    columns = list(rows[0])[:13]
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
    Console(width=140).print(table)


def main() -> None:
    """Runs all cases and writes the CSV."""
    parser = argparse.ArgumentParser(description="Time ops.verify beside plain PyTorch.")
    parser.add_argument("--device", choices=["cpu"], default="cpu")
    parser.add_argument("--quick", action="store_true", help="only B=8, V=128256")
    parser.add_argument("--budget", type=float, default=0.5, help="seconds per measurement")
    parser.add_argument("--out", type=Path, default=None, help=f"CSV file, default {RESULTS.name}")
    options = parser.parse_args()
    info = build_info()
    bandwidth = read_bandwidth(options.budget)
    facts = {
        "bandwidth_gb_per_s": round(bandwidth / 1e9, 2),
        "cpu": cpu_name(),
        "isa": info["cpu_isa"],
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "commit": info["git_commit"],
    }
    print("  ".join(f"{name}={value}" for name, value in facts.items()))
    rows = [measure(case, bandwidth, options.budget) | facts for case in cases(options.quick)]
    show(rows)
    out = options.out or RESULTS
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    print(f"written to {out}")


if __name__ == "__main__":
    main()
