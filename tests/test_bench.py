# SPDX-License-Identifier: Apache-2.0
"""profiling/bench_ops.py: cases, floors, goals; the GPU's runner on the CPU with a host clock."""

import csv
import io
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "profiling"))

import bench_cases
import bench_compact
import bench_cpu
import bench_cuda
import bench_draft
import peers
import status
from bench_cases import Case
from bench_timers import CopyBandwidth, HostTimer, times
from eager_ops import eager_compact, eager_greedy

from via_ext import ops

SMALL = Case("sample", 1, 3, 70, 1, dtype="float32", peak=24.0)


def test_floors_and_goals():
    chain = Case("greedy", batch=2, nodes=8, vocab=1000, right=4)
    assert chain.floor_bytes == 2 * 5 * 1000 * 2
    assert replace(chain, rule="route").floor_bytes == 2 * 8 * 1000 * 2
    assert replace(chain, rule="route", right=8).floor_bytes == 2 * 9 * 1000 * 2
    tree = Case("route", 1, 20, 1000, 3, drafts="tree", dtype="float32")
    # The root, 4 and 8 nodes have children; the walk ends at a leaf.
    assert tree.floor_bytes == (1 + 4 + 8 + 1) * 1000 * 4
    drawn = Case("sample", 1, 8, 1000, 4, drafts="chain+p")
    assert drawn.floor_bytes == 5 * 1000 * 2 + 1000 * 4
    assert chain.goal_us(1000.0) == 1.25 * 20 + 5
    assert replace(chain, rule="sample", top_k=5).goal_us(1000.0) == 2 * 20 + 10
    moves = bench_compact.CompactCase(batch=1, nodes=8, layers=2)
    assert moves.floor_bytes == 2 * 4 * 4 * 8 * 128 * 2
    assert moves.goal_us(1000.0) == 1.5 * moves.floor_bytes / 1000 + 4


def test_the_usual_sizes_come_first_and_all_sizes_come():
    cases = bench_cases.cuda_cases()
    assert len(set(cases)) == len(cases)
    assert (cases[0].batch, cases[0].nodes, cases[0].vocab) == (8, 8, 128256)
    chains = {(c.rule, c.batch, c.nodes, c.vocab) for c in cases if c.drafts == "chain"}
    assert len(chains) == 3 * 4 * 4 * 3
    assert [bench_cases.distance(c) for c in cases] == sorted(map(bench_cases.distance, cases))
    assert {c.dtype for c in bench_cases.cuda_cases(["float16"])} == {"float16"}


def test_quantiles():
    spread = bench_cases.spread([x * 1e-6 for x in (5, 1, 2, 3, 4, 6)])
    assert spread == {"p20_us": 2.0, "p50_us": 3.5, "p80_us": 5.0}


@pytest.mark.parametrize("case", bench_cases.cpu_cases(True)[:11], ids=str)
def test_every_kind_of_case_accepts_what_is_right(case):
    case = replace(case, batch=2, vocab=300)
    inputs = bench_cases.build(case)
    assert peers.ours(inputs)().num_accepted.tolist() == [case.right] * 2
    counts = peers.eager(inputs)()[2 if case.rule == "route" else 0]
    assert counts.tolist() == [case.right] * 2


def test_the_walk_without_waiting_for_the_device_is_the_walk(generator):
    case = Case("greedy", batch=5, nodes=20, vocab=3, right=0, drafts="tree", dtype="float32")
    parents = torch.tensor(case.tree.parents)
    ids = torch.randint(0, 3, (5, 20), generator=generator)
    logits = torch.randn(5, 21, 3, generator=generator)
    expected = ops.verify(ids, logits, rule="greedy", parents=parents)
    for on_device in (False, True):
        counts, token, *_ = eager_greedy(ids, logits, parents, on_device=on_device)
        assert torch.equal(counts.int(), expected.num_accepted)
        assert torch.equal(token[:, 0], expected.next_token)
    assert expected.num_accepted.unique().numel() > 1


