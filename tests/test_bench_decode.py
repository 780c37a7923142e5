# SPDX-License-Identifier: Apache-2.0
"""profiling/bench_decode.py: made-up models, rows, reasons; the CPU stands for the device."""

import csv
import itertools
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "profiling"))

import bench_decode
import check_plan
import decode_baselines
import decode_cases
import decode_overhead
import status
from check_item import Setting
from decode_baselines import ASSISTED, COMPILED, EAGER
from decode_cases import PLAIN, Ours, Timed
from decode_models import make_model, make_walk, random_subject
from decode_shapes import SHAPES, TARGETS

from via_ext.config import ViaConfig
from via_ext.engines.graphs import GraphRunner
from via_ext.models import slim_view

OURS = (PLAIN, "two-tier exact", "via", "exact three-tier")
CONFIG = ViaConfig(max_new_tokens=20, num_draft_tokens=4, eos_token_id=(), seed=0)


@pytest.fixture(scope="module")
def subject():
    return random_subject("tiny", "cpu", agreement=0.7, prompts=2, prompt_tokens=12)


@pytest.fixture
def rows(tmp_path):
    """The rows of a short run on the CPU."""
    out = tmp_path / "rows.csv"
    arguments = ["--shapes", "tiny", "--quick", "--repeats", "2", "--agreement", "0.7"]
    assert bench_decode.main([*arguments, "--max-new-tokens", "12", "--out", str(out)]) == 0
    with out.open(newline="") as file:
        return {row["method"]: row for row in csv.DictReader(file)}


@torch.inference_mode()
def next_tokens(model, context=5):
    """argmax and logits after every id, behind some random ones, [V] and [V, V]."""
    vocab = model.config.vocab_size
    ids = torch.randint(vocab, (vocab, context), generator=torch.Generator().manual_seed(1))
    logits = model(torch.cat([ids, torch.arange(vocab)[:, None]], 1), use_cache=False).logits
    return logits[:, -1].argmax(-1), logits[:, -1].float()


def test_models_say_what_they_were_made_to_say(subject):
    target, _ = next_tokens(subject.target)
    drafter, _ = next_tokens(subject.drafter)
    assert torch.equal(target, subject.successor)
    assert torch.equal(drafter, subject.drafted)
    share = (target == drafter).float().mean()
    assert abs(float(share) - 0.7) < 0.07  # 512 ids: three standard deviations


def test_half_of_the_wrong_drafts_are_near_misses(subject):
    for model in (subject.target, slim_view(subject.target, subject.route)):
        probs = next_tokens(model)[1].softmax(-1)
        ratios = probs.gather(1, subject.drafted[:, None])[:, 0] / probs.amax(1)
        wrong = ratios[subject.drafted != subject.successor]
        near = (wrong > 0.5) & (wrong < 0.7)
        assert 0.45 < float(near.float().mean()) <= 0.5
        assert float((wrong < 0.05).float().mean()) >= 0.5


def test_bfloat16_models_say_the_same():
    shape = SHAPES["tiny"]
    successor, _, _ = make_walk(shape.vocab_size, 0.8, 3)
    half = type(shape)(**{**vars(shape), "dtype": "bfloat16"})
    model = make_model(half, successor, "cpu", 4)
    assert model.dtype == torch.bfloat16
    assert torch.equal(next_tokens(model)[0], successor)


def test_the_walk_is_one_circle_and_the_seed_decides():
    successor, drafted, wrong = make_walk(300, 0.6, 5)
    seen, token = set(), 0
    while token not in seen:
        seen.add(token)
        token = int(successor[token])
    assert len(seen) == 300
    assert torch.equal(drafted.sort().values, torch.arange(300))
    assert set(wrong.tolist()) == set((drafted != successor).nonzero()[:, 0].tolist())
    assert torch.equal(make_walk(300, 0.6, 5)[1], drafted)
    assert not torch.equal(make_walk(300, 0.6, 6)[0], successor)
    assert torch.equal(*make_walk(300, 1.0, 5)[:2])


