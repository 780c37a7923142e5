# SPDX-License-Identifier: Apache-2.0
"""Timers of the GPU benchmark: device events with a cold L2 cache; a host clock for its tests."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

import torch

Call = Callable[[], Any]
WARM_UP = 3
MIN_ROUNDS, MAX_ROUNDS = 7, 60


class Timer(Protocol):
    """How the runner measures; all times in seconds."""

    modes: tuple[str, ...]

    def prepare(self, call: Call, mode: str) -> Call:
        """Warms up and returns what is to be timed."""

    def once(self, call: Call, mode: str) -> float:
        """One timed call."""


class HostTimer:
    """A host clock, for the CPU."""

    modes: tuple[str, ...] = ("eager",)

    def prepare(self, call: Call, mode: str) -> Call:
        """One call."""
        call()
        return call

    def once(self, call: Call, mode: str) -> float:
        """One call by the host clock."""
        begin = time.perf_counter()
        call()
        return time.perf_counter() - begin


class EventTimer:
    """CUDA events around a call.

    Before each call one buffer several times the size of the L2 cache is written and another one
    read: the inputs come from memory, and the cache holds no dirty lines whose write-back would be
    charged to the call. Mode "graph" replays a captured graph of one call, which is the device's
    time. In mode "eager" the device is idle when the call begins, so the host's work counts.
    """

    modes: tuple[str, ...] = ("graph", "eager")

    def __init__(self) -> None:
        """Allocates the two buffers."""
        cache = torch.cuda.get_device_properties(0).L2_cache_size
        size = max(4 * cache, 256 * 2**20) // 4
        self.written = torch.empty(size, dtype=torch.int32, device="cuda")
        self.read = torch.zeros(size, dtype=torch.int32, device="cuda")
        self.events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]

    def prepare(self, call: Call, mode: str) -> Call:
        """Warms up, and captures a graph for mode "graph"."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UP):
                call()
        torch.cuda.current_stream().wait_stream(side)
        torch.cuda.synchronize()
        if mode != "graph":
            return call
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            call()
        graph.replay()
        torch.cuda.synchronize()
        return graph.replay

    def once(self, call: Call, mode: str) -> float:
        """One call with a cold cache."""
        begin, end = self.events
        self.written.zero_()
        self.read.amax()
        if mode == "eager":
            torch.cuda.synchronize()
        begin.record()
        call()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) * 1e-3


def times(timer: Timer, call: Call, mode: str, seconds: float) -> list[float]:
    """As many timed calls as fit into `seconds` of wall time, within limits."""
    ready = timer.prepare(call, mode)
    begin = time.perf_counter()
    taken = [timer.once(ready, mode)]
    cost = max(time.perf_counter() - begin, 1e-9)
    rounds = min(MAX_ROUNDS, max(MIN_ROUNDS, int(seconds / cost)))
    return taken + [timer.once(ready, mode) for _ in range(rounds - 1)]


class CopyBandwidth:
    """Bytes per second of a copy inside the device's memory, read and written bytes counted."""

    def __init__(self, device: str, size: int = 2**30) -> None:
        """Allocates source and destination, `size` bytes each."""
        self.source = torch.ones(size // 4, dtype=torch.int32, device=device)
        self.target = torch.empty_like(self.source)

    def measure(self, timer: Timer, rounds: int = 5) -> float:
        """Median of some copies."""
        mode = timer.modes[0]
        copy = timer.prepare(lambda: self.target.copy_(self.source), mode)
        taken = sorted(timer.once(copy, mode) for _ in range(rounds))
        return 2 * self.source.numel() * 4 / taken[rounds // 2]
