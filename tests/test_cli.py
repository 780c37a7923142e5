# SPDX-License-Identifier: Apache-2.0
"""The command line: what is shown, where, in which width, and the exit codes."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

pytest.importorskip("typer")
pytest.importorskip("transformers")

from typer.testing import CliRunner

from via_ext import demo
from via_ext.cli import app
from via_ext.demo_methods import METHODS

SHORT = ["demo", "--prompts", "1", "--max-new-tokens", "12"]
NAMES = [method.name for method in METHODS.values()]


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """The same width and colour rules wherever the tests run."""
    for name in ("NO_COLOR", "FORCE_COLOR", "LINES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERM", "xterm-256color")


def invoke(*arguments):
    """Run in this process, stdout and stderr being no terminals."""
    return CliRunner().invoke(app, arguments)


def command(*arguments):
    """Run `python -m via_ext` with pipes."""
    return subprocess.run(
        [sys.executable, "-m", "via_ext", *arguments], capture_output=True, text=True, timeout=240
    )


def pseudo_terminal(columns, rows, *arguments, **environment):
    """Run it on a terminal of that size; returns (exit code, everything written)."""
    pty = pytest.importorskip("pty")
    import fcntl
    import struct
    import termios

    env = {**os.environ, **environment}
    del env["COLUMNS"]  # the terminal's own size counts
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-m", "via_ext", *arguments],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env=env,
    )
    os.close(slave)
    written = b""
    while True:
        try:
            data = os.read(master, 65536)
        except OSError:  # the other end is closed
            break
        if not data:
            break
        written += data
    os.close(master)
    return process.wait(timeout=240), written.decode()


def test_demo_in_a_pipe():
    done = command(*SHORT)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "\x1b" not in done.stdout and "\r" not in done.stdout
    for name in [*NAMES, "tokens/s", "ratio", "slim/tok", "full/tok", "reject", "agree"]:
        assert name in done.stdout
    assert "accepted draft" in done.stdout and "Fastest: " in done.stdout
    assert any(prompt.text in done.stdout for prompt in demo.prompts())
    assert "…" not in done.stdout  # no cell was cut


@pytest.mark.parametrize("arguments", [[*SHORT, "--prompts", "2"], ["info"]])
def test_reader_that_leaves_early(arguments):
    process = subprocess.Popen(
        [sys.executable, "-m", "via_ext", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    process.stdout.close()
    assert (process.wait(timeout=240), process.stderr.read()) == (0, "")
    process.stderr.close()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_full_disk_is_a_failure():
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "via_ext", "info"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=240,
        )
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("via-ext: error: [Errno 28]")


@pytest.mark.parametrize("columns", ["40", "77", "78"])
def test_narrow_output(monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    done = invoke(*SHORT)
    assert done.exit_code == 0, done.output
    report = done.stdout[done.stdout.index("tokens: ") :].split("\n", 1)[1]
    assert max(len(line) for line in report.splitlines()) <= int(columns)
    assert "…" not in report and all(name in report for name in NAMES)


def test_no_color_on_a_small_terminal():
    code, text = pseudo_terminal(40, 15, *SHORT, NO_COLOR="1")
    assert code == 0, text
    colours = [f"\x1b[{kind}{digit}m" for kind in (3, 9) for digit in range(8)]
    assert not any(colour in text for colour in colours) and "\x1b[38;" not in text
    assert "12/12 tokens" in text and "tokens/s" in text


def test_forced_colour_and_plain(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    coloured = invoke(*SHORT, "--no-table")
    assert coloured.exit_code == 0 and "\x1b[32m" in coloured.stdout
    plain = invoke(*SHORT, "--plain")
    assert plain.exit_code == 0 and "\x1b" not in plain.output and "tokens/s" in plain.stdout


def test_json():
    done = invoke(*SHORT, "--json")
    assert done.exit_code == 0, done.output
    data = json.loads(done.stdout)
    rows = {row["name"]: row for row in data["rows"]}
    assert list(rows) == NAMES
    plain, two, via, _, exact = rows.values()
    assert {row["tokens"] for row in rows.values()} == {12}
    assert plain["ratio"] == 1.0 and plain["agreement"] == 1.0
    assert plain["slim_per_token"] == two["slim_per_token"] == 0.0
    assert plain["rejection"] is None and two["accept"] is None
    assert two["agreement"] == exact["agreement"] == 1.0
    assert via["slim_per_token"] > 0 and exact["slim_per_token"] > 0
    assert via["accept"] + via["regenerate"] + via["escalate"] == pytest.approx(1.0)
    assert all(0.0 <= row["overhead"] < 1.0 for row in rows.values())
    assert any(row["fastest"] for row in data["rows"])
    assert data["full_pass_seconds"] > 0 and "Fastest" in data["verdict"]


def test_no_table_mode_and_seed():
    first = invoke(*SHORT, "--no-table", "--seed", "3")
    again = invoke(*SHORT, "--no-table", "--seed", "3", "--plain")
    other = invoke(*SHORT, "--no-table", "--seed", "4", "--mode", "two-tier")
    assert first.exit_code == again.exit_code == other.exit_code == 0
    assert first.stdout == again.stdout != other.stdout
    assert "tokens/s" not in first.stdout and "100% full model" in other.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["demo", "--prompts", "0"],
        ["demo", "--prompts", "99"],
        ["demo", "--max-new-tokens", "x"],
        ["demo", "--mode", "fast"],
        ["demo", "--no-such-option"],
        ["no-such-command"],
    ],
)
def test_usage_errors(arguments):
    result = invoke(*arguments)
    assert result.exit_code == 2 and "Error" in result.output


def test_help():
    result = invoke("demo", "--help")
    assert result.exit_code == 0
    for option in ("--prompts", "--max-new-tokens", "--seed", "--mode", "--threads", "--json"):
        assert option in result.output
    result = invoke("--help")
    assert result.exit_code == 0 and "demo" in result.output and "info" in result.output


def test_failure_is_one_line(monkeypatch):
    def broken(*_):
        raise ValueError("demo.load: x must exist,\n got no such file")

    monkeypatch.setattr(demo, "load", broken)
    result = invoke(*SHORT)
    assert result.exit_code == 1 and result.stdout == ""
    assert result.stderr == "via-ext: error: demo.load: x must exist, got no such file\n"
    result = invoke(*SHORT, "--debug")
    assert result.exit_code == 1 and isinstance(result.exception, ValueError)


def test_interrupt():
    process = subprocess.Popen(
        [sys.executable, "-m", "via_ext", "demo", "--prompts", "11", "--max-new-tokens", "1024"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Tests that run in a shell's background inherit an ignored interrupt.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    # An interrupt during the imports before it can get lost there.
    while not process.stdout.readline().startswith("--- 1/11"):
        assert process.poll() is None
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert error == "via-ext: interrupted\n"


def test_info():
    done = invoke("info")
    assert done.exit_code == 0, done.output
    shown = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert {"via_ext", "torch", "transformers", "cuda"} <= set(shown)
    done = invoke("info", "--json")
    assert set(json.loads(done.stdout)) == set(shown)
