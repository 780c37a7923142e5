# SPDX-License-Identifier: Apache-2.0
"""`GraphRunner` and `DecisionWord` without a GPU: what runs when, and how often.

Recording itself is replaced: a stand-in that remembers the body, as a CUDA graph does.
"""

from __future__ import annotations

import contextlib
import gc
import inspect
import weakref
from types import SimpleNamespace

import pytest
import torch

from via_ext.engines.graphs import DecisionWord, GraphRunner


class Recorded:
    """Stands for a graph: replays the body it was recorded from."""

    def __init__(self, body):
        self.replay = body


@pytest.fixture
def runner(monkeypatch):
    """Makes runners that take the CUDA path; a body named `unrecordable` cannot be recorded."""

    def record(_self, body):
        if body.__name__ == "unrecordable":
            raise RuntimeError("operation not permitted when stream is capturing")
        return Recorded(body)

    monkeypatch.setattr(torch.cuda, "device", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _: None)
    monkeypatch.setattr(GraphRunner, "_warm_up", lambda _, body: body())
    monkeypatch.setattr(GraphRunner, "_record", record)
    return lambda **options: GraphRunner("cuda", **options)


def counting(step=1):
    """A static tensor and a body that adds to it."""
    total = torch.zeros((), dtype=torch.int64)
    return total, lambda: total.add_(step)


def counts(runner):
    return runner.captures, runner.replays, runner.direct


def test_the_cpu_calls_the_body():
    total, body = counting()
    runner = GraphRunner("cpu")
    for _ in range(3):
        runner.run("step", body)
    assert total == 3 and counts(runner) == (0, 0, 3)
    runner.close()


def test_every_run_executes_once(runner):
    one, two = counting(), counting(10)
    graphs = runner()
    for _ in range(3):
        graphs.run(("step", 1), one[1])
        graphs.run(("step", 2), two[1])
    assert (one[0], two[0]) == (3, 30)
    assert counts(graphs) == (2, 4, 2)


def test_a_recording_is_used_whatever_body_comes(runner):
    one, two = counting(), counting()
    graphs = runner()
    graphs.run("step", one[1])
    graphs.run("step", two[1])
    assert (one[0], two[0]) == (2, 0)


def test_disabled(runner):
    total, body = counting()
    graphs = runner(enabled=False)
    graphs.run("step", body)
    graphs.run("step", body)
    assert total == 2 and counts(graphs) == (0, 0, 2)


def test_a_failed_capture_raises_after_one_execution(runner):
    total, add = counting()

    def unrecordable():
        add()

    graphs = runner()
    words = r"key 'step' could not be recorded: operation not permitted"
    with pytest.raises(RuntimeError, match=words) as caught:
        graphs.run("step", unrecordable)
    assert total == 1 and isinstance(caught.value.__cause__, RuntimeError)
    assert counts(graphs) == (0, 0, 1)


def test_a_failed_capture_falls_back(runner):
    total, add = counting()

    def unrecordable():
        add()

    graphs = runner(fallback=True)
    for number in (1, 2, 3):
        graphs.run("step", unrecordable)
        assert total == number
    assert counts(graphs) == (0, 0, 3)
    assert "could not be recorded" in graphs.failed["step"]


def test_an_error_of_the_body_is_its_own(runner):
    def broken():
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        runner(fallback=True).run("step", broken)


def test_graphs_keep_what_they_use_until_closed(runner):
    class Engine:
        def __init__(self):
            self.total = torch.zeros((), dtype=torch.int64)

        def step(self):
            self.total += 1

    graphs, engine = runner(), Engine()
    total, alive = engine.total, weakref.ref(engine)
    graphs.run("step", engine.step)
    del engine
    gc.collect()
    assert alive() is not None
    graphs.run("step", lambda: None)
    assert total == 2
    graphs.close()
    gc.collect()
    assert alive() is None
    other, body = counting()
    graphs.run("step", body)
    assert other == 1 and graphs.captures == 2


class FakeCuda:
    """torch.cuda's streams and recordings as a list of what happened."""

    def __init__(self, monkeypatch, *, failing=False):
        self.log, self.current, self.failing = [], "main", failing
        self.signature = inspect.signature(torch.cuda.graph.__init__)
        names = ("Stream", "current_stream", "stream", "set_stream", "graph", "graph_pool_handle")
        for name in names:
            monkeypatch.setattr(torch.cuda, name, getattr(self, name))
        monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: SimpleNamespace(replay=self.replay))
        monkeypatch.setattr(torch.cuda, "device", lambda _: contextlib.nullcontext())

    def Stream(self):
        return SimpleNamespace(wait_stream=lambda _: self.log.append("side waits"), name="side")

    def current_stream(self):
        def wait_stream(_):
            self.log.append(f"{self.current} waits")

        return SimpleNamespace(wait_stream=wait_stream, name=self.current)

    @contextlib.contextmanager
    def stream(self, stream):
        before, self.current = self.current, stream.name
        yield
        self.current = before

    def set_stream(self, stream):
        self.current = stream.name

    @contextlib.contextmanager
    def graph(self, *args, **options):
        bound = self.signature.bind(None, *args, **options).arguments
        self.log.append(f"record in {bound['pool']}")
        self.current = bound["stream"].name
        yield
        if self.failing:
            raise RuntimeError("capture invalidated")
        self.current = "main"

    def graph_pool_handle(self):
        pools = sum(entry.startswith("pool") for entry in self.log)
        self.log.append(f"pool {pools}")
        return f"pool {pools}"

    def replay(self):
        self.log.append(f"replay on {self.current}")


def test_warm_up_and_recording_on_a_side_stream(monkeypatch):
    cuda = FakeCuda(monkeypatch)
    runner = GraphRunner("cuda")
    for key in "aab":
        runner.run(key, lambda: cuda.log.append(f"body on {cuda.current}"))
    first = ["side waits", "body on side", "main waits", "record in pool 0", "body on side"]
    assert cuda.log == ["pool 0", *first, "replay on main", *first]
    assert cuda.current == "main" and counts(runner) == (2, 1, 2)


def test_a_failed_recording_leaves_the_stream_and_takes_another_pool(monkeypatch):
    cuda = FakeCuda(monkeypatch, failing=True)
    runner = GraphRunner("cuda", fallback=True)
    runner.run("a", lambda: None)
    assert cuda.current == "main" and "capture invalidated" in runner.failed["a"]
    cuda.failing = False
    runner.run("b", lambda: None)
    assert cuda.log[-1] == "record in pool 1" and counts(runner) == (1, 0, 2)


def test_decision_word_is_a_copy():
    source = torch.tensor([3, 4], dtype=torch.int32)
    word = DecisionWord(source)
    word.send()
    source += 1
    assert word.wait().tolist() == [3, 4]
    word.send()
    assert word.wait().tolist() == [4, 5] and word.wait().dtype == torch.int32
