# SPDX-License-Identifier: Apache-2.0
"""`via-ext search`: files written, text read, Ctrl-C, errors before the work."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("typer")
pytest.importorskip("transformers")

import torch
from typer.testing import CliRunner

import via_ext.search
from tests.calibrations import calibrated
from tests.models import random_model
from tests.test_cli import pseudo_terminal
from via_ext import demo
from via_ext.cli import app
from via_ext.decode import Decoder
from via_ext.fingerprint import fingerprint
from via_ext.route import SlimRoute
from via_ext.search import text as search_text
from via_ext.search.space import RouteSpace

LEAST = 10  # of a model of six layers


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "LINES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERM", "xterm-256color")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model with the embedded pair's tokenizer, and a drafter beside it."""
    place = tmp_path_factory.mktemp("models")
    for name, layers in (("target", 6), ("drafter", 1)):
        random_model("llama", num_layers=layers, vocab_size=1024).save_pretrained(place / name)
        tokenizer = (demo.FOLDER / "tokenizer.json").read_bytes()
        (place / name / "tokenizer.json").write_bytes(tokenizer)
    return place


def invoke(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["search", *map(str, arguments)])


def words(count: int) -> str:
    return " ".join(f"word_{index} = {index * index}" for index in range(count))


def test_writes_the_route_of_the_search(folder: Path, tmp_path: Path) -> None:
    """From plain text and JSON lines; a second run with --resume goes on."""
    pytest.importorskip("matplotlib")
    plain, lines = tmp_path / "a.txt", tmp_path / "b.jsonl"
    plain.write_text(words(20))
    entries = [{"prompt": words(4), "text": words(9)}, {"text": words(12)}, {"prompt": "short"}]
    lines.write_text("\n\n".join(map(json.dumps, entries)))
    options: list[object] = [folder / "target", "--text", plain, "--text", lines]
    options += ["--drafter", folder / "drafter", "--tokens", 120, "--length", 40]
    options += ["--max-backlog", 7, "--resume", tmp_path / "study", "--out", tmp_path / "r.json"]
    done = invoke(*options, "--trials", LEAST, "--plots", tmp_path / "figures")
    assert done.exit_code == 0, done.stderr
    assert len(list((tmp_path / "figures").glob("*.png"))) == 2
    assert "delta" in done.stdout and "the slim tier should" in done.stdout
    assert f"written: {tmp_path / 'r.json'}" in done.stdout
    route = SlimRoute.load(tmp_path / "r.json")
    tokenizer = demo.load().tokenizer
    documents = [words(20), words(4) + words(9), words(12), "short"]
    text = search_text.cut(documents, tokenizer, 120, 40, 8)
    model = random_model("llama", num_layers=6, vocab_size=1024)
    expected = via_ext.search_route(model, text, max_backlog=7, trials=LEAST)
    assert route == expected.route and route.fingerprint == fingerprint(model)
    assert route.facts["tokens"] == sum(map(len, text)) == 120
    assert route.facts["text_sha256"] == expected.route.facts["text_sha256"]
    Decoder(model, None, route)
    again = invoke(*options, "--trials", LEAST + 2)
    assert again.exit_code == 0, again.stderr
    assert SlimRoute.load(tmp_path / "r.json").facts["trials"] == LEAST + 2
    assert len((tmp_path / "study").read_text().splitlines()) == 1 + LEAST + 2


def test_cuts_documents_in_turn() -> None:
    class Letters:
        def encode(self, text: str) -> list[int]:
            return [ord(letter) for letter in text]

    def cut(*numbers: int) -> list[str]:
        found = search_text.cut(["abcdefg", "hi", "jklmn"], Letters(), *numbers)
        return ["".join(map(chr, ids.tolist())) for ids in found]

    assert cut(100, 3, 2) == ["abc", "hi", "jkl", "def", "mn"]
    assert cut(100, 3, 1) == ["abc", "hi", "jkl", "def", "mn", "g"]
    assert cut(10, 3, 2) == ["abc", "hi", "jkl", "de"]
    assert cut(9, 3, 2) == ["abc", "hi", "jkl"]
    assert cut(100, 9, 6) == ["abcdefg"]


def test_library_text_is_split_by_path() -> None:
    """What the demo searches on has nothing in common with what is held out."""
    trained, held_out = (
        [next(documents) for _ in range(5)]
        for documents in map(search_text.library_documents, (False, True))
    )
    assert not set(trained) & set(held_out)
    again = search_text.library_documents(held_out=False)
    assert [next(again) for _ in range(5)] == trained


def test_the_embedded_pair_and_a_bar_on_a_terminal(tmp_path: Path) -> None:
    count = json.loads((demo.FOLDER / "target" / "config.json").read_text())["num_hidden_layers"]
    trials = len(RouteSpace(count, 0.45, None).sublayers) + 2
    code, output = pseudo_terminal(
        100,
        30,
        *("search", "--demo", "--trials", str(trials), "--tokens", "66"),
        *("--out", str(tmp_path / "r.json")),
    )
    assert code == 0, output
    assert f"{trials}/{trials} trials" in output and "best 0." in output
    route = SlimRoute.load(tmp_path / "r.json")
    assert route.num_layers == count and route.facts["tokens"] == 66
    assert route.facts["delta"] is not None


