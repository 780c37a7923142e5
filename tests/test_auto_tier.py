# SPDX-License-Identifier: Apache-2.0
"""`TierSwitch` on made-up timings: which way it takes, what exploring costs, when it turns."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

from via_ext.engines.auto_tier import (
    MAX_INTERVAL,
    MIN_INTERVAL,
    TRIAL_STEPS,
    RunningCost,
    TierSwitch,
)


class Machine(NamedTuple):
    """What steps cost and give.

    Attributes:
        slim: seconds of a step with the slim pass and no full pass.
        full: seconds of a step with the full pass alone.
        audit_every: slim steps between two full passes; 0 = none, and every token is safe at once.
        spread: relative spread of the seconds.
    """

    slim: float
    full: float
    audit_every: int = 0
    spread: float = 0.0


class Bench:
    """Drives a switch as a session would, and keeps what it did."""

    def __init__(self, switch: TierSwitch, seed: int = 0) -> None:
        self.switch = switch
        self.random = random.Random(seed)
        self.pending = self.slim_steps = 0
        self.used: list[bool] = []
        self.seconds = 0.0
        self.tokens = 0

    def run(self, steps: int, machine: Machine, tokens: Callable[[], int] | None = None) -> None:
        draw = tokens or (lambda: self.random.randint(1, 5))
        for _ in range(steps):
            self._step(machine, draw())

    def _step(self, machine: Machine, new: int) -> None:
        use = self.switch.use_slim()
        assert use == self.switch.use_slim()  # asking changes nothing
        self.used.append(use)
        full = not use
        if use and machine.audit_every:
            self.slim_steps += 1
            full = self.slim_steps % machine.audit_every == 0
        seconds = machine.slim * use + machine.full * full
        seconds *= 1.0 + machine.spread * self.random.uniform(-1.0, 1.0)
        self.pending += new
        confirmed = self.pending if full or not machine.audit_every else 0
        self.pending -= confirmed
        self.switch.record(
            seconds, confirmed, escalated=int(use and full), backlog=0 if full else 1 + self.pending
        )
        self.seconds += seconds
        self.tokens += confirmed

    @property
    def per_token(self) -> float:
        return self.seconds / self.tokens


# (slim step, full step, slim steps per full pass): three times as dear, and a third.
LOSES = [Machine(3.0, 1.0), Machine(2.8, 1.0, audit_every=4), Machine(1.4, 1.0, audit_every=1)]
WINS = [Machine(0.4, 1.0), Machine(0.3, 1.0, audit_every=4), Machine(0.2, 1.0, audit_every=8)]


@pytest.mark.parametrize("machine", LOSES)
@pytest.mark.parametrize("spread", [0.0, 0.3])
def test_a_slim_tier_that_loses_is_switched_off(machine: Machine, spread: float) -> None:
    bench = Bench(TierSwitch())
    bench.run(1500, machine._replace(spread=spread))
    assert [change.slim for change in bench.switch.changes] == [False]
    change = bench.switch.changes[0]
    assert change.with_slim > change.without > 0.0
    assert change.step < 120
    settled = bench.used[200:]
    assert sum(settled) < 0.1 * len(settled)
    assert any(settled), "it must go on trying"
    # Start and trials included: near what two tiers alone would take.
    alone = machine.full / 3.0
    assert bench.per_token < 1.2 * alone


@pytest.mark.parametrize("machine", WINS)
@pytest.mark.parametrize("spread", [0.0, 0.3])
def test_a_slim_tier_that_wins_stays(machine: Machine, spread: float) -> None:
    bench = Bench(TierSwitch())
    bench.run(1500, machine._replace(spread=spread))
    assert bench.switch.changes == []
    settled = bench.used[200:]
    assert 0.9 * len(settled) < sum(settled) < len(settled)
    assert bench.switch.with_slim < bench.switch.without


@pytest.mark.parametrize("seed", range(4))
def test_a_change_of_regime_is_noticed(seed: int) -> None:
    bench = Bench(TierSwitch(), seed)
    winning, losing = Machine(0.4, 1.0, 4, 0.2), Machine(2.0, 1.0, 4, 0.2)
    bench.run(600, winning)
    assert bench.switch.changes == []
    bench.run(300, losing)  # what is in use got worse: its rival is tried at once
    assert [change.slim for change in bench.switch.changes] == [False]
    bench.run(MAX_INTERVAL + 600, winning)  # what is not in use got better: the next trials tell
    assert [change.slim for change in bench.switch.changes] == [False, True]
    assert all(bench.used[-20:]) or sum(bench.used[-100:]) > 80


def test_a_slower_machine_changes_nothing() -> None:
    """Both ways slow down together: stale figures of the other way must not decide."""
    bench = Bench(TierSwitch())
    fast = Machine(0.5, 1.0, 4, 0.1)
    bench.run(500, fast)
    bench.run(500, Machine(1.5, 3.0, 4, 0.1))
    bench.run(500, fast)
    assert bench.switch.changes == []


@pytest.mark.parametrize("seed", range(6))
def test_equal_ways_do_not_flap(seed: int) -> None:
    bench = Bench(TierSwitch(), seed)
    bench.run(3000, Machine(1.0, 1.0, 0, 0.5))
    assert len(bench.switch.changes) <= 4


def test_one_pause_of_the_machine_does_not_decide() -> None:
    bench = Bench(TierSwitch())
    machine = Machine(0.6, 1.0)
    for pause in (5, 40, 200, 300):
        bench.run(pause, machine)
        bench.run(1, machine._replace(slim=60.0, full=100.0))
    bench.run(100, machine)
    assert bench.switch.changes == []


def test_a_long_backlog_is_charged_to_the_slim_tier() -> None:
    """The full pass that ends a trial reads what the slim verifier decided: its own cost."""
    bench = Bench(TierSwitch())
    # By its own steps alone the slim tier looks free; with its audits it costs twice the other.
    machine = Machine(1.9, 1.0, audit_every=10)
    bench.run(400, machine, tokens=lambda: 2)
    assert [change.slim for change in bench.switch.changes] == [False]
    change = bench.switch.changes[0]
    assert change.with_slim == pytest.approx((10 * 1.9 + 1.0) / 20, rel=0.15)
    assert change.without == pytest.approx(0.5, rel=1e-6)


def test_figures_outlast_a_run_and_the_log_does_not() -> None:
    bench = Bench(TierSwitch())
    bench.run(300, LOSES[0])
    assert len(bench.switch.changes) == 1 and not bench.switch.use_slim()
    assert bench.switch.escalation_rate == 0.0
    bench.switch.start_run()
    assert bench.switch.changes == []
    bench.run(MIN_INTERVAL // 2, LOSES[0])
    assert sum(bench.used[300:]) <= TRIAL_STEPS
    assert bench.switch.with_slim > bench.switch.without


@pytest.mark.parametrize(
    "machine",
    [Machine(1.0, 3.0), Machine(3.0, 1.0), Machine(0.3, 3.0, 3), Machine(3.0, 1.0, 7)],
)
def test_short_runs_go_on_with_the_trial_of_the_run_before(machine: Machine) -> None:
    """Runs shorter than a phase: none may keep the losing way, and trials still happen."""
    bench = Bench(TierSwitch())
    for steps in (10, *[7] * 200):
        bench.switch.start_run()
        bench.pending = 0
        bench.run(steps, machine)
    share = sum(bench.used[200:]) / len(bench.used[200:])
    wins = machine.slim < machine.full
    assert (0.85 < share < 1.0) if wins else (0.0 < share < 0.15)


def test_the_first_step_of_a_run_does_not_count_its_prefill() -> None:
    """The drafter's prefill is paid by whatever way is in force: it says nothing about it."""
    switch = TierSwitch()
    for _ in range(40):
        switch.start_run()
        for step in range(6):
            cost = 1.0 if switch.use_slim() else 2.0
            switch.record(cost + 50.0 * (step == 0), 2)
    assert switch.with_slim == pytest.approx(0.5) and switch.without == pytest.approx(1.0)
    # Where the first step's tokens are safe only later, the second step's time stands for it.
    switch = TierSwitch()
    for _ in range(4):
        switch.start_run()
        for step in range(4):
            last = step == 3
            switch.record(50.0 if step == 0 else 1.0, 8 * last, backlog=0 if last else 2)
    assert switch.with_slim == pytest.approx(0.5)


