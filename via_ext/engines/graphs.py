# SPDX-License-Identifier: Apache-2.0
"""CUDA graphs over static tensors, and the word that the host waits for.

What may be recorded: work on tensors that keep their addresses, with shapes that do not depend on
values; no host synchronisation, no copy from pageable host memory. Inputs are written into static
tensors before a run, results are copied into static tensors within it. Memory that the recorded
work allocates belongs to the graphs of a runner, which share it: it is valid during a replay only.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import torch

Body = Callable[[], object]


class GraphRunner:
    """Runs bodies of device work; on CUDA each key's body is recorded once and then replayed.

    The first run of a key executes the body itself, on a side stream, where libraries set
    themselves up, and then records it, which executes nothing. So every run executes the body
    exactly once, also one that changes its own inputs. A graph keeps its body alive, and with it
    the tensors that it reads and writes, until `close` or until the runner goes.

    Runs of one runner must follow each other on one stream, or be ordered by events: its graphs
    share memory. Not for several threads.

    Attributes:
        captures: graphs recorded.
        replays: runs that replayed one.
        direct: runs that called the body: the first of each key, all on the CPU and all of a key
            whose capture failed.
    """

    def __init__(
        self, device: torch.device | str, *, enabled: bool = True, fallback: bool = False
    ) -> None:
        """Prepares; the device is not touched before the first run.

        Args:
            device: where the bodies work.
            enabled: False calls every body directly on CUDA too.
            fallback: True calls a body directly from then on if it cannot be recorded; False
                raises.
        """
        self._device = torch.device(device)
        self._enabled = enabled and self._device.type == "cuda"
        self._fallback = fallback
        self._graphs: dict[Hashable, tuple[Any, Body]] = {}
        self._failed: dict[Hashable, str] = {}
        self._stream: Any = None
        self._pool: Any = None
        self.captures = 0
        self.replays = 0
        self.direct = 0

    @property
    def failed(self) -> dict[Hashable, str]:
        """Why a key is not replayed, for keys whose capture failed."""
        return dict(self._failed)

    def run(self, key: Hashable, body: Body) -> None:
        """Executes a body once; what it returns is dropped.

        CUDA: on the current stream of the runner's device. The host waits for the device when a key
        is recorded, never in a replay.

        Args:
            key: which body this is. The body of a key must do the same work on the same tensors
                every time: after the first run only its recording is used.
            body: the work.

        Raises:
            RuntimeError: the work could not be recorded and `fallback` is False. It has been
                executed once.
        """
        found = self._graphs.get(key)
        if found is not None:
            with torch.cuda.device(self._device):
                found[0].replay()
            self.replays += 1
            return
        self.direct += 1
        if not self._enabled or key in self._failed:
            body()
            return
        with torch.cuda.device(self._device):
            self._warm_up(body)
            try:
                graph = self._record(body)
            except Exception as error:
                message = f"GraphRunner: key {key!r} could not be recorded: {error}"
                if not self._fallback:
                    raise RuntimeError(message) from error
                self._failed[key] = message
                return
        self._graphs[key] = (graph, body)
        self.captures += 1

    def _warm_up(self, body: Body) -> None:
        if self._stream is None:
            self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            self._pool = torch.cuda.graph_pool_handle()
        current = torch.cuda.current_stream()
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            body()
        current.wait_stream(self._stream)

    def _record(self, body: Body) -> Any:
        graph = torch.cuda.CUDAGraph()
        current = torch.cuda.current_stream()
        try:
            # Other threads may allocate meanwhile: only this one's calls are checked.
            with torch.cuda.graph(
                graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"
            ):
                body()
        except Exception:
            # torch may go on taking the pool of a failed recording for one in use.
            self._pool = torch.cuda.graph_pool_handle()
            raise
        finally:
            # Where ending the capture fails, torch leaves the side stream current.
            torch.cuda.set_stream(current)
        return graph

    def close(self) -> None:
        """Frees the graphs after waiting for the device; later runs record again."""
        if self._graphs:
            torch.cuda.synchronize(self._device)
        self._graphs.clear()
        self._failed.clear()


class DecisionWord:
    """A small device tensor's copy on the host, for which the host waits by an event alone.

    `send` queues the copy behind the work on the current stream; `wait` returns when that copy is
    done, whatever was queued after it. On the CPU both are immediate.
    """

    def __init__(self, source: torch.Tensor) -> None:
        """Makes the host copy.

        Args:
            source: the static tensor that decides, contiguous, of any shape and dtype.
        """
        self._source = source
        self._on_cuda = source.is_cuda
        self._host = torch.zeros(source.shape, dtype=source.dtype, pin_memory=self._on_cuda)
        self._event: Any = None
        if self._on_cuda:
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]

    def send(self) -> None:
        """Queues the copy on the current stream; not to be recorded into a graph."""
        self._host.copy_(self._source, non_blocking=self._on_cuda)
        if self._event is not None:
            self._event.record(torch.cuda.current_stream(self._source.device))

    def wait(self) -> torch.Tensor:
        """Waits for the last `send`.

        Returns:
            The value on the host, overwritten by the next `send`.
        """
        if self._event is not None:
            self._event.synchronize()
        return self._host