def test_ctrl_c_keeps_the_best_so_far(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = via_ext.search.search_route

    def interrupted(*arguments: Any, progress: Any, **options: Any) -> Any:
        def stop(trial: Any, best: Any) -> None:
            progress(trial, best)
            if trial.number == 4:
                raise KeyboardInterrupt

        return real(*arguments, progress=stop, **options)

    monkeypatch.setattr("via_ext.search.search_route", interrupted)
    text, out = tmp_path / "a.txt", tmp_path / "r.json"
    text.write_text(words(30))
    options = [folder / "target", "--text", text, "--out", out, "--max-backlog", "7"]
    done = invoke(*options, "--resume", tmp_path / "study")
    assert done.exit_code == 130
    assert "interrupted after 5 trials: the best so far was kept" in done.stderr
    assert SlimRoute.load(out).facts["trials"] == 5
    assert len((tmp_path / "study").read_text().splitlines()) == 6


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--text", "no.txt"], "--text must be an existing file, got no.txt"),
        ([], "--text must be given, got none"),
        (["--text", "short.txt"], "--text must hold 33 tokens at a stretch"),
        (["--text", "long.txt", "--tokens", "20"], "within --tokens 20, got less"),
        (["--text", "latin.txt"], "--text must be UTF-8 text, got byte 0xe9 at 1 of latin.txt"),
        (["--text", "bad.jsonl"], '"prompt" or "text", got bad.jsonl, line 2'),
        (["--text", "long.txt", "--out", "none/r.json"], "--out must be in an existing folder"),
        (["--text", "long.txt", "--out", "."], "--out must be a file that can be written"),
        (["--text", "long.txt", "--out", "done.json"], "--out must not be a calibrated route"),
        (["--text", "long.txt", "--resume", "none/t"], "--resume must be a file that can be"),
        (["--text", "long.txt", "--resume", "."], "--resume must be a file that can be written"),
        (["--text", "long.txt", "--plots", "long.txt"], "--plots must be a folder that can be"),
        (["--text", "long.txt", "--skip-ratio", "x"], "--skip-ratio must be a number or 'any'"),
        (["--text", "long.txt", "--skip-ratio", "any"], "unless objective is latency"),
        (["--text", "long.txt", "--skip-ratio", ".9"], "skip_ratio must skip 1 to 8 of 12"),
        (["--text", "long.txt", "--trials", "5"], "trials must be at least 10"),
        (["--text", "long.txt", "--length", "20"], "--length must be at least max_backlog + 1"),
        (["--text", "long.txt", "--dtype", "int8"], "--dtype must be one of auto"),
        (["--text", "long.txt", "--device", "tpu"], "--device must be cpu or cuda"),
    ],
)
def test_errors(
    options: list[str], text: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("short.txt").write_text("a = 1")
    Path("long.txt").write_text(words(40))
    Path("latin.txt").write_bytes(b"h\xe9llo")
    Path("bad.jsonl").write_text('{"text": "x"}\n{"text": 1}\n')
    calibrated(SlimRoute.evenly(6), 0.9).save("done.json")
    done = invoke(folder / "target", *options)
    assert done.exit_code == 1
    assert done.stderr.startswith("via-ext: error: ") and text in done.stderr
    assert not Path("route.json").exists()
    assert SlimRoute.load("done.json").calibration is not None


def test_models_that_cannot_be_searched(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import transformers

    monkeypatch.chdir(tmp_path)
    Path("long.txt").write_text(words(40))
    sizes = {"num_hidden_layers": 2, "hidden_size": 8, "num_attention_heads": 1, "vocab_size": 1024}
    other = transformers.GPTNeoXConfig(**sizes, intermediate_size=8)
    transformers.GPTNeoXForCausalLM(other).save_pretrained("neox")
    Path("neox/tokenizer.json").write_bytes((folder / "target" / "tokenizer.json").read_bytes())
    done = invoke("neox", "--text", "long.txt")
    assert done.exit_code == 1 and "got gpt_neox" in done.stderr
    assert "or --demo given, got both" in invoke("--demo", folder / "target").stderr
    assert "or --demo given, got neither" in invoke().stderr
    done = invoke("--demo", "--drafter", folder / "drafter")
    assert done.exit_code == 1 and "--drafter must be left out with --demo" in done.stderr
    if os.geteuid() != 0:
        Path("locked").mkdir(mode=0o500)
        done = invoke(folder / "target", "--text", "long.txt", "--out", "locked/r.json")
        assert "--out must be a file that can be written" in done.stderr
    assert torch.get_num_threads() == 1
