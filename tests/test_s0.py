# SPDX-License-Identifier: Apache-2.0
"""The driver of the GPU micro-benchmarks, without a GPU: budget, rows, failures, decisions."""

from __future__ import annotations

import csv
import importlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
S0 = ROOT / "profiling" / "s0"
SOURCES = sorted(path.stem for path in S0.glob("*.cu"))


@pytest.fixture(scope="module")
def s0():
    """The modules of profiling/s0, which import each other as a script's neighbours do."""
    names = ("run", "rows", "nvcc_cache", "decisions", "decoder")
    sys.path.insert(0, str(S0))
    try:
        modules = {name: importlib.import_module(name) for name in names}
    finally:
        sys.path.remove(str(S0))
    yield type("Modules", (), modules)
    for name in names:
        del sys.modules[name]


@pytest.fixture
def machine(s0):
    return s0.rows.Machine("Test GPU", "1.2", "9.0", "1980", "2619", "13.0", "abc1234")


def fake(tmp_path: Path, name: str, script: str) -> Path:
    """A program that stands in for a compiled benchmark."""
    path = tmp_path / name
    path.write_text(f"#!{sys.executable}\nimport json, sys, time\n{script}\n")
    path.chmod(0o755)
    return path


def row_text(**changes) -> str:
    row = {"benchmark": "latency", "params": {"what": "hop"}, "value": 700.0, "unit": "ns"}
    return json.dumps(row | {"status": "ok", "note": ""} | changes)


def run_fake(s0, monkeypatch, machine, out: Path, built: dict, *arguments: str) -> int:
    monkeypatch.setattr(s0.run, "find_nvcc", lambda: "nvcc")
    monkeypatch.setattr(s0.run, "find_machine", lambda nvcc: machine)
    monkeypatch.setattr(s0.run, "build_all", lambda names, *rest: built)
    return s0.run.main(["--out", str(out), "--only", *built, *arguments])


