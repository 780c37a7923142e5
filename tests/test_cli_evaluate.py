# SPDX-License-Identifier: Apache-2.0
"""`via-ext evaluate` and its tasks: files, bad lines, bad folders, interruption, narrow tables."""

import json
import shutil
from dataclasses import replace

import pytest
import torch

pytest.importorskip("typer")
pytest.importorskip("transformers")

from typer.testing import CliRunner

import via_ext.evaluation.runners
from tests.models import random_model
from via_ext import SlimRoute, demo
from via_ext.calibration import Setting
from via_ext.cli import app
from via_ext.evaluation import (
    TaskPrompt,
    TaskText,
    built_in_tasks,
    encode_tasks,
    evaluate,
    read_jsonl,
)
from via_ext.evaluation.library import _before

SHORT = ["evaluate", "--demo", "--max-new-tokens", "6", "--repeats", "1", "--methods", "two-tier-2"]


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in ("NO_COLOR", "FORCE_COLOR", "LINES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "120")


def invoke(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def task_file(tmp_path):
    path = tmp_path / "mine.jsonl"
    lines = ['{"prompt": "def f(x):\\n"}', "{not json", '{"text": "no prompt"}', ""]
    lines += ['{"prompt": "import os\\n", "id": 7, "set": "other", "answer": 3}', '{"prompt": 5}']
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_bad_lines_are_named_and_the_others_run(task_file, tmp_path):
    out = tmp_path / "out"
    result = invoke(*SHORT, "--tasks", task_file, "--out", out, "--no-plots")
    assert result.exit_code == 0, result.output
    for number in (2, 3, 6):
        assert f"left out: {task_file}:{number}: " in result.stderr
    assert "mine.jsonl:1:" not in result.stderr and "mine.jsonl:5:" not in result.stderr
    data = json.loads((out / "results.json").read_text())
    assert data["settings"]["sets"] == {"mine/1": "mine", "other/1": "other"}
    assert len(data["problems"]) == 3 and set(data["methods"]) == {"greedy", "two-tier-2"}
    assert "\x1b[" not in result.output and "two-tier exact, 2 drafts (baseline)" in result.output
    assert (out / "report.md").is_file() and not list(out.glob("*.png"))


def test_the_demo_has_its_calibration_of_two_tiers(tmp_path, monkeypatch):
    """By default the package's; another one if it is given; none for other models."""
    seen = []
    monkeypatch.setattr("via_ext.evaluation.evaluate", lambda *_, **more: seen.append(more))
    monkeypatch.setattr("via_ext.evaluation.show.show", lambda *_: None)
    task = tmp_path / "tasks.jsonl"
    task.write_text('{"prompt": "def f(x):\\n"}\n', encoding="utf-8")
    usual = demo.two_tier_route()
    other = replace(usual, calibration=replace(usual.calibration, settings=(Setting(1.0),)))
    other.save(tmp_path / "two.json")
    arguments = [*SHORT[:2], "--tasks", task, "--out", tmp_path / "out"]
    for more in ([], ["--two-tier", tmp_path / "two.json"]):
        result = invoke(*arguments, *more)
        assert result.exit_code == 0, result.output
    names = ("target", "drafter")
    for name in names:
        shutil.copytree(demo.FOLDER / name, tmp_path / name)
        shutil.copy(demo.FOLDER / "tokenizer.json", tmp_path / name)
    result = invoke("evaluate", *(tmp_path / name for name in names), *arguments[2:])
    assert result.exit_code == 0, result.output
    *routes, none = [more["two_tier"] for more in seen]
    assert none is None and all(route.is_full for route in routes)
    assert [route.calibration for route in routes] == [usual.calibration, other.calibration]


def test_a_narrow_terminal_gets_blocks(task_file, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    arguments = [*SHORT, "--tasks", task_file, "--out", tmp_path / "out", "--no-plots"]
    result = invoke(*arguments, "--repeats", "0")
    table = result.stdout.split("written to")[0]
    assert result.exit_code == 0 and max(map(len, table.splitlines())) <= 40
    assert "modelled x" in table


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--out", "{file}/below"], "out must be a folder that can be written"),
        (["--tasks", "{file}x"], "tasks must be existing files"),
        (["--methods", "fastest"], "methods must be of greedy, "),
        (["--methods", "via,via"], "got 'via' twice"),
        (["--ablation", "everything"], "ablation must be of seeds"),
        (["--route", "{file}x"], "--route must be an existing file"),
    ],
)
def test_errors_come_before_any_work(arguments, text, task_file, tmp_path, monkeypatch):
    def refuse(*_):
        raise AssertionError("work began")

    monkeypatch.setattr(via_ext.evaluation.run, "make_runner", refuse)
    given = [argument.replace("{file}", str(task_file)) for argument in arguments]
    tasks = [] if "--tasks" in arguments else ["--tasks", task_file]
    out = [] if "--out" in arguments else ["--out", tmp_path / "out"]
    result = invoke(*SHORT[:2], *tasks, *out, *given, "--no-plots")
    assert result.exit_code == 1 and text in result.stderr
    assert len(result.stderr.splitlines()) <= 4  # the bad lines of the file, and the error


def test_models_or_the_demo():
    for arguments in ([], ["--demo", "a", "b"], ["a"]):
        result = invoke("evaluate", *arguments)
        assert result.exit_code == 1 and "MODEL and DRAFTER, or --demo" in result.stderr


@pytest.fixture(scope="module")
def small():
    target, drafter = random_model("llama"), random_model("llama", num_layers=2)
    tasks = [TaskPrompt("0", "t", "t", torch.tensor([4, 8, 15]))]
    return target, drafter, SlimRoute.evenly(4, 0.25), tasks


OPTIONS = {"methods": ["two-tier-2", "via"], "max_new_tokens": 4, "repeats": 1, "plots": False}


def test_what_is_done_stays_and_is_not_done_again(small, tmp_path, monkeypatch):
    ours = via_ext.evaluation.runners.Ours
    first, counted = ours.first, []

    def stop_at_via(self, ids):
        if self._lossy:
            raise KeyboardInterrupt
        return first(self, ids)

    monkeypatch.setattr(ours, "first", stop_at_via)
    with pytest.raises(KeyboardInterrupt):
        evaluate(*small, out=tmp_path, **OPTIONS)
    data = json.loads((tmp_path / "results.json").read_text())
    assert {key for key, entry in data["methods"].items() if entry["status"] == "done"} == {
        "greedy",
        "two-tier-2",
    }
    assert "two-tier exact, 2 drafts" in (tmp_path / "report.md").read_text()

    def count(self, ids):
        counted.append(self._lossy)
        return first(self, ids)

    monkeypatch.setattr(ours, "first", count)
    found = evaluate(*small, out=tmp_path, resume=True, **OPTIONS)
    assert counted == [True]
    assert found.summary("via")["tokens_per_second"] > 0 and len(found.data["repeats"]) == 1
    again = evaluate(*small, out=tmp_path, resume=True, **OPTIONS)
    assert counted == [True] and again.data["repeats"] == found.data["repeats"]


def test_results_are_not_mixed_or_overwritten(small, tmp_path):
    evaluate(*small, out=tmp_path, **{**OPTIONS, "repeats": 0})
    with pytest.raises(ValueError, match="out must hold no results"):
        evaluate(*small, out=tmp_path, **OPTIONS)
    with pytest.raises(ValueError, match="results of the same max_new_tokens"):
        evaluate(*small, out=tmp_path, resume=True, **{**OPTIONS, "max_new_tokens": 5})
    (tmp_path / "results.json").write_text("{}")
    with pytest.raises(ValueError, match="results of this version"):
        evaluate(*small, out=tmp_path, resume=True, **OPTIONS)


def test_a_method_that_fails_costs_no_other(small, monkeypatch):
    def fail(*_):
        raise RuntimeError("no such device")

    monkeypatch.setattr(via_ext.evaluation.runners.Peer, "first", fail)
    found = evaluate(*small, **{**OPTIONS, "methods": ["transformers", "two-tier-2"]})
    assert found.data["methods"]["transformers"]["reason"] == "failed: RuntimeError: no such device"
    assert found.summary("two-tier-2")["tokens_per_second"] > 0


def test_bad_arguments(small):
    target, drafter, route, tasks = small
    with pytest.raises(ValueError, match="at least one prompt"):
        evaluate(target, drafter, route, [])
    with pytest.raises(TypeError, match="drafter must be a model"):
        evaluate(target, None, route, tasks)
    with pytest.raises(ValueError, match="repeats must be at least 0"):
        evaluate(*small, repeats=-1)


def library(folder):
    """A library with one held-out file of all four kinds of prompt."""
    head = "\n".join(f"Line {i} of some words that say what the module does." for i in range(9))
    rows = "\n".join(f"NAME_{i} = {i}" for i in range(14))
    body = "def first(x):\n    '''One.\n\n    Two.\n    Three.\n    '''\n    return x\n"
    text = f'"""{head}\n"""\n\n{rows}\n\n{body}\n\ndef second(y):\n    return y\n'
    (folder / "site-packages").mkdir()
    for name in ("m12.py", "m46.py", "site-packages/m12.py", "kept.py"):
        (folder / name).write_text(text)
    return text


def test_built_in_tasks_come_from_held_out_files_alone(tmp_path):
    import hashlib

    text = library(tmp_path)
    names = [name for name in ("m12.py", "m46.py", "kept.py")]
    held = {n for n in names if int(hashlib.sha256(n.encode()).hexdigest(), 16) % 100 < 3}
    for extra in range(400):
        name = f"n{extra}.py"
        if int(hashlib.sha256(name.encode()).hexdigest(), 16) % 100 < 3:
            (tmp_path / name).write_text(text)
            held.add(name)
    found = built_in_tasks(tmp_path)
    assert {prompt.id.split(":")[0] for prompt in found} == held and held
    assert {prompt.task for prompt in found} == {"code", "docstring", "prose", "structured"}
    assert found == built_in_tasks(tmp_path)
    ends = {prompt.task: prompt.text for prompt in found}
    assert ends["code"].endswith("def second(y):\n") and ends["docstring"].endswith("'''One.\n")
    assert ends["prose"].startswith('"""Line 0') or ends["prose"].startswith("Line")
    assert all(prompt.text in text for prompt in found)
    with pytest.raises(ValueError, match="must hold Python sources"):
        built_in_tasks(tmp_path / "site-packages")


def test_prompts_are_dealt_into_sets(tmp_path):
    tokenizer = demo.load().tokenizer
    texts = [TaskText(str(i), "t", "x = 1\n" * (1 + i)) for i in range(6)]
    tasks, problems = encode_tasks(texts, tokenizer, prompts=2, sets=2, max_tokens=24)
    assert [(task.id, task.set) for task in tasks][:2] == [("0", "t/1"), ("1", "t/2")]
    assert len(tasks) == 4 and not problems
    _, problems = encode_tasks(texts, tokenizer, max_tokens=8)
    assert problems[-1].startswith("t/5: prompt must have at most 8 tokens, got ")
    bad = tmp_path / "bytes.jsonl"
    bad.write_bytes(b"\xff")
    with pytest.raises(ValueError, match="UTF-8"):
        read_jsonl([bad])
    assert _before(["a" * 300, "b" * 300], 0, 2) == "b" * 300 + "\n"
