# SPDX-License-Identifier: Apache-2.0
"""One source, several instruction sets: the same decisions, and log-probabilities near float64."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from via_ext import build_info, ops

ROOT = Path(__file__).resolve().parent.parent
VOCAB = 3 * 2048 + 96  # whole chunks and a short one that is a multiple of 32
TEMPERATURES = (1.0, 0.02, 40.0)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def rows(dtype: torch.dtype) -> torch.Tensor:
    """[R, V]: ordinary rows, and rows whose chunks need another path."""
    generator = torch.Generator().manual_seed(5)
    base = torch.randn(10, VOCAB, generator=generator) * 3
    base[:, 4000] = 9.0
    base[1] = base[1].log_softmax(-1)  # all negative
    base[2, ::3] = -torch.inf
    base[3, 2048:4096] = -torch.inf  # a chunk without mass
    base[4, [70, 4100]] = torch.nan
    base[5, 2500] = torch.nan
    base[6, 5000] = torch.inf
    base[7] = -2.0
    base[8] = -300.0 + base[8]
    base[9, :2048] -= 200.0  # the first chunk is no guide to the others
    cast = base.to(dtype)
    bits = cast.view(torch.int32 if dtype == torch.float32 else torch.int16)
    bits[5, 2500] |= torch.iinfo(bits.dtype).min  # a NaN with its sign set
    return cast


def decide(logits: torch.Tensor, temperature: float) -> tuple[torch.Tensor, ...]:
    """Token, its log-probability and the status after every row, for two coins."""
    ids = torch.zeros(len(logits), 0, dtype=torch.int64)
    found = []
    for coin in (0.2137, 0.9123):
        coins = torch.full((len(logits), 1), coin)
        done = ops.verify(
            ids, logits[:, None], rule="sample", temperature=temperature, uniform_samples=coins
        )
        found += [done.next_token, done.logprobs[:, 0], done.status]
    return tuple(found)


def everything() -> dict[str, tuple[torch.Tensor, ...]]:
    return {f"{d} {t}": decide(rows(d), t) for d in DTYPES for t in TEMPERATURES}


@pytest.fixture(scope="module")
def by_isa(tmp_path_factory):
    """Results of a process per instruction set that this processor has."""
    names = build_info()["cpu_isas"]
    names = names[: names.index(build_info()["cpu_isa"]) + 1]
    folder = tmp_path_factory.mktemp("isa")
    code = (
        "import sys, torch; from tests.test_isa import everything; from via_ext import build_info\n"
        "torch.save((build_info()['cpu_isa'], everything()), sys.argv[1])"
    )
    results = {}
    for name in names:
        path = folder / name
        environment = {**os.environ, "VIA_EXT_CPU_ISA": name, "PYTHONPATH": str(ROOT)}
        subprocess.run([sys.executable, "-c", code, str(path)], env=environment, check=True)
        used, results[name] = torch.load(path)
        assert used == name
    return results


def test_wide_sets_agree_to_the_bit(by_isa):
    wide = [result for name, result in by_isa.items() if name != "base"]
    if len(wide) < 2:
        pytest.skip("this processor has one wide instruction set")
    for key, values in wide[0].items():
        for other in wide[1:]:
            assert all(map(torch.equal, values, other[key])), key


def test_base_set_decides_the_same(by_isa):
    best = list(by_isa.values())[-1]
    for key, (*values,) in by_isa["base"].items():
        for mine, theirs in zip(values, best[key], strict=True):
            if mine.is_floating_point():
                torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=1e-6)
            else:
                assert torch.equal(mine, theirs), key


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_log_probabilities_against_float64(by_isa, dtype, temperature):
    logits = rows(dtype).double()
    exact = torch.where(logits.isnan(), -torch.inf, logits)
    # The row of an infinity is one-hot: the token after it has probability one.
    exact[6] = torch.where(exact[6] == torch.inf, 0.0, -torch.inf)
    exact = (exact / temperature).log_softmax(-1)
    for result in by_isa.values():
        first_token, first, status, second_token, second, _ = result[f"{dtype} {temperature}"]
        assert status.tolist() == [0, 0, 0, 0, 1, 1, 0, 0, 0, 0]
        for token, got in ((first_token, first), (second_token, second)):
            expected = exact.gather(1, token[:, None])[:, 0]
            # The quotient's own rounding in float32 grows with its size.
            bound = 1e-5 + 1e-7 * logits.nan_to_num(0.0, 0.0, 0.0).abs().amax(-1) / temperature
            assert bool(((got.double() - expected).abs() <= bound).all()), (got, expected)
