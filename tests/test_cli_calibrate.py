# SPDX-License-Identifier: Apache-2.0
"""`via-ext calibrate`: a run on the embedded pair, the table, interruption, errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("typer")
pytest.importorskip("transformers")

from typer.testing import CliRunner

from via_ext import demo
from via_ext.calibration import Calibration, Setting
from via_ext.calibration.report import Calibrated, SettingReport
from via_ext.cli import app
from via_ext.route import SlimRoute

FOLDERS = [str(demo.FOLDER / "target"), str(demo.FOLDER / "drafter")]


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["calibrate", *arguments])


def test_two_tiers_of_the_pair(tmp_path: Path) -> None:
    """From folders and a text file; the route that is written is one, and is the report's."""
    text = tmp_path / "text.txt"
    text.write_text(Path(json.__file__).read_text(encoding="utf-8"), encoding="utf-8")
    out = tmp_path / "route.json"
    sizes = ["--prompts", "16", "--prompt-tokens", "32", "--max-new-tokens", "19"]
    options = ["--two-tier", "--text", str(text), "--agreement", "1", "--out", str(out), "--json"]
    done = invoke(*FOLDERS, *options, *sizes)
    assert done.exit_code == 0, done.stderr
    (report,) = json.loads(done.stdout)["reports"]
    assert report["agreement"] == report["measured"] == 1.0 and report["speedup"] > 1.0
    route = SlimRoute.load(out)
    assert route.is_full and route.calibration.setting(1.0).draft_stop >= 0.0
    assert route.calibration.facts["prompts"] == [11, 5]


def made(finished: bool) -> Calibrated:
    settings = (Setting(1.0, full_matches=0.0, cost=0.4), Setting(0.9, 0.1, 0.1, 0.1, cost=0.3))
    shares = (0.0, 0.0, 0.0, 1.0), (0.8, 0.15, 0.05, 0.25)
    reports = tuple(
        SettingReport(s.agreement, s, 0.93, (0.91, 0.95), 0.32, 0.4, 0.92, *share)
        for s, share in zip(settings, shares, strict=True)
    )
    calibration = Calibration((0.0,) * 8, (0.0,) * 8, (0.0,) * 8, (0.0,) * 4, settings)
    layers = demo.load().target.config.num_hidden_layers
    route = SlimRoute(*[(True,) * layers] * 2, calibration=calibration)
    return Calibrated(route, reports, {}, None, finished)


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize("width", ["60", "140"])
def test_table_and_interruption(
    finished: bool, width: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", width)
    monkeypatch.setattr("via_ext.calibration.run.calibrate", lambda *_, **__: made(finished))
    out = tmp_path / "route.json"
    done = invoke("--demo", "--out", str(out), "--plain")
    assert done.exit_code == (0 if finished else 130), done.stderr
    shown = done.stdout
    for word in ("0.9100 to 0.9500", "0.80/0.15/0.05", "3.12", "1.25", "0.320"):
        assert word in shown, word
    assert "at 1 two tiers are the cheaper choice" in shown
    assert ("interrupted: 2 agreements were done" in done.stderr) is not finished
    assert [s.agreement for s in SlimRoute.load(out).calibration.settings] == [1.0, 0.9]


def test_too_little_text(tmp_path: Path) -> None:
    for name, text in (("a", ""), ("b", "x = 1\n"), ("c", "a = b + c\n" * 20)):
        (tmp_path / name).write_text(text, encoding="utf-8")
        done = invoke(*FOLDERS, "--two-tier", "--text", str(tmp_path / name))
        assert done.exit_code == 1
        said = "calibrate: --text must hold at least 6 pieces of 16 to 96 tokens"
        assert said in done.stderr and ("got 0" in done.stderr) == (name != "c"), done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "MODEL and DRAFTER, or --demo"),
        (["--demo", *FOLDERS], "MODEL and DRAFTER, or --demo"),
        (["--demo", "--agreement", "1.01"], "--agreement must be in (0, 1], got 1.01"),
        (["--demo", "--agreement", "0"], "--agreement must be in (0, 1], got 0"),
        (["--demo", "--held-out", "1"], "--held-out must be in (0, 1), got 1"),
        (["--demo", "--prompts", "4"], "--prompts must be at least 6 with --held-out 0.3, got 4"),
        (
            ["--demo", "--prompts", "6", "--max-new-tokens", "10"],
            "--max-new-tokens must give at least 200 tokens to fit on, with --prompts 6, got 10",
        ),
        (["/nowhere", FOLDERS[1], "--two-tier", "--text", "x"], "calibrate: --target must be an"),
        (["--demo", "--two-tier", "--route", "r.json"], "--route must not be given"),
        ([*FOLDERS, "--text", "x.txt"], "--route must be given (or --two-tier)"),
        ([*FOLDERS, "--two-tier"], "--text must be given"),
        (["--demo", "--out", "/nowhere/route.json"], "--out must be in an existing folder"),
        (["--demo", "--route", "missing.json"], "--route must be an existing file"),
        (
            [*FOLDERS, "--two-tier", "--text", "missing.txt"],
            "calibrate: --text must be an existing",
        ),
    ],
)
def test_errors_are_one_line(arguments: list[str], said: str) -> None:
    done = invoke(*arguments)
    assert done.exit_code == 1 and done.stdout == ""
    assert said in done.stderr and done.stderr.count("\n") == 1