def test_compaction_in_plain_pytorch_equals_ours():
    case = bench_compact.CompactCase(batch=2, nodes=8, layers=1, dtype="float32")
    inputs = bench_compact.build(case, "cpu")
    caches, contexts, path, counts = inputs.arguments
    counts[1] = 2
    copies = [cache.clone() for cache in caches]
    bench_compact.ours(inputs)()
    eager_compact(copies, contexts, path, counts)
    assert all(map(torch.equal, caches, copies))


def test_drafts_in_plain_pytorch_equal_ours():
    case = bench_draft.DraftCase(3, 200, top_k=20, top_p=0.8, dtype="float32")
    assert case.floor_bytes == 3 * 200 * 8 and case.goal_us(1.0) == 2 * case.floor_bytes + 10
    inputs = bench_draft.build(case, "cpu")
    tokens, probs = bench_draft.eager(inputs)()
    torch.testing.assert_close(probs, ops.filtered_probs(inputs.logits, **case.filters))
    assert (probs.gather(1, tokens[:, None]) > 0).all()
    greedy = bench_draft.DraftCase(3, 200, writes=False, temperature=0.0)
    inputs = bench_draft.build(greedy, "cpu")
    expected, _ = ops.draft_sample(inputs.logits, temperature=0.0)
    assert torch.equal(bench_draft.eager(inputs)(), expected)
    for each in {replace(case, vocab=50, rows=2) for case in bench_draft.cases()}:
        bench_draft.ours(bench_draft.build(each, "cpu"))()


def run(cases, peer_list, budget=60.0, clock=None, monkeypatch=None):
    file = io.StringIO()
    write = bench_cuda.writer(file, {"gpu": "none"}, header=True)
    runner = bench_cuda.Runner("cpu", HostTimer(), CopyBandwidth("cpu", 1 << 16), write)
    if clock is not None:
        runner.clock = clock
    monkeypatch.setattr(bench_cuda, "CASE_S", 0.0)
    monkeypatch.setattr(peers, "PEERS", peer_list)
    others = [
        (bench_compact, [bench_compact.CompactCase(1, 4, layers=1)]),
        (bench_draft, [bench_draft.DraftCase(2, 100, draws=False)]),
    ]
    bench_cuda.run(runner, cases, others, budget)
    return runner, list(csv.DictReader(io.StringIO(file.getvalue())))


def test_rows_of_ours_and_of_peers(monkeypatch):
    def broken(inputs):
        raise RuntimeError("no luck\nsecond line")

    found = (peers.PEERS[0], peers.Peer("broken", broken), peers.PEERS[-1], peers.PEERS[2])
    monkeypatch.setitem(peers.MODULES, "vllm", "no_such_module_of_vllm")
    peers.absence.cache_clear()
    runner, rows = run([SMALL], found, monkeypatch=monkeypatch)
    peers.absence.cache_clear()
    assert runner.wrong == 0
    ours = next(row for row in rows if row["impl"] == "via_ext" and row["rule"] == "sample")
    eager = next(row for row in rows if row["impl"] == "eager" and row["rule"] == "sample")
    assert float(ours["p50_us"]) > 0 and ours["over_ours"] == "1.0"
    ratio = float(eager["p50_us"]) / float(ours["p50_us"])
    assert float(eager["over_ours"]) == pytest.approx(ratio, abs=0.01)
    assert float(ours["gb_per_s"]) == pytest.approx(
        SMALL.floor_bytes / float(ours["p50_us"]) / 1e3, abs=0.01
    )
    notes = {row["impl"]: row["note"] for row in rows}
    assert notes["broken"] == "RuntimeError: no luck"
    assert notes["vllm"].startswith("not importable: ModuleNotFoundError")
    assert notes["transformers"] == "" and sum(row["impl"] == "transformers" for row in rows) == 1


