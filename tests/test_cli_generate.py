# SPDX-License-Identifier: Apache-2.0
"""`via-ext generate`: folders, prompts, JSON lines, text on a pipe and on a terminal, errors."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("typer")
pytest.importorskip("transformers")

from typer.testing import CliRunner

from tests.test_cli import command, pseudo_terminal
from via_ext import demo
from via_ext.cli import app
from via_ext.config import ViaConfig
from via_ext.decode import Decoder
from via_ext.text_stream import TextStream

FOLDER = demo.FOLDER
PAIR = ["--target", str(FOLDER / "target"), "--drafter", str(FOLDER / "drafter")]
SLIM = [*PAIR, "--route", str(FOLDER / "route.json")]


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "LINES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERM", "xterm-256color")


def invoke(*arguments: str, text: str | None = None) -> Any:
    return CliRunner().invoke(app, ["generate", *arguments], input=text)


def expected(prompt: str, **settings: Any) -> Any:
    target, drafter, tokenizer, route = demo.load()
    decoder = Decoder(target, drafter, route, ViaConfig(**settings))
    import torch

    return tokenizer, decoder.generate(torch.tensor(tokenizer(prompt)["input_ids"]))


def test_json_is_what_the_decoder_says(tmp_path: Path) -> None:
    """One object per prompt, from arguments and files; the pair's folders and tokenizer."""
    path = tmp_path / "prompt.txt"
    path.write_text("import os\n", encoding="utf-8")
    done = invoke(
        *SLIM,
        *("--json", "--max-new-tokens", "24", "--seed", "3"),
        *("--prompt", "def main(", "--file", str(path)),
    )
    assert done.exit_code == 0, done.stderr
    objects = [json.loads(line) for line in done.stdout.splitlines()]
    assert [entry["prompt"] for entry in objects] == ["def main(", "import os\n"]
    for entry in objects:
        tokenizer, result = expected(entry["prompt"], max_new_tokens=24, seed=3)
        first = len(tokenizer(entry["prompt"])["input_ids"])
        new = result.sequences[0, first : result.lengths[0]].tolist()
        assert entry["tokens"] == new
        assert entry["text"] == tokenizer.decode(new, skip_special_tokens=True)
        assert entry["tiers"] == result.tiers[0, : len(new)].tolist()
        assert entry["logprobs"] == pytest.approx(result.logprobs[0, : len(new)].tolist(), abs=1e-5)
        assert entry["stats"] == result.stats.to_dict() and entry["stats"]["slim_passes"] > 0


@pytest.mark.parametrize("mode", ["exact", "via"])
def test_text_from_standard_input(mode: str) -> None:
    done = invoke(*PAIR, "--mode", mode, "--max-new-tokens", "16", text="class Foo:\n")
    assert done.exit_code == 0, done.stderr
    tokenizer, result = expected("class Foo:\n", mode="exact", max_new_tokens=16)
    text = tokenizer.decode(result.sequences[0, -16:].tolist())
    assert done.stdout == text + "\n"  # two tiers are exact in either mode
    assert "\x1b" not in done.stdout and done.stderr == ""


def test_settings_reach_the_decoder() -> None:
    settings = {"temperature": 0.9, "top_k": 20, "top_p": 0.95, "min_p": 0.01, "seed": 5}
    options = [str(x) for k, v in settings.items() for x in ("--" + k.replace("_", "-"), v)]
    thresholds = {"accept_threshold": 0.9, "escalate_threshold": 0.2, "max_backlog": 7}
    options += [str(x) for k, v in thresholds.items() for x in ("--" + k.replace("_", "-"), v)]
    done = invoke(
        *SLIM, *options, "--tree", "2,1", "--json", "--max-new-tokens", "20", "--prompt", "import "
    )
    from via_ext.tree import Tree

    tree = Tree.from_widths([2, 1])
    _, result = expected("import ", **settings, **thresholds, tree=tree, max_new_tokens=20)
    entry = json.loads(done.stdout)
    assert entry["tokens"] == result.sequences[0, -20:].tolist()
    assert entry["stats"] == result.stats.to_dict()


def test_stop_string_ends_the_text() -> None:
    options = [*PAIR, "--max-new-tokens", "40", "--prompt", "def main("]
    full = json.loads(invoke(*options, "--json").stdout)["text"]
    stop = full[10:14]
    done = invoke(*options, "--stop", stop)
    assert done.stdout.rstrip("\n").endswith(stop.rstrip("\n"))
    assert full.startswith(done.stdout[:-1]) and len(done.stdout) < len(full)


def test_terminal_is_coloured_by_tier() -> None:
    code, written = pseudo_terminal(
        100, 30, "generate", *SLIM, "--prompt", "def main(", "--max-new-tokens", "24"
    )
    assert code == 0
    assert "\x1b[32m" in written and "accepted draft" in written and "24 tokens:" in written
    tokenizer, result = expected("def main(", max_new_tokens=24)
    shown = re.sub(r"\x1b\[[0-9;]*m", "", written).replace("\r\n", "\n")
    assert tokenizer.decode(result.sequences[0, : result.lengths[0]].tolist()) in shown