def csv_rows(out: Path) -> list[dict[str, str]]:
    with (out / "s0.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_without_a_gpu_one_line_and_status_2(tmp_path):
    done = subprocess.run(
        [sys.executable, str(S0 / "run.py"), "--out", str(tmp_path)],
        env={**os.environ, "PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == "s0: no NVIDIA GPU found (nvidia-smi reports none)\n"
    assert not (tmp_path / "s0.csv").exists()


@pytest.mark.parametrize("clocks", ["1980, 2619", None])
def test_machine_with_and_without_clocks(s0, monkeypatch, tmp_path, clocks):
    shown = f"print({clocks!r})" if clocks else "sys.exit('no such field')"
    fake(
        tmp_path,
        "nvidia-smi",
        f"if 'clocks' in sys.argv[1]: {shown}\nelse: print('Test GPU, 580.1, 9.0')",
    )
    nvcc = fake(tmp_path, "nvcc", "print('Cuda compilation tools, release 13.0, V13.0.88')")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    machine = s0.rows.find_machine(str(nvcc))
    assert (machine.gpu, machine.driver, machine.compute_capability) == ("Test GPU", "580.1", "9.0")
    expected = tuple(clocks.split(", ")) if clocks else ("unknown", "unknown")
    assert (machine.max_sm_mhz, machine.max_memory_mhz) == expected
    assert machine.cuda == "13.0.88"


def test_rows_reach_the_csv_with_the_machine(s0, monkeypatch, machine, tmp_path, capsys):
    text = row_text(value=712.5)
    binary = fake(tmp_path, "latency", f"print('hello'); print({text!r}); print({text!r})")
    assert run_fake(s0, monkeypatch, machine, tmp_path, {"latency": binary}) == 0
    first, second = csv_rows(tmp_path)
    assert first == second | {"date": first["date"]}
    assert json.loads(first["params"]) == {"what": "hop"}
    assert (first["benchmark"], float(first["value"]), first["unit"]) == ("latency", 712.5, "ns")
    assert (first["gpu"], first["driver"], first["cuda"]) == ("Test GPU", "1.2", "13.0")
    assert (first["max_sm_mhz"], first["commit"], first["status"]) == ("1980", "abc1234", "ok")
    assert "712.5 ns" in capsys.readouterr().out
    assert run_fake(s0, monkeypatch, machine, tmp_path, {"latency": binary}) == 0
    assert len(csv_rows(tmp_path)) == 4, "a second run appends, with one header"


@pytest.mark.parametrize(
    ("script", "status", "note"),
    [
        (f"print({row_text(status='failed', note='wrong sum')!r}); sys.exit(1)", 1, "wrong sum"),
        ("print('boom', file=sys.stderr); sys.exit(1)", 1, "exit status 1: boom"),
        (f"print({row_text(status='skipped', note='no wgmma')!r}); sys.exit(3)", 0, "no wgmma"),
    ],
)
def test_failures_and_missing_features(s0, monkeypatch, machine, tmp_path, script, status, note):
    binary = fake(tmp_path, "latency", script)
    assert run_fake(s0, monkeypatch, machine, tmp_path, {"latency": binary}) == status
    (row,) = csv_rows(tmp_path)
    assert (row["status"], row["note"]) == ("failed" if status else "skipped", note)


def test_a_benchmark_that_does_not_compile_is_a_failure(s0, monkeypatch, machine, tmp_path):
    good = fake(tmp_path, "latency", f"print({row_text()!r})")
    built = {"mma_consume": "x.cu(3): error: no", "latency": good}
    assert run_fake(s0, monkeypatch, machine, tmp_path, built) == 1
    assert [(row["benchmark"], row["status"]) for row in csv_rows(tmp_path)] == [
        ("mma_consume", "failed"),
        ("latency", "ok"),
    ]


def test_a_hanging_benchmark_is_ended_and_its_rows_are_kept(s0, monkeypatch, machine, tmp_path):
    monkeypatch.setattr(s0.run, "GRACE_S", 0.3)
    monkeypatch.setattr(s0.run, "LEAST_S", 0.1)
    monkeypatch.setitem(s0.run.LIMITS_S, "latency", 0.7)
    hanging = fake(tmp_path, "hang", f"print({row_text()!r}, flush=True); time.sleep(60)")
    begin = time.monotonic()
    assert run_fake(s0, monkeypatch, machine, tmp_path, {"latency": hanging}) == 1
    assert time.monotonic() - begin < 20
    assert [row["status"] for row in csv_rows(tmp_path)] == ["ok", "failed"]
    assert csv_rows(tmp_path)[1]["note"].startswith("ended after")


def test_no_benchmark_begins_after_the_budget(s0, monkeypatch, machine, tmp_path):
    binary = fake(tmp_path, "latency", f"print({row_text()!r})")
    built = {"latency": binary, "launch_overhead": binary}
    assert run_fake(s0, monkeypatch, machine, tmp_path, built, "--budget-s", "12") == 0
    assert [row["note"] for row in csv_rows(tmp_path)] == ["no time left"] * 2


def test_every_source_has_a_limit_and_they_fit_the_budget(s0):
    assert {*SOURCES, "baselines"} == set(s0.run.LIMITS_S)
    measured = sum(seconds for name, seconds in s0.run.LIMITS_S.items() if name != "baselines")
    assert measured + s0.run.COMPILE_LIMIT_S < 540


def test_binaries_are_cached_by_their_sources(s0, tmp_path):
    nvcc = fake(
        tmp_path,
        "nvcc",
        "target = sys.argv[sys.argv.index('-o') + 1]\n"
        "open(target, 'a').close()\n"
        f"open({str(tmp_path / 'calls')!r}, 'a').write(' '.join(sys.argv) + chr(10))",
    )
    cache = tmp_path / "cache"
    first = s0.nvcc_cache.build_all(["latency"], str(nvcc), "90a", 30, cache)["latency"]
    again = s0.nvcc_cache.build_all(["latency"], str(nvcc), "90a", 30, cache)["latency"]
    other = s0.nvcc_cache.build("latency", str(nvcc), "80", 30, cache)
    assert first == again and first.exists() and other != first
    calls = (tmp_path / "calls").read_text().splitlines()
    assert len(calls) == 2
    assert "-gencode=arch=compute_90a,code=sm_90a" in calls[0]
    assert [s0.nvcc_cache.architecture(cc) for cc in ("8.0", "9.0", "12.0")] == [
        "80",
        "90a",
        "120a",
    ]


def test_decisions_follow_the_numbers(s0):
    def row(benchmark, value, unit="GB/s", **params):
        return s0.rows.Row(benchmark, params, value, unit)

    bulk = [
        row("read_bandwidth", value, method="bulk", ring_kb=ring, stage_kb=stage)
        for ring, stage, value in [(32, 8, 3000), (64, 4, 3800), (64, 8, 3980), (160, 32, 4000)]
    ]
    l2 = row("l2_bandwidth", 5500, pattern="broadcast", method="bulk", ctas=132)
    pair = row("l2_bandwidth", 5600, pattern="multicast", method="bulk", ctas=132)
    chase = [
        row("latency", 280, "clk", what="dependent load", megabytes=1),
        row("latency", 160, "ns", what="dependent load", megabytes=1),
    ]
    mma = [row("mma_consume", 60 - tokens / 2, tokens=tokens) for tokens in (8, 16, 32, 64)]
    lines = s0.decisions.decisions([*bulk, l2, pair, *chase, *mma])
    assert any("64 KB in stages of 8 KB reach 98 %" in line for line in lines)
    assert any("1.02x" in line and "not worth" in line for line in lines)
    # O of 8B at M=64: (33.6 + 69.2 / S + 2.1 S) MB through L2 is least at S = 6.
    assert any("M=64: qkv 4, o 6, gate-up 1, down 8" in line for line in lines)
    # 4000 GB/s over 132 SMs at 1.75 GHz are 17.3 bytes per clock; 28 at M=64 is 1.6 times that.
    assert any("17.3 bytes/clk/SM" in line and "up to M=64" in line for line in lines)
    assert s0.decisions.decisions([]) == []


def test_the_baseline_decoder_masks_and_skips(s0):
    shape = s0.decoder.Shape("toy", 3, 32, 48, 4, 2, 8, vocab_size=50)
    torch.manual_seed(1)
    model = s0.decoder.random_decoder(shape, 16, "cpu").float()
    inputs = model.inputs(5, "cpu")
    inputs["mask"] = inputs["mask"].float()
    full = model(**inputs, skipped=frozenset())
    assert full.shape == (5, 50) and full.isfinite().all()
    inputs["ids"][4] = (inputs["ids"][4] + 1) % 50
    changed = model(**inputs, skipped=frozenset())
    assert torch.equal(changed[:4], full[:4]) and not torch.equal(changed[4], full[4])
    skipped = s0.decoder.slim_mask(3)
    assert not torch.equal(model(**inputs, skipped=skipped), changed)
    weights = sum(p.numel() for p in model.parameters() if p.dim() == 2)
    embedding = model.embed.weight.numel()
    assert shape.pass_bytes(frozenset()) == 2 * (weights - embedding)
    for layers in (16, 32):
        mask = s0.decoder.slim_mask(layers)
        assert len(mask) == 2 * round(0.45 * layers) and max(mask) < 2 * layers


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc")
@pytest.mark.parametrize("name", SOURCES)
def test_sources_compile_without_spills(s0, name, tmp_path):
    command = s0.nvcc_cache.command_line("nvcc", S0 / f"{name}.cu", tmp_path / "x.cubin", "90a")
    done = subprocess.run(
        [*command, "-cubin"], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0 and "spill" not in done.stderr, done.stderr
