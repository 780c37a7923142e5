# SPDX-License-Identifier: Apache-2.0
"""`via-ext doctor`: models from folders, prompts from files, tables of any width, JSON, errors."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("typer")
pytest.importorskip("transformers")

from rich.cells import cell_len
from typer.testing import CliRunner

from tests.models import random_model
from via_ext import demo
from via_ext.cli import app
from via_ext.route import SlimRoute

TEXT = "def area(width, height):\n    return width * height\n\n\n" * 12


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "LINES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERM", "xterm-256color")
    for name, value in (("WARM_UP", 0), ("MIN_REPEATS", 2), ("MAX_REPEATS", 2), ("ATTEMPTS", 1)):
        monkeypatch.setattr(f"via_ext.doctor.passes.{name}", value)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small random models with the embedded pair's tokenizer, a route, a text and prompts."""
    root = tmp_path_factory.mktemp("doctor")
    for name, layers in (("target", 4), ("small", 1)):
        model = random_model("llama", layers, vocab_size=1024)
        model.save_pretrained(root / name)
        if name == "target":
            SlimRoute.evenly(4, 0.25).save(root / "route.json", model)
            SlimRoute.evenly(4, 0.25).save(root / "other.json", random_model("llama", seed=2))
    shutil.copy(demo.FOLDER / "tokenizer.json", root / "tokenizer.json")
    (root / "text.py").write_text(TEXT, encoding="utf-8")
    (root / "prompts.txt").write_text(
        "import os, sys, json, re and more\n\nclass Thing(object): pass  # of a kind\n"
    )
    (root / "empty.txt").write_text("\n \n")
    (root / "short.txt").write_text("x\n")
    (root / "none.txt").write_text("")
    return root


def invoke(*arguments: Any) -> Any:
    return CliRunner().invoke(app, ["doctor", *map(str, arguments)])


def usual(folder: Path) -> list[Any]:
    parts = [folder / "target", folder / "small", "--route", folder / "route.json"]
    return [*parts, "--text", folder / "text.py", "--limit", 2, "--max-new-tokens", 10]


def test_json(folder: Path) -> None:
    done = invoke(*usual(folder), "--json", "--num-draft-tokens", 3)
    assert done.exit_code == 0, done.stderr
    data = json.loads(done.stdout)
    assert data["facts"]["prompts"] == 2 and data["facts"]["new_tokens"] == 20
    assert data["facts"]["num_draft_tokens"] == 3 and data["facts"]["skip_ratio"] == 0.25
    names = {way["name"] for way in data["estimates"]}
    assert {"plain", "two tiers", "three tiers, exact", "via"} <= names
    assert set(data["break_even"]) == {"agreement", "slim_cost", "escalation_rate"}
    assert data["verdict"] and data["checks"] == []
    assert done.stderr == ""


def test_tables_fit_and_say_what_the_figures_say(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    done = invoke(*usual(folder), "--validate", "--plain")
    assert done.exit_code == 0, done.stderr
    assert "\x1b" not in done.stdout and "\u2026" not in done.stdout
    for word in ("ms/token", "two tiers", "Fastest at", "agreement", "Predicted and measured"):
        assert word in done.stdout
    assert max(map(cell_len, done.stdout.splitlines())) <= 80


def test_narrow_terminals_and_no_color(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "38")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("FORCE_COLOR", "1")
    done = invoke(folder / "target", "--prompts", folder / "prompts.txt", "--max-new-tokens", 10)
    assert done.exit_code == 0, done.stderr
    assert not any(f"\x1b[3{digit}m" in done.stdout for digit in range(8))
    assert "\u2026" not in done.stdout
    assert "ms/token" in done.stdout and "prompt lookup" not in done.stdout
    lines = [
        line.replace("\x1b[1m", "").replace("\x1b[0m", "") for line in done.stdout.splitlines()
    ]
    assert max(len(line.replace("\x1b[2m", "")) for line in lines) <= 38


def test_the_embedded_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    done = invoke("--demo", "--limit", 1, "--max-new-tokens", 16, "--json")
    assert done.exit_code == 0, done.stderr
    data = json.loads(done.stdout)
    assert data["facts"]["prompts"] == 1 and 0.0 < data["agreement"] <= 1.0
    assert data["facts"]["skip_ratio"] == demo.load().route.skip_ratio


def test_another_route_of_the_embedded_pair(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    monkeypatch.setattr("via_ext.doctor.diagnose", lambda *parts, **_: seen.append(parts[2]))
    monkeypatch.setattr("via_ext.doctor.report.show", lambda *_: None)
    pair = demo.load()
    layers = pair.target.config.num_hidden_layers
    route = SlimRoute.prefix(layers, 2)
    route.save(tmp_path / "route.json")
    for options in ([], ["--route", tmp_path / "route.json"], ["--route", "evenly"]):
        assert invoke("--demo", *options).exit_code == 0
    assert seen == [pair.route, route, SlimRoute.evenly(layers)] and route != pair.route


def test_bad_arguments_are_one_line_and_exit_code_1(folder: Path) -> None:
    target, text = folder / "target", ["--text", folder / "text.py"]
    cases = [
        ([], "MODEL or --demo must be given, got neither"),
        ([target, "--demo"], "MODEL or --demo must be given, got both"),
        ([target], "--text or --prompts must be given with a MODEL, got neither"),
        ([target, *text, "--prompts", folder / "prompts.txt"], "must be given, got both"),
        ([target, "--text", folder / "none"], "--text must be an existing file"),
        ([target, "--prompts", folder / "empty.txt"], "--prompts must hold at least one line"),
        ([target, "--prompts", folder / "short.txt"], "must hold at least 8 tokens"),
        ([target, "--text", folder / "none.txt"], "doctor: --text must hold text, got "),
        (["--demo", "--tokenizer", folder], "--tokenizer must be left out with --demo"),
        (["--demo", "--dtype", "float32"], "--dtype must be left out with --demo, got float32"),
        (["--demo", "--route", "none"], "doctor: --route must be a file or 'evenly', got none"),
        (["--demo", "--route", folder / "other.json"], "route must have"),
        ([folder / "nothing", *text], "doctor: --target must be an existing folder"),
        ([target, *text, "--route", folder / "other.json"], "route must be of this model"),
        ([target, *text, "--route", "none"], "--route must be a file or 'evenly'"),
        ([target, *text, "--dtype", "int8"], "--dtype must be one of"),
        ([target, *text, "--max-new-tokens", 255], "must hold at least 8 tokens"),
        ([target, *text, "--max-new-tokens", 256], "must leave room"),
    ]
    for arguments, words in cases:
        done = invoke(*arguments)
        assert done.exit_code == 1, (arguments, done.output)
        assert words in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr
        assert done.stdout == ""
