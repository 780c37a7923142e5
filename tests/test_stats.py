# SPDX-License-Identifier: Apache-2.0
"""`StatsRecorder` and `DecodeStats`: the rates, the percentile, and what is shown."""

import json
from dataclasses import fields

import pytest

from via_ext.stats import DecodeStats, StatsRecorder

PASSES = ["slim_passes", "full_passes", "resumed_passes", "draft_passes"]
COUNTS = ["tokens", "steps", *PASSES, "drafted", "examined", "accepted"]
RATES = ["accept_rate", "regenerate_rate", "escalate_rate", "rejection_rate", "mean_accepted"]
LISTS = ["accepted_by_position", "tier_changes"]
CONTRACT = [*COUNTS, *RATES, "overshoot_mean", "overshoot_p99", *LISTS, "seed"]


def test_fields_are_the_contract():
    assert [field.name for field in fields(DecodeStats)] == CONTRACT


def test_rates():
    recorder = StatsRecorder(tokens=9, steps=4, slim_passes=4, full_passes=1, drafted=20)
    recorder.examined, recorder.accepted, recorder.regenerated, recorder.escalated = 8, 5, 1, 2
    recorder.accepted_per_step += [3, 0, 2, 1]
    recorder.overshoot += [0.0, 0.5, 0.1]
    stats = recorder.finish(seed=7)
    assert stats.accepted == 6  # five by the slim verifier, one by the full model
    assert stats.accept_rate + stats.regenerate_rate + stats.escalate_rate == pytest.approx(1.0)
    assert stats.accept_rate == 5 / 8 and stats.escalate_rate == 2 / 8
    assert stats.rejection_rate == 2 / 8 and stats.mean_accepted == 6 / 4
    assert stats.overshoot_mean == pytest.approx(0.2) and stats.overshoot_p99 == 0.5
    assert stats.seed == 7


def test_shares_by_position():
    recorder = StatsRecorder()
    for kept, examined in ((2, 3), (0, 1), (3, 3), (0, 0)):
        recorder.count_walk(kept, examined)
    stats = recorder.finish()
    assert recorder.examined == 7 and stats.accepted_by_position == (2 / 3, 1.0, 0.5)


def test_empty_run_has_no_division_by_zero():
    stats = StatsRecorder().finish()
    assert stats.rejection_rate == stats.mean_accepted == stats.accept_rate == 0.0
    assert stats.overshoot_mean is None and stats.overshoot_p99 is None and stats.seed is None


def test_percentile_is_nearest_rank():
    recorder = StatsRecorder(overshoot=[i / 200 for i in range(200)][::-1])
    assert recorder.finish().overshoot_p99 == 197 / 200


def test_recorder_goes_on_after_finish():
    recorder = StatsRecorder(tokens=1)
    first = recorder.finish()
    recorder.tokens += 1
    assert (first.tokens, recorder.finish().tokens) == (1, 2)


def test_dict_and_table():
    recorder = StatsRecorder(tokens=3, steps=2, accepted_per_step=[1, 1])
    recorder.count_walk(1, 2)
    recorder.tier_changes.append({"step": 9, "slim": False})
    stats = recorder.finish(seed=5)
    assert json.loads(json.dumps(stats.to_dict())) == stats.to_dict()
    assert list(stats.to_dict()) == CONTRACT
    lines = stats.table().splitlines()
    assert [line.split()[0] for line in lines] == CONTRACT
    assert len({len(line) for line in lines}) == 1
    shown = dict(line.split() for line in lines)
    assert shown["mean_accepted"] == "1.0000" and shown["seed"] == "5"
    assert shown["overshoot_mean"] == "-"
    assert shown["accepted_by_position"] == "1.00,0.00" and shown["tier_changes"] == "1"
