# SPDX-License-Identifier: Apache-2.0
"""The CUDA kernels, run from their own source on the CPU, and what the simulation must notice.

A failure names VIA_SIMT_SCHED and VIA_SIMT_SEED; with them `build/simt-tests/<word>_<build>` does
the same again.
"""

from __future__ import annotations

import ctypes
import os
import re
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

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
    ("pipeline", 2): ("data race", {}),
    ("pipeline", 3): ("data race", {}),
    ("pipeline", 4): ("data race", {}),
    ("pipeline", 5): ("data race", {"plain": WRONG}),
    ("gemm", 1): ("data race", {"plain": WRONG, "asan": SANITIZER}),
    ("gemm", 2): ("asynchronous copy", {"plain": WRONG, "asan": SANITIZER}),
    ("gemm", 3): ("out of bounds", {"plain": LAYER_ERROR, "asan": SANITIZER}),
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


@pytest.fixture(scope="session")
def runs(built, request):
    """Results of the chosen cases of `test_main`, by case; as many at a time as there are cores."""
    chosen = [i for i in request.session.items if "runs" in getattr(i, "fixturenames", ())]
    cases = [tuple(item.callspec.params[name] for name in CASE) for item in chosen]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield {case: pool.submit(run_case, built, *case) for case in cases}


CASE = ("word", "build", "schedule", "seed")


def run_case(folder: Path, word: str, build: str, schedule: str, seed: int) -> programs.Result:
    return programs.run(folder / f"{word}_{build}", schedule=schedule, seed=seed)


@pytest.mark.parametrize(("build", "schedule", "seed"), RUNS)
@pytest.mark.parametrize("word", WORDS)
def test_main(runs, word, build, schedule, seed):
    result = runs[word, build, schedule, seed].result()
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


@pytest.fixture
def center(built):
    """Subtracts from every 128 values their mean, by a kernel in a library of this process."""
    function = ctypes.CDLL(str(built / "libembedded.so")).embedded_center

    def call(x: torch.Tensor, n: int | None = None) -> torch.Tensor:
        out, error = torch.full_like(x, torch.nan), ctypes.create_string_buffer(400)
        pointers = (ctypes.c_void_p(x.data_ptr()), ctypes.c_void_p(out.data_ptr()))
        if function(*pointers, x.numel() if n is None else n, error, ctypes.c_size_t(400)):
            raise RuntimeError(error.value.decode())
        return out

    return call


def test_inside_a_python_process(center):
    x = torch.arange(1024.0).square() / 1000
    rows = x.double().view(8, 128)
    expected = (rows - rows.mean(1, keepdim=True)).flatten().float()
    for _ in range(3):
        torch.testing.assert_close(center(x), expected)
        with pytest.raises(RuntimeError, match=r"trap in .*center_kernel"):
            center(x, -1)
    assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0.0, 0.0), "the watchdog runs"
    with ThreadPoolExecutor(4) as pool:
        for out in pool.map(lambda _: center(x), range(32)):
            torch.testing.assert_close(out, expected)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("void f(float* p) { atomicAdd(p, 1.0f); }", "atomics on 4 and 8 byte integers only"),
        ("void f() { __shared__ float x[2]; }", "use SMEM or DYN_SMEM"),
        ("void f(double v) { __reduce_add_sync(~0u, &v); }", "invalid conversion"),
        ("unsigned f() { return __activemask(); }", "not declared"),
    ],
)
def test_what_must_not_compile(built, tmp_path, code, reason):
    cache = (built / "CMakeCache.txt").read_text()
    compiler, headers = (
        re.search(rf"^{name}:\w+=(.*)$", cache, re.MULTILINE).group(1)
        for name in ("CMAKE_CXX_COMPILER", "VIA_CUDA_INCLUDE")
    )
    folders = [f"-I{ROOT / 'csrc'}", f"-I{ROOT / 'tests' / 'simt'}", f"-I{headers}"]
    command = [compiler, "-std=c++17", "-fsyntax-only", *folders]

    def compile_it(text: str) -> subprocess.CompletedProcess[str]:
        source = tmp_path / "sample.cpp"
        source.write_text(f'#include "device/prim.cuh"\n{text}\n')
        return subprocess.run([*command, str(source)], capture_output=True, text=True, check=False)

    assert compile_it("void f(unsigned* p) { atomicAdd(p, 1u); }").returncode == 0
    result = compile_it(code)
    assert result.returncode != 0
    assert reason in result.stderr
