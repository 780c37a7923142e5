# SPDX-License-Identifier: Apache-2.0
"""The host's copy of requests that live on the device."""

from __future__ import annotations

from dataclasses import replace

from via_ext.engines.device_state import COUNTERS, DeviceState
from via_ext.engines.request import Request, StopRules
from via_ext.stats import StatsRecorder


class Mirror:
    """Reads `DeviceState` back when somebody asks; ends requests where only the host can tell.

    Args:
        state: the run's arrays.
        stop: end rules, for stop strings and a caller's stopping criteria.
        rows: batch rows.
    """

    def __init__(self, state: DeviceState, stop: StopRules, rows: int) -> None:
        """Copies the prompts."""
        self._state = state
        self._stop = stop
        self._seen = state.prompt_lens.tolist()
        keys, prompts = state.keys.tolist(), state.prompt_lens.tolist()
        self.requests = [
            Request(row, keys[row], prompts[row], [], prompts[row] - 1, prompts[row])
            for row in range(rows)
        ]
        for request in self.read():
            request.emitted = len(request.tokens)

    def read(self) -> list[Request]:
        """Fetches lengths, tokens, tiers and log-probabilities; waits for the device."""
        state = self._state
        lengths = state.lengths.tolist()
        width = max(lengths)
        tokens = state.tokens[:, :width].tolist()
        tiers = state.tiers[:, :width].tolist()
        logprobs = state.logprobs[:, :width].tolist()
        frontiers, confirmed = state.frontiers.tolist(), state.confirmed.tolist()
        finished = state.finished.tolist()
        for row, request in enumerate(self.requests):
            length, prompt = lengths[row], request.prompt_length
            request.tokens = tokens[row][:length]
            request.tiers = tiers[row][prompt:length]
            request.logprobs = logprobs[row][prompt:length]
            request.frontier = frontiers[row]
            request.confirmed = confirmed[row]
            request.finished = finished[row]
        return self.requests

    def stop_rows(self) -> bool:
        """Ends requests at a stop string, or by the caller's criteria, in newly confirmed tokens.

        Returns:
            True if every request has finished.
        """
        state = self._state
        for row, request in enumerate(self.read()):
            first, last = self._seen[row], request.confirmed
            self._seen[row] = last
            before = replace(request, tokens=request.tokens[:first])
            count = self._stop.cut(before, request.tokens[first:last], final=True)
            if count is not None:
                end = first + count
                state.lengths[row] = state.confirmed[row] = end
                state.frontiers[row] = end - 1
                state.finished[row] = request.finished = True
        return all(request.finished for request in self.requests)

    def recorder(self) -> StatsRecorder:
        """The counters of the run so far; waits for the device.

        Walks are not told apart by depth there, and passes of the drafter are not known.
        """
        state = self._state
        totals = dict(zip(COUNTERS, state.counters.sum(0).tolist(), strict=True))
        kept = totals.pop("kept")
        overshoot: list[float] = []
        rows = zip(state.overshoot.tolist(), state.lengths.tolist(), strict=True)
        for values, length in rows:
            overshoot += [value for value in values[:length] if value >= 0.0]
        return StatsRecorder(accepted_per_step=[kept], overshoot=overshoot, **totals)