def test_the_same_timings_give_the_same_decisions() -> None:
    machine = Machine(1.05, 1.0, 3, 0.4)
    first, second = Bench(TierSwitch(), 7), Bench(TierSwitch(), 7)
    first.run(800, machine)
    second.run(800, machine)
    assert first.used == second.used
    assert first.switch.changes == second.switch.changes


def test_a_decision_is_known_before_the_step_and_does_not_look_at_it() -> None:
    """Two futures that differ in the step to come get the same answer for it."""
    left, right = Bench(TierSwitch(), 3), Bench(TierSwitch(), 3)
    machine = Machine(1.0, 1.0, 2, 0.3)
    for bench, last in ((left, 0), (right, 5)):
        bench.run(50, machine)
        bench.run(1, machine, tokens=lambda last=last: last)
    assert left.used == right.used


def test_changes_are_plain_data() -> None:
    bench = Bench(TierSwitch())
    bench.run(300, LOSES[1])
    data = bench.switch.changes[0].to_dict()
    assert json.loads(json.dumps(data)) == data
    assert set(data) == {"step", "slim", "with_slim", "without"}
    assert bench.switch.escalation_rate > 0.0


def ratios(blocks: list[tuple[float, int]]) -> Iterator[float]:
    yield from (seconds / tokens for seconds, tokens in blocks)


def test_running_cost_is_a_ratio_of_sums() -> None:
    """Unweighted by age, the textbook ratio estimate and its standard error."""
    cost = RunningCost()
    assert cost.mean == math.inf and cost.error == math.inf
    blocks = [(1.0, 2), (1.2, 4), (0.9, 1), (1.1, 3)]
    for seconds, tokens in blocks:
        cost.add(seconds, tokens, 1, at=1)
    seconds, tokens = (sum(values) for values in zip(*blocks, strict=True))
    mean = seconds / tokens
    assert cost.mean == pytest.approx(mean)
    residuals = sum((s - mean * t) ** 2 for s, t in blocks) / (len(blocks) - 1)
    assert cost.error == pytest.approx(math.sqrt(residuals / len(blocks)) / (tokens / len(blocks)))
    assert min(ratios(blocks)) < cost.mean < max(ratios(blocks))


def test_running_cost_forgets() -> None:
    cost = RunningCost()
    for at in range(50):
        cost.add(1.0, 1, 1, at)
    for at in range(300, 350):
        cost.add(2.0, 1, 1, at)
    assert cost.mean > 1.8
