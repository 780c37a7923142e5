# SPDX-License-Identifier: Apache-2.0
"""The persistent engine's benchmark and predictions, without a GPU; its stage of gpu_check."""

import csv
import sys
import time
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "profiling"))

import bench_persistent  # noqa: E402
import check_plan  # noqa: E402
import persistent_model  # noqa: E402
import persistent_rows  # noqa: E402
import status  # noqa: E402
import stream_model  # noqa: E402
from bench_timers import CopyBandwidth, HostTimer  # noqa: E402
from check_item import Setting  # noqa: E402
from check_runner import Ended  # noqa: E402
from decode_shapes import SHAPES  # noqa: E402

from via_ext.route import SlimRoute  # noqa: E402

SMALL, LARGE = SHAPES["llama-3.2-1b"], SHAPES["llama-3.1-8b"]
FACTS = dict.fromkeys(persistent_rows.FACTS, "x")


def test_without_a_gpu_it_says_so_and_ends_well(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert bench_persistent.main(["--out", str(tmp_path / "x.csv")]) == 0
    assert "nothing is timed: torch finds no GPU" in capsys.readouterr().out
    assert not (tmp_path / "x.csv").exists()


@pytest.mark.parametrize("wrong", [["--shapes", "tiny"], ["--tokens", "8,65"]])
def test_usage_errors(wrong):
    with pytest.raises(SystemExit) as error:
        bench_persistent.main(wrong)
    assert error.value.code == 2


def test_rows_of_passes_and_of_what_failed(tmp_path, monkeypatch):
    monkeypatch.setattr(persistent_rows, "CASE_S", 0.01)
    rows = persistent_rows.Rows(tmp_path / "x.csv", FACTS, append=False)
    copy = CopyBandwidth("cpu", 2**16)
    bench = persistent_rows.Bench(HostTimer(), copy, rows, time.monotonic() + 1000)

    class Passes:
        def call(self, which, tokens):
            if which == "tail":
                raise RuntimeError("no tail\nat all")
            seconds = {"full": 0.004, "slim": 0.002}[which]
            return lambda: time.sleep(seconds)

    name = "llama-3.1-8b"
    bench_persistent.attempt(bench, name, "persistent", [16], Passes, ("eager",))
    bench_persistent.attempt(bench, name, "graph", [16], Passes, ("eager",))
    bench_persistent.attempt(bench, name, "compile+graph", [8], lambda: 1 // 0, ("eager",))
    bench.end = 0.0
    bench_persistent.attempt(bench, name, "persistent", [8], Passes, ("eager",))
    found = list(csv.DictReader((tmp_path / "x.csv").open()))
    by = {(row["what"], row["impl"], row["M"]): row for row in found}
    full = by["full pass", "persistent", "16"]
    assert float(full["gb"]) == pytest.approx(15.14, abs=0.01)
    assert float(full["over_ours"]) == 1.0 and float(full["p50_us"]) >= 4000
    slim = by["slim pass", "graph", "16"]
    assert float(slim["gb"]) < 0.6 * float(full["gb"]) and 0.3 < float(slim["over_ours"]) < 3
    assert by["tail pass", "persistent", "16"]["note"] == "RuntimeError: no tail"
    assert by["all passes", "compile+graph", ""]["note"].startswith("ZeroDivisionError")
    assert by["full pass", "persistent", "8"]["note"] == persistent_rows.NO_TIME
    assert bench.failures == 1, "ours that raised; what had no time is none"
    lines = status.persistent_lines([row | {"mode": "graph"} for row in found])
    assert any("| llama-3.1-8b | full pass | 16 |" in line for line in lines)
    assert status.persistent_lines([]) == []


def test_documentation_holds_what_the_model_says():
    text = (ROOT / "docs" / "performance.md").read_text()
    inside = text.split(persistent_model.BEGIN + "\n", 1)[1].split("\n" + persistent_model.END)[0]
    assert inside == persistent_model.text(), (
        "python profiling/persistent_model.py --write docs/performance.md"
    )


def test_tables_are_put_between_the_marks(tmp_path, capsys):
    path = tmp_path / "x.md"
    path.write_text(f"before\n{persistent_model.BEGIN}\nold\n{persistent_model.END}\nbehind\n")
    assert persistent_model.main(["--write", str(path)]) == 0
    written = path.read_text()
    assert written.startswith("before\n") and written.endswith("\nbehind\n")
    assert persistent_model.text() in written and "\nold\n" not in written
    path.write_text("no marks")
    with pytest.raises(SystemExit):
        persistent_model.main(["--write", str(path)])


def test_predictions_have_the_floor_below_them_and_grow():
    for shape in (SMALL, LARGE):
        times = [stream_model.pass_seconds(shape, tokens) for tokens in (8, 16, 32, 64)]
        assert times == sorted(times)
        assert times[0] > stream_model.pass_bytes(shape) / stream_model.MEMORY
        route = SlimRoute.evenly(shape.num_hidden_layers)
        slim = stream_model.pass_seconds(shape, 16, route)
        assert slim < 0.7 * times[1]
        assert stream_model.pass_bytes(shape, route) / stream_model.MEMORY < slim
        longer = stream_model.pass_seconds(shape, 16, context=8192)
        assert longer > times[1] + 7168 * 4 * 8 * shape.head_dim / stream_model.MEMORY


def test_bytes_of_a_pass():
    # Layers of 8B: 218.1 M parameters; the head 525.3 M; keys and values of 1024 positions.
    parameters = 32 * 218_103_808 + 4096 * 128256
    assert stream_model.pass_bytes(LARGE) == 2 * parameters + 32 * 1024 * 4096
    head = stream_model.Product(128256, 4096, 8)
    assert head.own_rows == 976 and head.sweeps() == 4
    assert head.activations(16) == 132 * 4 * 16 * 4096 * 2
    narrow = stream_model.Product(2048, 8192, 8)
    assert narrow.own_rows == 16
    # Slots of 8 chunks x 16 rows; the ring holds four of them.
    assert narrow.ring == pytest.approx(4 * 8 * 2048 * 128)


def test_rings_fill_while_blocks_wait_and_no_further():
    rings = stream_model.Rings()
    rings.wait(1e-6, 8e6)
    assert rings.ready == pytest.approx(4.3e6)
    rings.wait(9e-6, 8e6)
    assert (rings.ready, rings.seconds) == (8e6, pytest.approx(10e-6))


def test_the_persistent_stage_runs_mains_twice_and_compares(tmp_path):
    folder = tmp_path / "tests" / "simt"
    folder.mkdir(parents=True)
    for name in ("verify_main.cpp", "persistent_pass_main.cpp"):
        (folder / name).touch()
    setting = Setting(tmp_path, "90a-real", tmp_path / "b", root=tmp_path)
    assert check_plan.STAGES["persistent"] is check_plan.persistent
    setting.programs.mkdir(parents=True)
    (setting.programs / "persistent_pass_main").touch()
    first, second, both, timed = check_plan.persistent(setting)
    name = "persistent_pass_main"
    assert (first.name, second.name) == (f"{name} first", f"{name} second")
    assert both.needs == (first.name, second.name) and not first.skip
    assert "{budget}" in timed.command and timed.limit < 540
    files = [Path(item.env["VIA_MAIN_OUTPUT"]) for item in (first, second)]
    done = Ended(0, 1.0, "", False)
    assert [row.detail for row in both.results(done)] == [f"{name} writes no file"]
    first.prepare()
    for contents, outcome, said in (
        ((b"abc", b"abc"), "passed", "3 bytes"),
        ((b"abc", b"abd"), "failed", "differs at byte 2 of 3"),
        ((b"abc", b"ab"), "failed", "3 bytes, then 2"),
    ):
        for file, content in zip(files, contents, strict=True):
            file.write_bytes(content)
        (row,) = both.results(done)
        assert (row.outcome, row.detail) == (outcome, said)
    second.prepare()
    assert not files[1].exists(), "a file of an earlier run would be compared"
