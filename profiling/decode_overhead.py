# SPDX-License-Identifier: Apache-2.0
"""What a step of the engine on the device costs outside its graphs; reads inner parts of a session.

Of a run whose graphs are all recorded, per step, in microseconds:

outside_us  wall time of the steps, less the device's time in the graphs by events around each
            replay. The events stand in the stream: where the device waits for the host, its first
            event has passed before the launch call is done, so a part of that call counts as the
            graph's. The truth lies between this and outside_us + launch_us.
enqueue_us  the host's time in the step, less its waits for the words: what the host needs to queue
            a step, whether or not the device has work meanwhile; two records of an event per graph
            are in it.
launch_us   the part of enqueue_us in the launch calls of the graphs.
graphs      graphs replayed per step.
"""

from __future__ import annotations

import time
from collections.abc import Hashable
from typing import Any

import torch

from via_ext.engines.device_passes import DeviceEngine
from via_ext.engines.device_session import DeviceSession
from via_ext.engines.graphs import Body, DecisionWord, GraphRunner


class TimedRunner(GraphRunner):
    """Keeps the host's time in runs, and on CUDA a pair of events around every replay.

    Attributes:
        host_seconds: in `run`.
        runs: calls of it.
    """

    def __init__(self, device: torch.device | str) -> None:
        """As `GraphRunner`."""
        super().__init__(device)
        # Used again after a reset: making an event takes as long as recording one.
        self._pairs: list[tuple[Any, Any]] = []
        self.reset()

    def reset(self) -> None:
        """Forgets times, not graphs."""
        self.host_seconds, self.runs = 0.0, 0

    def run(self, key: Hashable, body: Body) -> None:
        """As in `GraphRunner`."""
        on_cuda = self._device.type == "cuda"
        if on_cuda and self.runs == len(self._pairs):
            begin_event, end_event = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            self._pairs.append((begin_event, end_event))
        if on_cuda:
            self._pairs[self.runs][0].record()
        begin = time.perf_counter()
        super().run(key, body)
        self.host_seconds += time.perf_counter() - begin
        if on_cuda:
            self._pairs[self.runs][1].record()
        self.runs += 1

    def device_seconds(self) -> float:
        """Of all runs, on CUDA; waits for the device."""
        torch.cuda.synchronize(self._device)
        pairs = self._pairs[: self.runs]
        return sum(begin.elapsed_time(end) for begin, end in pairs) * 1e-3


class TimedWord(DecisionWord):
    """Keeps the time of its waits.

    Attributes:
        seconds: in `wait`.
    """

    seconds = 0.0

    def wait(self) -> torch.Tensor:
        """As in `DecisionWord`."""
        begin = time.perf_counter()
        found = super().wait()
        self.seconds += time.perf_counter() - begin
        return found


def synchronize(device: torch.device) -> None:
    """Waits for the device, where there is one to wait for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(decoder: Any, prompt: torch.Tensor) -> dict[str, float]:
    """The columns above, of one prompt [T]; a session of its own, warmed up by a run.

    On the CPU a graph's body is run by the host: then outside_us is what is left of a step without
    the bodies, and the two other times are not given.
    """
    engine = decoder._device or DeviceEngine(decoder._engine)
    device = next(engine.target.parameters()).device
    runner = TimedRunner(device)
    ids = [prompt.tolist()]
    session = DeviceSession(
        engine, decoder._drafter, decoder.config, ids, 0, decoder._eos, None, None, runner
    )
    words = session._words = TimedWord(session._state.words)
    while session.active:
        session.step()
    if not session.restart(ids, 0, None):
        raise RuntimeError("decode_overhead: the session must restart, its drafter is on the host")
    runner.reset()
    words.seconds = 0.0
    recorded = runner.captures
    synchronize(device)
    begin = time.perf_counter()
    while session.active:
        session.step()
    synchronize(device)
    wall = time.perf_counter() - begin
    # The host may learn a proposal late that the run has ended: that is no step.
    steps = session.recorder.steps
    if runner.captures != recorded:
        raise RuntimeError("decode_overhead: every graph must be recorded before, one was not")
    on_cuda = device.type == "cuda"
    inside = runner.device_seconds() if on_cuda else runner.host_seconds
    found = {
        "outside_us": (wall - inside) / steps * 1e6,
        "graphs": runner.runs / steps,
    }
    if on_cuda:
        found["enqueue_us"] = (session.seconds - words.seconds) / steps * 1e6
        found["launch_us"] = runner.host_seconds / steps * 1e6
    return found