def _broken(tmp_path: Path, name: str) -> list[str]:
    folder = tmp_path / "model"
    shutil.copytree(FOLDER / "target", folder)
    shutil.copy(FOLDER / "tokenizer.json", folder)
    if name == "config":
        (folder / "config.json").write_text("{}", encoding="utf-8")
    elif name == "weights":
        (folder / "model.safetensors").unlink()
    elif name == "tokenizer":
        (folder / "tokenizer.json").unlink()
    return ["--target", str(folder), "--drafter", "none"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("config", "--target must hold a causal language model"),
        ("weights", "--target must hold a causal language model"),
        ("tokenizer", "--target must hold a tokenizer, or give --tokenizer"),
    ],
)
def test_broken_folders(tmp_path: Path, name: str, text: str) -> None:
    done = invoke(*_broken(tmp_path, name), "--prompt", "x")
    assert done.exit_code == 1 and done.stdout == ""
    assert done.stderr.startswith("via-ext: error: generate: ") and text in done.stderr
    assert done.stderr.count("\n") == 1


def test_another_tokenizer(tmp_path: Path) -> None:
    folder = tmp_path / "drafter"
    shutil.copytree(FOLDER / "drafter", folder)
    data = json.loads((FOLDER / "tokenizer.json").read_text(encoding="utf-8"))
    vocab = data["model"]["vocab"]
    first, second = list(vocab)[300:302]
    vocab[first], vocab[second] = vocab[second], vocab[first]
    (folder / "tokenizer.json").write_text(json.dumps(data), encoding="utf-8")
    done = invoke(*PAIR[:2], "--drafter", str(folder), "--prompt", "x")
    assert done.exit_code == 1 and "--drafter must have the target's tokenizer" in done.stderr


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--target", "no/such/folder"], "--target must be an existing folder, got no/such/folder"),
        (["--target", "tests"], "--target must hold a model (config.json), got tests"),
        ([*PAIR, "--tokenizer", "no/such"], "--tokenizer must be an existing folder, got no/such"),
        ([*PAIR, "--tokenizer", "docs/"], "--tokenizer must hold a tokenizer, got docs"),
        ([*PAIR[:2], "--drafter", "nowhere"], "--drafter must be an existing folder, got nowhere"),
        ([*PAIR, "--route", "nowhere"], "--route must be a file, 'evenly' or 'none', got nowhere"),
        ([*PAIR, "--chat"], "--chat must have a tokenizer with a chat template"),
        ([*PAIR, "--tree", "4,x"], "--tree must be numbers with commas"),
        ([*PAIR, "--file", "nowhere"], "--file must be an existing file, got nowhere"),
        ([*PAIR, "--temperature", "-1"], "temperature must be finite and at least 0"),
        ([*PAIR, "--dtype", "int8"], "--dtype must be one of auto, float32"),
    ],
)
def test_errors_are_one_line(options: list[str], text: str) -> None:
    done = invoke(*options, "--prompt", "x")
    assert (done.exit_code, done.stdout) == (1, "")
    assert text in done.stderr and done.stderr.count("\n") == 1
    assert invoke(*PAIR, "--prompt", "").exit_code == 1


def test_prompts_must_be_utf8(tmp_path: Path) -> None:
    path = tmp_path / "prompt"
    path.write_bytes(b"a\xff")
    text = "must be UTF-8 text, got byte 0xff at 1\n"
    assert invoke(*PAIR, "--file", str(path)).stderr.endswith(f"--file {text}")
    done = CliRunner().invoke(app, ["generate", *PAIR], input=b"a\xff")
    assert done.exit_code == 1 and done.stderr.endswith(f"standard input {text}")


def test_the_network_is_never_asked() -> None:
    """Every connection fails here, and nothing is imported before a usage error."""
    code = (
        "import socket, sys\n"
        "def refuse(*_, **__): raise AssertionError('network')\n"
        "socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse\n"
        "from via_ext.cli import main\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)\n"
        "sys.argv = ['via-ext', 'generate', *sys.argv[1:]]\n"
        "main()\n"
    )
    import subprocess

    environment = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "TRANSF"))}
    done = subprocess.run(
        [sys.executable, "-c", code, *PAIR, "--prompt", "x =", "--max-new-tokens", "4"],
        capture_output=True,
        text=True,
        timeout=240,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == "" and done.stdout.endswith("\n")
    assert command("generate", "--help").returncode == 0


def test_chat_uses_the_template(tmp_path: Path) -> None:
    options = _broken(tmp_path, "nothing")
    tokenizer = demo.load().tokenizer
    tokenizer.chat_template = (
        "{% for m in messages %}# {{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}def {% endif %}"
    )
    tokenizer.save_pretrained(tmp_path / "model")
    chat = ["--json", "--max-new-tokens", "8", "--mode", "exact"]
    got = json.loads(invoke(*options, *chat, "--chat", "--prompt", "adds numbers").stdout)
    same = json.loads(invoke(*options, *chat, "--prompt", "# adds numbers\ndef ").stdout)
    assert got["tokens"] == same["tokens"]


def test_text_stream_is_the_whole_text() -> None:
    """Also where a character takes several tokens."""
    tokenizer = demo.load().tokenizer
    for text in ("def f(x): return x\n", 'name = "Grüße, 世界 🎉"\n', "🎉"):
        tokens = tokenizer(text)["input_ids"]
        stream = TextStream(tokenizer, tokenizer("x = ")["input_ids"])
        pieces = [stream.feed(token) for token in tokens]
        assert "".join(pieces) + stream.flush() == text
        assert not any("\ufffd" in piece for piece in pieces)