def test_a_wrong_result_of_ours_is_no_time(monkeypatch):
    missed = replace(SMALL, rule="greedy", peak=-50.0)
    runner, rows = run([missed], (), monkeypatch=monkeypatch)
    (row,) = [row for row in rows if row["rule"] == "greedy"]
    assert runner.wrong == 1 and row["p50_us"] == ""
    assert row["note"] == "RuntimeError: accepted [0], expected 1 each"


def test_out_of_time_is_said(monkeypatch):
    ticks = iter(range(0, 10**6, 10))
    _, rows = run([SMALL] * 9, (), 200.0, lambda: next(ticks), monkeypatch)
    timed = [row for row in rows if row["rule"] == "sample"]
    assert 0 < len(timed) < 9
    assert f"out of time: {9 - len(timed)} of 9 cases not run" in [row["note"] for row in rows]


def test_rounds_follow_from_the_time():
    calls = []
    assert len(times(HostTimer(), lambda: calls.append(1), "eager", 0.0)) == 7
    assert len(calls) == 8
    assert len(times(HostTimer(), lambda: None, "eager", 1.0)) == 60


def test_a_row_of_the_cpu_has_the_columns_of_the_file():
    path = Path(bench_cpu.__file__).parent / "results" / "bench_ops_cpu.csv"
    header = path.read_text().split("\n", 1)[0].split(",")
    row = bench_cpu.measure(SMALL, lambda: None, 2)
    assert list(row) == header[: len(row)]


def test_status_says_what_ran(tmp_path):
    assert "Nothing in this repository has run on a GPU yet" in status.text(tmp_path)
    end = "NVIDIA Test,1,13.0,2.11,abc,2026-01-02T03:04:05Z"
    (tmp_path / "gpu_check.csv").write_text(
        "stage,item,outcome,seconds,detail,gpu,driver,cuda,torch,commit,date\n"
        f"tests,test_verify_law,failed,1,,{end}\n"
        f"tests,test_verify_law,passed,1,,{end.replace('abc', 'def')}\n"
        f"tests,test_verify_law,skipped,0,no time,{end}\n"
        f"tests,test_compact_kv,failed,1,,{end}\n"
        f"sanitize,memcheck verify_main,skipped,0,absent,{end}\n"
        f"golden,prim mma,passed,0,,{end}\n"
    )
    header = [*bench_cuda.COLUMNS, "gpu", "commit", "date"]
    usual = Case("route", right=8, batch=8, nodes=8, vocab=128256)
    row = {
        "impl": "via_ext",
        "mode": "graph",
        **usual.columns(),
        "of_copy": 0.5,
        "gpu": "NVIDIA Test",
    }
    with (tmp_path / "bench_ops_cuda.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, header)
        writer.writeheader()
        writer.writerow(row | {"p50_us": 12.5, "goal_us": 9.0, "commit": "old"})
        writer.writerow(row | {"p50_us": 11.5, "goal_us": 12.0, "commit": "new"})
        writer.writerow({"impl": "vllm", "note": "not importable", "gpu": "NVIDIA Test"})
    text = status.text(tmp_path)
    assert "Nothing in this repository has run" not in text
    assert "## NVIDIA Test" in text
    assert "device against host: 1 passed" in text
    assert (
        "| `verify` | def (2026-01-02) | 1 passed | 1 skipped (memcheck verify_main) | route 11.5 "
        "us (50 % of the copy bandwidth); 1 of 1 cases within their goal, at new |" in text
    )
    failed = "abc (2026-01-02) | 1 failed (test_compact_kv)"
    assert f"| `compact_kv` | {failed} | not run | not timed |" in text


def test_a_slow_peer_is_not_started():
    calls = []
    slow = peers.Peer("slow", lambda inputs: lambda: calls.append(time.sleep(0.05)))
    rows = []
    copy = CopyBandwidth("cpu", 1 << 16)
    runner = bench_cuda.Runner("cpu", HostTimer(), copy, rows.append, clock=lambda: 0.0)
    runner.run_peer(slow, [SMALL], bench_cases.build, 0.5)
    assert len(calls) == 2 and rows[0]["note"].startswith("too slow for the time left: needs 0.")
