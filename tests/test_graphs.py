# SPDX-License-Identifier: Apache-2.0
"""`GraphRunner` and `DecisionWord` without a GPU: what runs when, and how often.

Recording itself is replaced: a stand-in that remembers the body, as a CUDA graph does.
"""

from __future__ import annotations

import contextlib
import gc
import weakref

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


def test_decision_word_is_a_copy():
    source = torch.tensor([3, 4], dtype=torch.int32)
    word = DecisionWord(source)
    word.send()
    source += 1
    assert word.wait().tolist() == [3, 4]
    word.send()
    assert word.wait().tolist() == [4, 5] and word.wait().dtype == torch.int32
