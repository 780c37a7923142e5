# SPDX-License-Identifier: Apache-2.0
"""What every device primitive computes in the simulation, against NumPy and known answers.

The same program runs on a GPU (profiling/golden_compare.py); there its files must equal these.
"""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from tests.golden_outputs import CAN_BUILD, folders, golden_compare, load, mix

pytestmark = pytest.mark.skipif(not CAN_BUILD, reason="needs g++ and the CUDA headers")

MASKS = (0x55555555, 0x0FF0F00F, 0xFFFF0000, 0x80000001)
THREADS = 64
LANES = np.arange(THREADS) % 32
WARP = np.arange(THREADS) - LANES


def test_schedules_agree_and_a_difference_is_seen(tmp_path, capsys):
    assert golden_compare.main([str(path) for path in folders().values()]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) >= 24 and all(line.endswith(" ok") for line in lines)
    changed = shutil.copytree(folders()["fifo"], tmp_path / "changed")
    words = np.fromfile(changed / "vote.bin", np.uint32)
    words[5] ^= 1
    words.tofile(changed / "vote.bin")
    numbers = np.fromfile(changed / "rules_library.approx.bin")
    numbers[3 * 4096 + 5] *= 1 + 1e-6
    numbers.tofile(changed / "rules_library.approx.bin")
    (changed / "half.bin").unlink()
    (changed / "bulk_load.bin").unlink()
    assert golden_compare.main([str(folders()["fifo"]), str(changed)]) == 1
    wrong = [line for line in capsys.readouterr().out.splitlines() if not line.endswith(" ok")]
    assert [line.split()[0:2] for line in wrong] == [
        ["bulk_load", "skipped"],
        ["half", "differs:"],
        ["rules_library", "differs:"],
        ["vote", "differs:"],
    ]


def test_shuffles():
    got = load("shuffle").reshape(-1, THREADS)
    words = mix(np.arange(THREADS))
    for case, width in enumerate((2, 4, 8, 16, 32)):
        first, delta = LANES & -width, 1 + width // 4
        up, down, across = LANES - delta, LANES + delta, LANES ^ (width // 2 + 1)
        sources = (
            first + (LANES * 3 + 1) % width,
            np.where(up >= first, up, LANES),
            np.where(down < first + width, down, LANES),
            # Groups below may be read, groups above not.
            np.where(across < first + width, across, LANES),
        )
        for kind, source in enumerate(sources):
            expected = words[WARP + source]
            assert (got[4 * case + kind] == expected).all(), (width, kind)
    wide = (words.astype(np.uint64) * np.uint64(0x123456789))[WARP + (LANES & -8) + 5]
    assert (got[20] == wide.astype(np.uint32)).all()
    assert (got[21] == (wide >> np.uint64(32)).astype(np.uint32)).all()
    down = np.where(LANES + 3 < (LANES & -8) + 8, LANES + 3, LANES)
    wide = (words.astype(np.uint64) * np.uint64(0x123456789))[WARP + down]
    assert (got[22] == wide.astype(np.uint32)).all()
    real = words.astype(np.float64) * 1.25e-3
    up = np.where(LANES - 3 >= (LANES & -8), LANES - 3, LANES)
    assert (got[24] == real[WARP + up].view(np.uint64).astype(np.uint32)).all()
    sources = ((LANES + 4) % 32, LANES * 0 + 15, 16 + (LANES * 5 + 3) % 16, 31 - LANES)
    for i, mask in enumerate(MASKS):
        member = (mask >> LANES & 1) == 1
        assert (got[28 + i] == np.where(member, words[WARP + sources[i]], 0)).all(), hex(mask)


def test_votes_and_reductions():
    votes = load("vote").reshape(-1, THREADS)
    odd = (mix(np.arange(THREADS)) & 1).astype(np.int64)
    ballots = [int((odd[32 * w : 32 * w + 32] << np.arange(32)).sum()) for w in (0, 1)]
    assert (votes[0] == np.repeat(ballots, 32)).all()
    assert (votes[[4, 5]] == 1).all() and (votes[[3]] == 0xFFFFFFFF).all()
    assert (votes[6:9] == 0).all()
    for i, mask in enumerate(MASKS):
        member = (mask >> LANES & 1) == 1
        assert (votes[9 + 3 * i] == np.where(member, np.repeat(ballots, 32) & mask, 0)).all()
        assert (votes[10 + 3 * i] == member * (mask >> 31)).all()
        assert (votes[11 + 3 * i] == member * (1 - (mask >> 12 & 1))).all()
    assert (votes[21] == odd.sum()).all() and (votes[22:] == 1).all()
    reduced = load("reduce_sync").reshape(5, 8, THREADS)
    words = mix(np.arange(THREADS) + 100)
    functions = (
        lambda v: v.sum(dtype=np.uint32), np.min, np.max, np.bitwise_and.reduce,
        np.bitwise_or.reduce, np.bitwise_xor.reduce,
        lambda v: v.view(np.int32).min().astype(np.uint32),
        lambda v: v.view(np.int32).max().astype(np.uint32),
    )  # fmt: skip
    for i, mask in enumerate((0xFFFFFFFF, *MASKS)):
        member = (mask >> np.arange(32) & 1) == 1
        for warp in (0, 1):
            values = words[32 * warp : 32 * warp + 32][member]
            for case, function in enumerate(functions):
                expected = np.where(member, function(values), 0)
                assert (reduced[i, case, 32 * warp : 32 * warp + 32] == expected).all(), (i, case)


def test_bits():
    got = load("bits").reshape(-1, 128)
    index = np.arange(128)
    a = np.where(index < 34, 0, mix(index)).astype(np.uint64)
    a[1] = 0xFFFFFFFF
    a[2:34] = np.uint64(1) << np.arange(32, dtype=np.uint64)
    b = mix(index + 1000).astype(np.uint64)
    for i in index:
        low, high = int(a[i]), int(b[i])
        wide = low << int(i) % 33
        assert got[0, i] == low.bit_count() and got[3, i] == wide.bit_count()
        assert got[1, i] == 32 - low.bit_length() and got[4, i] == 64 - wide.bit_length()
        assert got[2, i] == (low & -low).bit_length() and got[5, i] == (wide & -wide).bit_length()
        assert got[6, i] == int(f"{low:032b}"[::-1], 2)
        assert int(got[7, i]) | int(got[8, i]) << 32 == int(f"{wide:064b}"[::-1], 2)
        assert got[9, i] == low * high >> 32
        both, shift = high << 32 | low, int(i) % 32
        assert got[10, i] == (both << shift >> 32) & 0xFFFFFFFF
        assert got[11, i] == both >> shift & 0xFFFFFFFF
        selectors = [int(mix(i + 2000)) >> 4 * k & 15 for k in range(4)]
        picked = [both >> 8 * (s & 7) & 255 for s in selectors]
        picked = [
            (255 if p & 128 else 0) if s & 8 else p for p, s in zip(picked, selectors, strict=True)
        ]
        assert got[12, i] == sum(p << 8 * k for k, p in enumerate(picked))
        assert got[13, i] == low and int(got[14, i]) | int(got[15, i]) << 32 == wide
