# SPDX-License-Identifier: Apache-2.0
"""The CUDA kernels, run from their own source on the CPU, and what the simulation must notice.

A failure names VIA_SIMT_SCHED and VIA_SIMT_SEED; with them `build/simt-tests/<word>_<build>` does
the same again.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.simt import programs
from tests.simt.programs import BUILDS, LAYER_ERROR, OK, ROOT, SANITIZER, WORDS, WRONG

# Seeds matter to random and pct only; fifo is the order in which the race build needs no luck.
SCHEDULES = {
    "plain": [("fifo", 1), ("lifo", 1), ("random", 1), ("pct", 1), ("pct", 2)],
    "asan": [("fifo", 1), ("pct", 3)],
    "race": [("fifo", 1), ("random", 4), ("pct", 5)],
}
RUNS = [(build, *order) for build in BUILDS for order in SCHEDULES[build]]

# Bugs of tests/simt/planted: (kernel, number) -> what the race build says in fifo order, and the
# status in other builds that notice it without luck.
PLANTED = {
    ("softmax", 1): ("write after unordered read", {}),
    ("softmax", 2): ("data race", {"asan": SANITIZER}),
    ("softmax", 3): ("deadlock", {"plain": LAYER_ERROR, "asan": LAYER_ERROR}),
    ("softmax", 4): ("out of bounds", {"plain": LAYER_ERROR, "asan": SANITIZER}),
    ("pipeline", 1): ("data race", {"plain": WRONG}),
    ("pipeline", 2): ("data race", {"plain": WRONG}),
    ("pipeline", 3): ("data race", {}),
    ("pipeline", 4): ("data race", {}),
    ("pipeline", 5): ("data race", {"plain": WRONG}),
    ("gemm", 1): ("data race", {"plain": WRONG, "asan": SANITIZER}),
    ("gemm", 2): ("asynchronous copy", {"plain": WRONG, "asan": SANITIZER}),
    ("gemm", 3): ("overflow", {"plain": LAYER_ERROR, "asan": SANITIZER}),
    ("gemm", 4): ("write after unordered read", {}),
    ("gemm", 5): ("SIMT-ERROR", {"plain": WRONG, "asan": SANITIZER}),
    ("ring", 1): ("data race", {"plain": LAYER_ERROR, "asan": SANITIZER}),
    ("ring", 2): ("SIMT-ERROR", {"plain": LAYER_ERROR}),
    ("ring", 3): ("livelock", {"plain": LAYER_ERROR, "asan": LAYER_ERROR}),
    ("ring", 4): ("no fence_proxy_async between", {}),
}


@pytest.fixture(scope="session")
def built() -> Path:
    """Folder of the programs <word>_<build>."""
    folder = ROOT / "build" / "simt-tests"
    try:
        programs.build(folder)
    except programs.NotPossible as reason:
        pytest.skip(str(reason))
    return folder


@pytest.mark.parametrize(("build", "schedule", "seed"), RUNS)
@pytest.mark.parametrize("word", WORDS)
def test_main(built, word, build, schedule, seed):
    result = programs.run(built / f"{word}_{build}", schedule=schedule, seed=seed)
    assert result.status == OK, result.output


@pytest.mark.parametrize(("kernel", "bug"), PLANTED, ids=[f"{k}-{b}" for k, b in PLANTED])
def test_planted_bug_is_found(built, kernel, bug):
    text, others = PLANTED[kernel, bug]
    result = programs.run(built / "planted_race", kernel, str(bug), schedule="fifo")
    assert result.status == LAYER_ERROR, result.output
    assert text in result.output
    for build, status in others.items():
        result = programs.run(built / f"planted_{build}", kernel, str(bug), schedule="fifo")
        assert result.status == status, result.output


@pytest.mark.parametrize("kernel", sorted({kernel for kernel, _ in PLANTED}))
def test_correct_kernels_raise_no_alarm(built, kernel):
    """Also with thread changes at memory accesses, which no other test has."""
    for seed in range(1, 6):
        for schedule in ("random", "pct"):
            for preempt in ("0", "1"):
                result = programs.run(
                    built / "planted_race",
                    kernel,
                    schedule=schedule,
                    seed=seed,
                    VIA_SIMT_PREEMPT=preempt,
                )
                assert result.status == OK, result.output


def test_race_report_names_both_lines(built):
    source = (ROOT / "tests" / "simt" / "planted" / "softmax.cuh").read_text().splitlines()

    def line_of(text: str) -> str:
        return f"softmax.cuh:{next(i for i, line in enumerate(source, 1) if text in line)}"

    output = programs.run(built / "planted_race", "softmax", "1", schedule="fifo").output
    assert f"write by block 0 thread 0 at {line_of('part[warp_idx] = sum;')}\n" in output
    assert f"after read by block 0 thread 1 at {line_of('max = part[0];')}\n" in output


def test_a_seed_gives_the_same_run_again(built):
    def report(seed: int) -> str:
        result = programs.run(
            built / "planted_race", "pipeline", "3", schedule="random", seed=seed, limit_s=60
        )
        assert result.status == LAYER_ERROR
        return "\n".join(line for line in result.output.splitlines() if "block" in line)

    first = [report(seed) for seed in range(1, 6)]
    assert first == [report(seed) for seed in range(1, 6)]
    assert len(set(first)) > 1, "five seeds, one order"


def test_loop_without_spin_is_stopped(built):
    result = programs.run(built / "planted_plain", "hang", limit_s=60, VIA_SIMT_WATCHDOG="1")
    assert result.status == LAYER_ERROR
    assert "without a yield" in result.output