def test_rows_of_a_run(rows):
    assert tuple(rows) == (*OURS, EAGER, ASSISTED, COMPILED)
    for name, row in rows.items():
        assert list(row)[: len(bench_decode.COLUMNS)] == list(bench_decode.COLUMNS)
        for column in ("torch", "transformers", "commit", "cpu", "date"):
            assert row[column]
        assert row["synthetic"] == "weights, drafter, acceptance, route"
        assert row["asked_acceptance"] == "0.7" and 0.4 < float(row["drafts_right"]) <= 1.0
        if name == COMPILED:
            assert "accelerator only" in row["note"] and not row["tokens_per_second"]
            continue
        assert not row["note"] and row["repeats"] == "2"
        low, middle, high = (
            float(row[f"tokens_per_second{mark}"]) for mark in ("_p20", "", "_p80")
        )
        assert 0.0 < low <= middle <= high
        assert row["agreement"] == "1.0"
        assert (float(row["outside_us"]) > 0.0) if name in OURS else not row["outside_us"]
    assert rows[EAGER]["tokens_per_step"] == rows[PLAIN]["tokens_per_step"] == "1.0"
    assert rows[PLAIN]["ratio"] == rows[EAGER]["over_eager"] == "1.0"
    via = rows["via"]
    shares = [float(via[name]) for name in ("accept", "regenerate", "escalate")]
    assert sum(shares) == pytest.approx(1.0, abs=1e-3)
    assert float(via["full_per_token"]) < float(rows["two-tier exact"]["full_per_token"])


def test_assisted_generation_keeps_the_drafts_that_ours_keep(subject):
    """Equal drafts and equal verdicts: round by round, so as many passes."""
    methods = {item.name: item for item in decode_cases.make_methods(subject, CONFIG)}
    for prompt in subject.prompts:
        runs = [methods[name].method.first(prompt) for name in ("two-tier exact", ASSISTED)]
        ours, theirs = runs
        assert torch.equal(ours.sequence, theirs.sequence)
        assert ours.counts["full_passes"] == theirs.counts["full_passes"]
        new, token = len(ours.sequence) - len(prompt), prompt[-1]
        for found in ours.sequence[-new:]:
            token = subject.successor[token]
            assert found == token


def test_a_drafter_that_is_always_right_saves_every_pass_it_can():
    subject = random_subject("tiny", "cpu", agreement=1.0, prompts=1, prompt_tokens=6)
    assert subject.drafts_right(20) == 1.0
    methods = {item.name: item for item in decode_cases.make_methods(subject, CONFIG)}
    for name in ("two-tier exact", ASSISTED):
        assert methods[name].method.first(subject.prompts[0]).counts["full_passes"] == 4


def test_out_of_time_and_failures_are_rows_with_the_reason(subject):
    slow = decode_baselines.Peer("slow", subject, {"max_new_tokens": 2}, setup_s=60.0)
    item = Timed(slow, "slow")
    decode_cases.rehearse(item, subject, lambda: 5.0)
    assert item.note == "out of time: needs about 60 s, 5 s left" and not item.wrong
    broken = Timed(decode_baselines.Peer("broken", subject, {"no_such_option": 1}), "broken")
    decode_cases.rehearse(broken, subject, lambda: 5.0)
    assert broken.note.startswith("ValueError: ") and not broken.wrong
    late = Timed(decode_baselines.Peer("late", subject, {"max_new_tokens": 2}), "late")
    decode_cases.rehearse(late, subject, lambda: 5.0)
    decode_cases.time_in_turn([late], subject, 2, lambda: -1.0)
    assert late.note == "out of time before the first timed run"
    row = decode_cases.summarize(late, [late])
    assert row == {"method": "late", "repeats": 0, "note": late.note}


def test_wrong_tokens_of_ours_are_no_time(subject, monkeypatch):
    item = Timed(Ours("two-tier", subject, CONFIG), "two-tier exact")
    monkeypatch.setattr(decode_cases, "agreed_tokens", lambda *_: 15)
    decode_cases.rehearse(item, subject, lambda: 5.0)
    assert item.wrong and item.note == "wrong tokens: 10 of 40 not the target's"


def test_a_run_with_wrong_tokens_fails_and_leaves_the_other_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(decode_cases, "agreed_tokens", lambda *_: 0)
    out = tmp_path / "rows.csv"
    arguments = ["--shapes", "tiny", "--quick", "--max-new-tokens", "4", "--prompts", "1"]
    assert bench_decode.main([*arguments, "--out", str(out)]) == 1
    with out.open(newline="") as file:
        rows = {row["method"]: row for row in csv.DictReader(file)}
    assert {name for name, row in rows.items() if "wrong tokens" in row["note"]} == {
        *OURS[:2],
        OURS[3],
    }
    # Ratios over plain greedy are gone with it.
    assert rows["via"]["tokens_per_second"] and not rows["via"]["ratio"]
    assert rows["via"]["over_eager"]


