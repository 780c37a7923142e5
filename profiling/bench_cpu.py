# SPDX-License-Identifier: Apache-2.0
"""Times `verify` on the CPU beside plain PyTorch, and both beside the read bandwidth.

Verification is bound by reading logits. Floor of a call: bytes of the rows it must read (greedy and
sample: those on the walk; route: every row with a child, and the leaf if reached) over the read
bandwidth. Prediction: float32 reaches the bandwidth with two cores; bfloat16, at half the bytes per
exponential, is bound by arithmetic on rows whose log-probabilities are due, at about 16 GB/s here.

Every round times, in turn: a multi-threaded read loop over 256 MB (which also empties the caches,
so inputs come from memory), the operation, and the same decision in plain PyTorch ("eager": for
trees and draws a loop over requests). Other work on the machine thus hits all three alike. Columns:
microseconds at the 20th, 50th and 80th percentile, GB/s over the rows that must be read, its share
of the bandwidth (medians of the same rounds), median of eager over median of ours, and once, for
the smallest shape, the same ratio for via_ext.reference.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from bench_cases import Case, build, quantile
from peers import eager

from via_ext import ops, reference

READ_BYTES = 256 * 2**20
SLOW_ROUNDS = 3  # of eager with filters, which sorts, and where time runs out
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


def measure(case: Case, read: ReadLoop, rounds: int) -> Row:
    """Times one case and returns its row."""
    inputs = build(case)
    call = {**inputs.call, **case.filters}
    result = ops.verify(**call)
    if result.num_accepted.tolist() != [case.right] * case.batch:
        raise RuntimeError(f"bench: {case} accepted {result.num_accepted.tolist()}")
    other = eager(inputs)
    eager_rounds = min(SLOW_ROUNDS, rounds) if case.filters else rounds
    ours, theirs, reads = [], [], []
    for number in range(rounds):
        reads.append(seconds(read))
        ours.append(seconds(lambda: ops.verify(**call)))
        if number < eager_rounds:
            seconds(read)
            theirs.append(seconds(other))
    median = statistics.median(ours)
    bandwidth = READ_BYTES / statistics.median(reads)
    rate = case.floor_bytes / median
    slowest: float | str = ""
    if case.batch == 1 and case.vocab == 32000:
        slowest = round(seconds(lambda: reference.verify(**call)) / median, 1)
    return {
        **case.columns(),
        "p20_us": round(quantile(ours, 0.2) * 1e6, 1),
        "p50_us": round(median * 1e6, 1),
        "p80_us": round(quantile(ours, 0.8) * 1e6, 1),
        "gb_per_s": round(rate / 1e9, 2),
        "read_gb_per_s": round(bandwidth / 1e9, 2),
        "of_bandwidth": round(rate / bandwidth, 3),
        "over_eager": round(statistics.median(theirs) / median, 2),
        "over_reference": slowest,
    }
