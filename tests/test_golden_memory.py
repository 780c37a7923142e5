# SPDX-License-Identifier: Apache-2.0
"""Copies, tensor cores, block-wide primitives and the rules of core/, against NumPy."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.golden_outputs import CAN_BUILD, load, mix

pytestmark = pytest.mark.skipif(not CAN_BUILD, reason="needs g++ and the CUDA headers")


def test_asynchronous_copies():
    source = mix(np.arange(5 * 256))
    plain, filled = load("cp_async").reshape(2, 256)
    assert (plain == source[:256][::-1]).all()
    wanted = np.where(np.arange(256) // 4 % 3 != 0, source[:256], 0)
    assert (filled == wanted[::-1]).all()
    tiles = load("bulk_load").reshape(5, 256)
    assert (tiles == source.reshape(5, 256) + np.arange(256, dtype=np.uint32)).all()
    assert (load("load_stream16").reshape(-1, 4) == source.reshape(-1, 4)[::-1]).all()


def test_ldmatrix():
    got = load("ldmatrix_x4").reshape(32, 4)
    for lane in range(32):
        for matrix in range(4):
            first = 64 * matrix + 8 * (lane // 4) + 2 * (lane % 4)
            assert got[lane, matrix] == first | (first + 1) << 16
    got = load("ldmatrix_x4_trans").reshape(32, 4)
    for lane in range(32):
        for matrix in range(4):
            first = 64 * matrix + 16 * (lane % 4) + lane // 4
            assert got[lane, matrix] == first | (first + 8) << 16


def mma_operands(integers: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    def number(i):
        whole = (mix(i) % 15).astype(np.int64) - 7
        shift = 0 if integers else (mix(i + 77777) % 8).astype(np.int64) - 4
        return whole * 2.0**shift

    a = number(np.arange(256)).reshape(16, 16)
    b = number(np.arange(128) + 1000).reshape(8, 16).T
    c = number(np.arange(128) + 2000).reshape(16, 8)
    return a, b, c if integers else (c.astype(np.float32) * np.float32(1 / 3)).astype(np.float64)


@pytest.mark.parametrize("name", ["mma_bf16", "mma_f16"])
def test_mma(name):
    a, b, c = mma_operands(integers=True)
    assert (load(name, np.float32).reshape(16, 8) == a @ b + c).all()
    a, b, c = mma_operands(integers=False)
    got = load(f"{name}_random.approx", np.float64).reshape(16, 8)
    magnitude = np.abs(a) @ np.abs(b) + np.abs(c)
    assert (np.abs(got - (a @ b + c)) <= 16 * 2.0**-24 * magnitude).all()


def test_atomics():
    words = mix(np.arange(192) + 7).astype(np.uint64)
    total = int(words.sum())
    product = 1
    for word in words:
        product = product * (int(word) | 1) % 2**32
    assert load("atomics").tolist() == [
        total % 2**32,
        -total % 2**32,
        words.max(),
        words.min(),
        int(np.bitwise_and.reduce(words | 0x00FF00FF)) & 0xFFFFFFFF,
        np.bitwise_or.reduce(words & 0x0F0F0F0F),
        np.bitwise_xor.reduce(words),
        192 % 100,
        0xABCDEF01,
        product,
    ]
    assert load("atomics_wide", np.uint64).tolist() == [total << 20, int(words.max()) << 13]
    numbers = words.astype(np.uint32).view(np.int32)
    assert load("atomics_signed", np.int32).tolist() == [numbers.max(), numbers.min()]


def test_order_between_blocks_and_shared_memory():
    rows = load("acquire_release").reshape(6, 64)
    before = np.ones(64, np.uint32)
    for block, row in enumerate(rows):
        before = mix(before.astype(np.uint64) + block + np.arange(64, dtype=np.uint64))
        assert (row == before).all()
    assert (load("last_block") == rows.sum(axis=0, dtype=np.uint32)).all()
    carved = load("carve")
    assert (carved[:5] == mix(np.arange(5))[::-1]).all()
    assert (carved[5:8] == mix(np.arange(3) + 10)[::-1]).all()
    assert (carved[8:41] == (mix(np.arange(33) + 20) & 255)[::-1]).all()
    assert carved[41] == 0
    for turn, row in enumerate(load("bar_named").reshape(2, 2, 64)):
        expected = mix(np.arange(128) * 2 + turn).reshape(2, 64)[:, ::-1]
        assert (row == expected).all()


def test_block_reductions():
    got = load("block_reduce", np.uint64).reshape(13, 4, 32)
    real = mix(np.arange(128) + 300).view(np.int32).astype(np.float64)
    real = (real * np.where(np.arange(128) % 5 == 0, 1e-9, 3e-4)).reshape(4, 32)
    single = real.astype(np.float32)
    whole = mix(np.arange(128) + 300).view(np.int32).reshape(4, 32)
    whole = np.fmod(whole, 1000) + 1000
    nan_at = np.arange(128).reshape(4, 32) % 7 == 3
    kept = np.where(nan_at, np.float32("nan"), single)

    def tree(values):
        # Butterfly: every lane ends with the same bits.
        lanes = np.arange(32)
        for offset in (16, 8, 4, 2, 1):
            values = values + values[:, lanes ^ offset]
        return values

    def bits(values):
        return np.ascontiguousarray(values, dtype=np.float64).view(np.uint64)

    warps, singles = tree(real), tree(single)
    assert (got[0] == bits(warps)).all() and (got[1] == bits(singles)).all()
    assert (got[2] == whole.sum(axis=1, keepdims=True).astype(np.uint64)).all()
    assert (got[3] == bits(np.nanmax(kept, axis=1, keepdims=True))).all()
    assert (got[4] == bits(np.nanmin(kept, axis=1, keepdims=True))).all()
    block, block_single = warps[0, 0], singles[0, 0]
    for warp in (1, 2, 3):
        block, block_single = block + warps[warp, 0], block_single + singles[warp, 0]
    assert (got[6] == bits(block)).all() and (got[7] == bits(block_single)).all()
    assert (got[8] == bits(np.nanmax(kept))).all() and (got[9] == bits(np.nanmin(kept))).all()
    inclusive = np.cumsum(real, axis=1)
    size = np.abs(real).sum()
    assert (np.abs(got[5].view(np.float64) - inclusive) <= 32 * 2.0**-53 * size).all()
    exclusive = np.concatenate(([0.0], np.cumsum(real)[:-1])).reshape(4, 32)
    assert (np.abs(got[10].view(np.float64) - exclusive) <= 128 * 2.0**-53 * size).all()
    before = np.concatenate(([0], np.cumsum(whole)[:-1])).reshape(4, 32)
    assert (got[11] == before.astype(np.uint64)).all()
    assert np.allclose(got[12].view(np.float64), real.sum() + whole.sum(), rtol=1e-12)


def test_philox():
    words = load("philox").reshape(-1, 4)
    # Known answers of Random123 for all bits clear and all bits set.
    assert [f"{word:08x}" for word in words[0]] == ["6627e8d5", "e169c58d", "bc57ac4c", "9b00dbd8"]
    assert [f"{word:08x}" for word in words[1]] == ["408f276d", "41c83b0e", "a20bc7c6", "6d5451fd"]

    def philox(key: list[int], counter: list[int]) -> list[int]:
        for _ in range(10):
            first, second = 0xD2511F53 * counter[0], 0xCD9E8D57 * counter[2]
            counter = [
                second >> 32 ^ counter[1] ^ key[0],
                second & 0xFFFFFFFF,
                first >> 32 ^ counter[3] ^ key[1],
                first & 0xFFFFFFFF,
            ]
            key = [(key[0] + 0x9E3779B9) % 2**32, (key[1] + 0xBB67AE85) % 2**32]
        return counter

    uniforms = load("philox_uniform", np.float32)
    for i in range(2, 256):
        noise = [int(mix(6 * i + k)) for k in range(6)]
        assert words[i].tolist() == philox(noise[4:], noise[:4])
        position = (i - 100) % 2**64
        counter = [position % 2**32, position >> 32, int(mix(i + 2)), i % 3]
        drawn = philox([int(mix(i + 1)), int(mix(i))], counter)
        assert uniforms[i] == (drawn[0] >> 8) * 2.0**-24


def test_sixteen_bit_floats():
    bfloat, half = load("half").reshape(2, 65536)
    patterns = np.arange(65536, dtype=np.uint16)
    assert (bfloat == patterns.astype(np.uint32) << 16).all()
    expected = patterns.view(np.float16).astype(np.float32)
    values = half.view(np.float32)
    nan = np.isnan(expected)
    assert (half[~nan] == expected[~nan].view(np.uint32)).all() and np.isnan(values[nan]).all()


def test_exponentials():
    def uniform(i):
        return (mix(i) >> 8).astype(np.float32) * np.float32(2.0**-24)

    i = np.arange(1024)
    scale = np.float32(0.25) + np.float32(3) * uniform(i + 1)
    random = uniform(4 * i[:, None] + np.arange(4) + 5000)
    logits = (np.float32(-18) + random * np.float32(36)).astype(np.float64)
    reference = (mix(i) % 60).astype(np.float64) - 10
    exponents = logits * scale[:, None].astype(np.float64) - reference[:, None]
    weights = load("exp2_weights", np.float32).reshape(-1, 4)
    usable = (exponents >= -125) & (exponents <= 100)
    assert usable.mean() > 0.9
    error = np.abs(weights[usable] / 2.0 ** exponents[usable] - 1)
    assert error.max() < 4e-7
    powers = load("exp2_of", np.float32).reshape(-1, 4)
    expected = 2.0 ** (random * np.float32(-125)).astype(np.float64)
    assert np.abs(powers / expected - 1).max() < 4e-7
    fast = load("exp2_approx.approx", np.float64)
    x = (np.float32(-126) + np.arange(1000, dtype=np.float32) * np.float32(0.146)).astype(
        np.float64
    )
    assert np.abs(fast / 2.0**x - 1).max() < 2.5e-7


def sample_float(index):
    """`sample_float` of golden_math.cuh, and where it is no special value."""
    bits = mix(index).astype(np.uint32)
    ordinary = (bits & np.uint32(0x807FFFFF)) | (np.uint32(107) + (bits >> 23 & 31)) << 23
    return ordinary.astype(np.uint32).view(np.float32).astype(np.float64), index % 16 != 5


def test_router():
    rules, i = load("rules").reshape(-1, 15), np.arange(4096)
    (a, usual_a), (b, usual_b) = sample_float(2 * i + 1), sample_float(2 * i)
    usual = usual_a & usual_b
    p, q, coin = (
        (mix(i + k) >> 8).astype(np.float32) * np.float32(2**-24) for k in (9000, 18000, 0)
    )
    heat = (p + np.float32(0.01)).astype(np.float64)

    def cut(values, low, high):
        return np.clip(values, low, high).astype(np.float32).astype(np.float64)

    margin, ratio = cut((b - a) / heat, 0, 20), cut((a - b) / heat, -20, 0)
    columns = rules[:, 12:14].astype(np.uint32).view(np.float32)
    assert (columns[usual, 0] == margin[usual]).all()
    assert (columns[usual, 1] == ratio[usual]).all()
    depth, none = i % 9, np.zeros(4096)
    log_max = cut(-q.astype(np.float64), -20, 0)
    features = [ratio, log_max, margin, cut(a, -20, 0), cut(b, 0, 20), depth, none]
    packed = [((mix(i + 57 * k) >> 8) * 2.0**-24).astype(np.float32) - 0.5 for k in range(27)]

    def passes(model):
        weights = packed[8 * model : 8 * model + 8]
        odds = weights[0].astype(np.float64)
        for weight, feature in zip(weights[1:], features, strict=True):
            odds = odds + weight.astype(np.float64) * feature
        return odds <= packed[24 + model]

    tier = np.where((coin > 0) & passes(0), 0, np.where(passes(1), 1, 2))
    assert (rules[usual, 14] == (tier | 8)[usual]).all()
    assert {0, 1, 2} <= set(tier.tolist())


def test_rules():
    rules = load("rules").reshape(-1, 15)
    i = np.arange(4096)

    def uniform(index):
        return (mix(index) >> 8).astype(np.float64) * 2.0**-24

    coin, p, q = uniform(i), uniform(i + 9000), uniform(i + 18000)
    plain = i % 7 != 0
    gate = (i % 2 == 1) & (p >= np.float64(np.float32(0.8))) & (q > 0)
    tier = np.where(gate | (q >= np.float32(0.7)), 0, np.where(q >= np.float32(0.5), 1, 2))
    assert (rules[plain, 0] == tier[plain]).all()
    draft = i % 5 != 0
    assert (rules[draft, 1] == (coin * p < q)[draft]).all()
    children = np.stack([uniform(i + 100 * k) * 0.5 for k in range(4)])
    covered = np.cumsum(children, axis=0)
    accepted = ((coin < covered) & (children > 0)).astype(np.int64)
    assert (rules[:, 2] == (accepted << np.arange(4)[:, None]).sum(axis=0)).all()
    assert (rules[:, 5] == (p < q.astype(np.float32).astype(np.float64) * 1.5)).all()
    weights = np.cumsum(np.stack([uniform(i + 31 * k) for k in range(6)]), axis=0)
    passed = weights > coin * 3
    drawn = np.where(passed.any(axis=0), passed.argmax(axis=0), 99)
    assert (rules[:, 11] == drawn).all()
    offered = np.stack([mix(i + k) % 4 for k in range(5)])
    assert (rules[:, 10] == offered.argmax(axis=0)).all()
    columns = load("rules_library.approx", np.float64).reshape(7, 4096)
    logit = np.float32(-20) + uniform(i).astype(np.float32) * np.float32(40)
    top = logit + uniform(i + 1).astype(np.float32) * np.float32(20)
    heat = np.float32(0.1) + uniform(i + 2).astype(np.float32) * np.float32(2)
    ratio = np.exp((logit.astype(np.float64) - top) / heat)
    assert np.allclose(columns[0], ratio, rtol=1e-12)
    cut = top.astype(np.float64) + heat.astype(np.float64) * np.log(uniform(i + 5))
    assert (columns[1] >= cut - 1e-12).all() and np.allclose(columns[1], cut, rtol=2e-7)
    assert math.isfinite(columns.sum())