def test_overhead_is_what_is_left_of_a_step(subject, monkeypatch):
    ours = Ours("via", subject, CONFIG)
    clock = itertools.count()
    # Every look at the clock is a second: a run takes one, and two looks surround all steps.
    monkeypatch.setattr(decode_overhead.time, "perf_counter", lambda: float(next(clock)))
    begun = []
    run = GraphRunner.run

    def counted(self, key, body):
        begun.append(key[0] if isinstance(key, tuple) else key)
        run(self, key, body)

    monkeypatch.setattr(GraphRunner, "run", counted)
    found = decode_overhead.measure(ours._decoder, subject.prompts[0])
    assert set(found) == {"outside_us", "graphs"}  # the host's own times are of a device's queue
    assert {"draft", "slim"} < set(begun)
    assert 2.0 <= found["graphs"] <= 4.0 and found["outside_us"] > 0.0


class FakeEvent:
    """An event of a device on which a millisecond passes from one to the next."""

    made = 0
    now = itertools.count()

    def __init__(self, enable_timing):
        assert enable_timing
        FakeEvent.made += 1

    def record(self):
        self.at = next(FakeEvent.now)

    def elapsed_time(self, end):
        return end.at - self.at


def test_events_stand_around_every_replay_and_are_used_again(monkeypatch):
    runner = decode_overhead.TimedRunner("cpu")
    runner._device = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _: None)
    for count in (3, 2):
        runner.reset()
        for _ in range(count):
            runner.run("key", lambda: next(FakeEvent.now))  # a body of one more millisecond
        assert runner.runs == count
        assert runner.device_seconds() == pytest.approx(2e-3 * count)
    assert FakeEvent.made == 6


def test_options(capsys):
    options = bench_decode.parse(["--device", "cuda"])
    assert options.shapes == ["pair", "llama-3.2-1b"] and options.repeats == 5
    assert options.out.name == "bench_decode_cuda.csv"
    assert bench_decode.parse(["--quick", "--repeats", "3"]).repeats == 3
    for wrong in (["--shapes", "gpt-2"], ["--agreement", "1.5"]):
        with pytest.raises(SystemExit):
            bench_decode.parse(wrong)
    assert "must name pair" in capsys.readouterr().err
    if not torch.cuda.is_available():
        assert bench_decode.main(["--device", "cuda"]) == 2


def test_bytes_of_the_shapes():
    # Published parameter counts, without the embedding: it is looked up, not read.
    for name, billions in (("llama-3.2-1b", 1.236), ("llama-3.1-8b", 7.505)):
        assert SHAPES[name].pass_bytes() == pytest.approx(2e9 * billions, rel=2e-3)
    for name in TARGETS:
        assert SHAPES[SHAPES[name].drafter].vocab_size == SHAPES[name].vocab_size


def test_gpu_check_runs_it_and_status_shows_it(tmp_path, monkeypatch):
    setting = Setting(tmp_path, "90a-real")
    ops, decoding = check_plan.bench(setting)
    assert (ops.name, decoding.name) == ("bench_ops", "bench_decode")
    assert ops.share < 1.0 and not decoding.skip
    options = bench_decode.parse(
        ["9" if word == "{budget}" else word for word in decoding.command[2:]]
    )
    assert options.device == "cuda" and options.append and options.budget_s == 9.0
    assert options.shapes == ["pair", "llama-3.2-1b"]
    monkeypatch.setattr(check_plan.importlib.util, "find_spec", lambda _: None)
    ops, decoding = check_plan.bench(setting)
    assert ops.share == 1.0 and decoding.skip == "not installed: transformers"
    assert status.decode_lines([]) == []
    row = dict.fromkeys([*bench_decode.COLUMNS, "gpu", "commit"], "")
    row |= {"gpu": "NVIDIA Test", "shape": "tiny", "method": "via", "commit": "abc"}
    row |= {"tokens_per_second": "12.5", "synthetic": "weights", "over_assisted": "3.5"}
    lines = status.decode_lines([row | {"tokens_per_second": "11.0"}, row])
    assert "| NVIDIA Test | tiny (synthetic) | via | 12.5 | 3.5 | abc |" in lines
