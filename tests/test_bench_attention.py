# SPDX-License-Identifier: Apache-2.0
"""profiling/bench_attention.py on the CPU: floors, goals, that all ways agree, and rows."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "profiling"))

import bench_attention
import bench_cuda
import status
from bench_attention import AttentionCase
from bench_timers import CopyBandwidth, HostTimer

SMALL = AttentionCase("llama-3.2-1b", batch=2, tokens=3, context=70, dtype="float32")


def test_floors_and_goals():
    # 8 heads of 64 float32 in K and in V; queries and results of 32 heads, K and V in and out.
    assert SMALL.floor_bytes == 2 * (2 * 70 * 8 + 3 * (2 * 32 + 4 * 8)) * 64 * 4
    assert SMALL.goal_us(1000.0) == pytest.approx(SMALL.floor_bytes / 850.0 + 4)
    cases = bench_attention.cases()
    assert len(set(cases)) == len(cases) == 4 * 3 * 2 * 2
    assert {case.context for case in bench_attention.cases(quick=True)} == {1024}


def test_every_way_gives_the_same():
    inputs = bench_attention.build(SMALL, "cpu")
    bench_attention.ours(inputs)()  # compares itself with PyTorch
    repeated, shared = (way(inputs)() for way in (bench_attention.sdpa, bench_attention.sdpa_gqa))
    torch.testing.assert_close(repeated, shared)


def test_a_wrong_result_of_ours_is_no_time():
    inputs = bench_attention.build(SMALL, "cpu")
    inputs.mask[:, 5] = False
    with pytest.raises(RuntimeError, match="off by"):
        bench_attention.ours(inputs)


def test_rows(monkeypatch):
    rows = []
    monkeypatch.setattr(bench_cuda, "CASE_S", 0.0)
    monkeypatch.setattr(bench_attention, "PEERS", bench_attention.PEERS[:2])
    runner = bench_cuda.Runner("cpu", HostTimer(), CopyBandwidth("cpu", 1 << 16), rows.append)
    bench_cuda.run_attention(runner, [SMALL, replace(SMALL, tokens=1)], runner.clock() + 60.0)
    assert runner.wrong == 0
    assert [row["impl"] for row in rows] == ["via_ext"] * 2 + ["sdpa"] * 2 + ["sdpa_gqa"] * 2
    assert all(row["rule"] == "tree_attention" and row["p50_us"] > 0 for row in rows)
    timed = [
        {**{k: str(v) for k, v in row.items()}, "mode": "graph", "commit": "abc"} for row in rows
    ]
    assert "of 2 cases within their goal" in status.speed(timed, "tree_attention")
    assert status.speed(timed, "verify") == "not timed"
