# SPDX-License-Identifier: Apache-2.0
"""evaluate: arguments that are refused before any work, and runs that end early."""

import json
from dataclasses import replace

import pytest
import torch

pytest.importorskip("typer")
pytest.importorskip("transformers")

from typer.testing import CliRunner

import via_ext.evaluation.run
from tests.models import random_model
from via_ext import SlimRoute, evaluate
from via_ext.calibration import Calibration, Setting
from via_ext.cli import app
from via_ext.evaluation import TaskPrompt, ablation_methods, encode_tasks
from via_ext.evaluation.runners import Ours

OPTIONS = {"methods": ["two-tier-2", "via"], "max_new_tokens": 4, "repeats": 0, "plots": False}
DEMO = ["evaluate", "--demo", "--no-plots", "--max-new-tokens", "4", "--repeats", "0"]


def invoke(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def small():
    target, drafter = random_model("llama"), random_model("llama", num_layers=2)
    tasks = [TaskPrompt("0", "t", "t", torch.tensor([4, 8, 15]))]
    return {
        "target": target,
        "drafter": drafter,
        "route": SlimRoute.evenly(4, 0.25),
        "tasks": tasks,
    }


@pytest.fixture
def no_work(monkeypatch):
    def refuse(*_):
        raise AssertionError("work began")

    monkeypatch.setattr(via_ext.evaluation.run, "make_runner", refuse)


@pytest.fixture
def task_file(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text('{"prompt": "def f(x):\\n"}\n' + "bad\n" * 13, encoding="utf-8")
    return path


def calibrated(route):
    zeros = (0.0,) * 8
    calibration = Calibration(zeros, zeros, zeros, (0.0,) * 4, (Setting(1.0),))
    return replace(route, calibration=calibration)


def prompt(*ids):
    return [TaskPrompt("0", "t", "t", torch.tensor(ids))]


OTHER = replace(SlimRoute.evenly(4, 0.25), fingerprint="sha256:other")
ROOM = "tasks.0..input_ids must leave room for max_new_tokens = 9999"


@pytest.mark.parametrize(
    ("changes", "kind", "text"),
    [
        (
            {"two_tier": calibrated(SlimRoute.evenly(4, 0.25))},
            ValueError,
            r"evaluate: two_tier must be a calibration of two tiers \(via-ext calibrate "
            r"--two-tier\), got a route that skips sublayers",
        ),
        ({"two_tier": SlimRoute.full(4)}, ValueError, "got a route without a calibration"),
        ({"two_tier": "two.json"}, TypeError, "two_tier must be a calibration .*, got str"),
        ({"two_tier": calibrated(SlimRoute.full(5))}, ValueError, "two_tier must have 4 layers"),
        ({"route": SlimRoute.evenly(6, 0.25)}, ValueError, "route must have 4 layers, got 6"),
        ({"route": OTHER}, ValueError, "evaluate: route must be of this model"),
        ({"route": "route.json"}, TypeError, "route must be a SlimRoute or None, got str"),
        ({"target": "folder"}, TypeError, "evaluate: target must be a transformers model"),
        ({"tasks": 3}, TypeError, "tasks must be a list of TaskPrompt, got int"),
        ({"tasks": ["def f"]}, TypeError, r"tasks\[0\] must be a TaskPrompt, got str"),
        ({"tasks": prompt(4.0)}, TypeError, r"tasks\[0\].input_ids must be int32 or int64"),
        ({"tasks": prompt([4])}, ValueError, r"tasks\[0\].input_ids must have rank 1"),
        ({"tasks": prompt(4, -1)}, ValueError, r"tasks\[0\].input_ids must be ids in \[0"),
        ({"max_new_tokens": 9999}, ValueError, ROOM),
        ({"seed": 1.5}, TypeError, "seed must be an int"),
        ({"seed": 2**63}, ValueError, "seed must be below"),
        ({"progress": None}, TypeError, "progress must be callable"),
    ],
)
def test_refused_before_any_work(changes, kind, text, small, no_work, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(kind, match=text):
        evaluate(**{**small, **OPTIONS, "out": out, **changes})
    assert not out.exists()


def test_routes_of_ablations_are_checked(small, no_work):
    methods = ablation_methods(["masks"], SlimRoute.evenly(6, 0.25))
    with pytest.raises(ValueError, match="the route of masks-1 must have 4 layers, got 6"):
        evaluate(**{**small, **OPTIONS, "methods": methods})


def test_without_the_reference_there_is_no_evaluation(small, tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("no such device")

    with monkeypatch.context() as patch:
        patch.setattr(Ours, "first", fail)
        with pytest.raises(RuntimeError, match=r"plain greedy.*failed: RuntimeError: no such dev"):
            evaluate(**small, **OPTIONS, out=tmp_path)
    found = evaluate(**small, **OPTIONS, out=tmp_path, resume=True)
    assert found.data["complete"] and found.summary("via")["tokens"] > 0


def test_ctrl_c_says_what_is_kept(task_file, tmp_path, monkeypatch):
    first = Ours.first

    def stop_at_via(self, ids):
        if self._lossy:
            raise KeyboardInterrupt
        return first(self, ids)

    out = tmp_path / "out"
    arguments = [*DEMO, "--methods", "two-tier-2,via", "--tasks", task_file, "--out", out]
    with monkeypatch.context() as patch:
        patch.setattr(Ours, "first", stop_at_via)
        result = invoke(*arguments)
    assert result.exit_code == 130
    last = result.stderr.splitlines()[-1]
    assert last == f"via-ext: interrupted: 2 methods are kept in {out}; go on with --resume"
    assert "Partial: the run was stopped after 2 methods" in (out / "report.md").read_text()
    # Of 13 bad lines 10 are printed, the report has all.
    assert "left out: and 3 more" in result.stderr and f"{task_file}:12:" not in result.stderr
    assert f"{task_file}:14:" in (out / "report.md").read_text()
    assert invoke(*arguments, "--resume").exit_code == 0
    assert json.loads((out / "results.json").read_text())["complete"]
    assert "Partial" not in (out / "report.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--ablation", "foo"], "gate, all, got 'foo'"),
        (["--methods", "fastest"], "methods must be of greedy"),
        (["--out", "{done}"], "out must hold no results"),
        (["--two-tier", "{done}/results.json"], "must be a route"),
    ],
)
def test_refused_before_models_are_loaded(arguments, text, tmp_path, monkeypatch):
    def refuse():
        raise AssertionError("models are loaded")

    monkeypatch.setattr("via_ext.demo.load", refuse)
    done = tmp_path / "done"
    done.mkdir()
    (done / "results.json").write_text("{}")
    out = [] if "--out" in arguments else ["--out", tmp_path / "out"]
    result = invoke(*DEMO, *out, *(word.replace("{done}", str(done)) for word in arguments))
    assert result.exit_code == 1 and text in result.stderr


def test_no_room_is_one_error(task_file, tmp_path):
    out = tmp_path / "out"
    result = invoke(*DEMO, "--max-new-tokens", 10**6, "--tasks", task_file, "--out", out)
    assert result.exit_code == 1 and len(result.stderr.splitlines()) == 1
    assert "--max-new-tokens must be below the context of" in result.stderr


def test_numbers_of_prompts_and_sets():
    with pytest.raises(ValueError, match="sets must be at least 1, got 0"):
        encode_tasks([], None, sets=0)
    with pytest.raises(TypeError, match="prompts must be an int"):
        encode_tasks([], None, prompts=1.0)
