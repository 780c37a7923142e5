# SPDX-License-Identifier: Apache-2.0
"""tree_attention: malformed rows, values that must not leak, extreme scores, threads, tracing."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.attention_cases import FLOATS, check, make_case, paged, random_parents
from tests.simulation import is_simulated
from via_ext import ops

ROOT = Path(__file__).resolve().parent.parent
BIG = [2**31 - 1, -(2**31), 2**63 - 1, -(2**63)]


def check_only_row_zero_fails(device, case, good_case):
    """Row 0 gives nothing; row 1 gives what it gives beside a good row."""
    out, lse = check(device, case)
    good_out, good_lse = check(device, good_case)
    assert not out[0].any() and (lse[0] == -torch.inf).all()
    assert torch.equal(out[1], good_out[1]) and torch.equal(lse[1], good_lse[1])


@pytest.mark.parametrize("context", [-1, -7, 8, 10, 1000, *BIG])
def test_contexts_outside_the_cache(device, context, generator):
    case = make_case(generator, [2, 7], tokens=3, capacity=10)
    bad = make_case(generator, [2, 7], tokens=3, capacity=10)
    bad.tensors = {**case.tensors, "context_lens": torch.tensor([context, 7])}
    check_only_row_zero_fails(device, bad, case)


@pytest.mark.parametrize(
    ("token", "parent"), [(0, 0), (0, -2), (2, 2), (2, 3), (1, 127), (2, -(2**63))]
)
def test_parents_that_make_no_forest(device, token, parent, generator):
    case = make_case(generator, [2, 5], tokens=3, parents=torch.tensor([[-1, 0, 0]] * 2))
    bad = make_case(generator, [2, 5], tokens=3, parents=case.options["parents"].clone())
    bad.tensors = case.tensors
    bad.options["parents"][0, token] = parent
    check_only_row_zero_fails(device, bad, case)
    # All rows share one broken tree.
    bad.options["parents"] = bad.options["parents"][0]
    out, _ = check(device, bad)
    assert not out.any()


@pytest.mark.parametrize("count", [-1, 4, *BIG])
def test_token_counts_out_of_range(device, count, generator):
    case = make_case(generator, [2, 5], tokens=3, capacity=12, num_tokens=torch.tensor([3, 2]))
    bad = make_case(generator, [2, 5], tokens=3, num_tokens=torch.tensor([count, 2]))
    bad.tensors = case.tensors
    check_only_row_zero_fails(device, bad, case)


@pytest.mark.parametrize("capacity", [513, 576, 640, 1100])
def test_contexts_shorter_than_the_capacity(device, capacity, generator):
    # Few keys may be cut into more parts than many: 500 into 4 by 128, 576 into 3 by 192.
    case = make_case(generator, [500, 0, 385], tokens=1, heads=(32, 32), capacity=capacity)
    check(device, case)


@pytest.mark.parametrize("page", [-1, 13, 2**31 - 1, -(2**31)])
@pytest.mark.parametrize("slot", [0, 2, 3])
def test_pages_outside_the_pool(device, page, slot, generator):
    # Positions 0..15 on pages of 4: row 0 reads 0..9, writes 10..12.
    case = paged(make_case(generator, [10, 7], tokens=3, capacity=20), 4, generator)
    bad = paged(make_case(generator, [10, 7], tokens=3, capacity=20), 4, generator)
    bad.tensors = case.tensors
    bad.options["page_table"] = case.options["page_table"].clone()
    bad.options["page_table"][0, slot] = page
    assert len(case["key_cache"]) == 13
    check_only_row_zero_fails(device, bad, case)


def test_pages_that_no_token_needs(device, generator):
    # Behind every window, and after the last new token.
    case = paged(make_case(generator, [10, 0], tokens=3, capacity=20, window=5), 4, generator)
    expected = check(device, case)
    table = case.options["page_table"]
    for page in (-1, 99):
        table[0, 4] = page
        table[0, 0] = page  # positions 0..3; the roots see 6..9
        for mine, theirs in zip(check(device, case, ruler=False), expected, strict=True):
            assert torch.equal(mine, theirs)


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
@pytest.mark.parametrize("dtype", FLOATS)
def test_what_a_token_does_not_see_does_not_matter(device, wrong, dtype, generator):
    parents = torch.tensor([-1, 0, 0, 2, -1])
    case = make_case(generator, [70, 4], dtype=dtype, parents=parents, capacity=80, window=8)
    expected, expected_lse = check(device, case)
    # Token 1 is seen by nobody else; nor are positions behind the windows, and beyond the tokens.
    for name in ("key", "value"):
        case[name][:, 1] = wrong
        cache = case[f"{name}_cache"]
        cache[0, :62] = cache[0, 75:] = cache[1, 9:] = wrong
    given, options = case.moved(device)
    out, lse = ops.tree_attention(*given, **options, return_lse=True)
    others = [0, 2, 3, 4]
    assert torch.equal(out.cpu()[:, others], expected[:, others])
    assert torch.equal(lse.cpu()[:, others], expected_lse[:, others])
    assert out[:, 1].isnan().all() or wrong == math.inf


def test_a_nan_stays_in_its_row(device, generator):
    case = make_case(generator, [70, 40, 5])
    expected, _ = check(device, case)
    case["key_cache"][1, 3, 1, 7] = math.nan
    given, options = case.moved(device)
    out = ops.tree_attention(*given, **options).cpu()
    assert torch.equal(out[[0, 2]], expected[[0, 2]])
    # Query heads 0 and 1 use key head 0.
    assert torch.equal(out[1, :, :2], expected[1, :, :2]) and out[1, :, 2:].isnan().all()


@pytest.mark.parametrize("factor", [2.0**-13, 2.0**5, 2.0**13, 2.0**25])
@pytest.mark.parametrize("rising", [False, True])
def test_scores_of_any_size(device, factor, rising, generator):
    # Scores that grow or shrink along the context: the running maximum moves in every block, or the
    # weights of all later blocks are too small for float32.
    case = make_case(generator, [60 if is_simulated(device) else 1200], tokens=2, heads=(2, 1))
    length = case["key_cache"].shape[1]
    # Products and sums are exact in float32; turned into powers of two they may be rounded once.
    slope = torch.arange(length) / 2048
    slope = slope if rising else slope.flip(0)
    case.tensors["query"] = torch.ones(1, 2, 2, 64) * factor / 64
    case.tensors["key_cache"] = slope[None, :, None, None].expand(1, length, 1, 64).contiguous()
    case.options["scale"] = 1.0
    check(device, case, slack=factor * 2**-22)


@pytest.mark.parametrize("threads", [2, 5])
def test_the_number_of_threads_does_not_matter(threads, generator):
    # Large enough that threads are used, and that parts of a context go to different ones.
    parents = random_parents((9,), generator)
    case = make_case(generator, [2600, 900], tokens=9, heads=(4, 2), dim=128, parents=parents)
    given, options = case.moved("cpu")
    expected = ops.tree_attention(*given, **options)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        for _ in range(3):
            given, options = case.moved("cpu")
            assert torch.equal(ops.tree_attention(*given, **options), expected)
    finally:
        torch.set_num_threads(before)


def check_every_kind():
    generator = torch.Generator().manual_seed(3)
    for dtype in FLOATS:
        for heads, dim in (((5, 1), 80), ((4, 4), 64), ((2, 1), 256)):
            case = make_case(generator, [150, 40], heads=heads, dim=dim, dtype=dtype, window=90)
            check("cpu", case)
        check("cpu", make_case(generator, [600, 3], dtype=dtype, softcap=3.0))


@pytest.mark.parametrize("isa", ["base", "v3"])
def test_every_instruction_set(isa):
    code = (
        "import torch; torch.set_num_threads(1)\n"
        "from tests.test_tree_attention_edges import check_every_kind\n"
        "from via_ext import build_info\n"
        "check_every_kind(); print(build_info()['cpu_isa'])"
    )
    environment = {**os.environ, "VIA_EXT_CPU_ISA": isa, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    if done.stdout.strip() != isa:
        pytest.skip(f"no {isa} here")


def test_the_result_of_verify_gives_the_parents(device, generator):
    # verify counts nodes from 0 below the root; as new tokens the root comes first.
    nodes = torch.tensor([-1, -1, 0, 2])
    parents = torch.cat([torch.tensor([-1]), nodes + 1])
    case = make_case(generator, [12], tokens=5, parents=parents)
    out, _ = check(device, case)
    alone = make_case(generator, [12], tokens=4)
    path = [0, 1, 3, 4]  # root, then nodes 0, 2, 3
    for name in ("query", "key", "value"):
        alone.tensors[name] = case[name][:, path]
    for name in ("key_cache", "value_cache"):
        alone.tensors[name] = case[name]
    chain, _ = check(device, alone)
    torch.testing.assert_close(out[:, path], chain, rtol=1e-5, atol=1e-6)
