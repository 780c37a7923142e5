# SPDX-License-Identifier: Apache-2.0
"""tree_attention: what a token sees, the numbers, and what stays untouched."""

import pytest
import torch

from tests.attention_cases import FLOATS, check, make_case, paged, random_parents
from tests.simulation import is_simulated
from via_ext import ops

SHAPES = [((4, 4), 64), ((6, 2), 80), ((3, 1), 96), ((8, 2), 128), ((2, 1), 256), ((14, 2), 64)]


def contexts(device, *lengths):
    """Lengths that cross the blocks of every back end; short ones in the simulation."""
    return [min(n, 70) for n in lengths] if is_simulated(device) else list(lengths)


def seen_by_op(device, context, parents, capacity=60, **options):
    """Which positions each token sees: a value is the unit vector of its position."""
    tokens = len(parents)
    values = torch.eye(64)[None, :, None].to(device)
    zeros = torch.zeros(1, capacity, 1, 64, device=device)
    cache = values[:, :capacity].clone()
    out = ops.tree_attention(
        *(torch.zeros(1, tokens, 1, 64, device=device), zeros[:, :tokens].clone()),
        *(values[:, context : context + tokens].clone(), zeros, cache),
        torch.tensor([context], device=device),
        parents=torch.tensor(parents, device=device),
        **options,
    )
    assert torch.equal(cache, values[:, :capacity])
    shares = out[0, :, 0].cpu()
    for share in shares:
        torch.testing.assert_close(share[share > 0], (1 / (share > 0).sum()).expand(64)[share > 0])
    return [set(share.nonzero()[:, 0].tolist()) for share in shares]


def test_by_hand(device):
    #   0 -> 1 -> 3, 0 -> 2, and a second root 4
    parents = [-1, 0, 0, 1, -1]
    assert seen_by_op(device, 2, parents) == [
        {0, 1, 2},
        {0, 1, 2, 3},
        {0, 1, 2, 4},
        {0, 1, 2, 3, 5},
        {0, 1, 6},
    ]
    # Positions: 2, 3, 3, 4, 2. A window of two sees the own one and the one before.
    assert seen_by_op(device, 2, parents, window=2) == [{1, 2}, {2, 3}, {2, 4}, {3, 5}, {1, 6}]
    assert seen_by_op(device, 2, parents, window=1) == [{2}, {3}, {4}, {5}, {6}]
    assert seen_by_op(device, 0, parents, window=3) == [{0}, {0, 1}, {0, 2}, {0, 1, 3}, {4}]


@pytest.mark.parametrize("window", [None, 1, 3, 20, 43, 2**62, 2**63 - 1])
def test_windows_over_the_context_and_the_tree(device, window, generator):
    parents = random_parents((15,), generator).tolist()
    context, depth, paths = 40, [], []
    for i, parent in enumerate(parents):
        depth.append(0 if parent < 0 else depth[parent] + 1)
        paths.append({i} | (paths[parent] if parent >= 0 else set()))
    text = [*range(context), *(context + d for d in depth)]
    expected = []
    for i, path in enumerate(paths):
        candidates = [*range(context), *(context + j for j in path)]
        nearest = -1 if window is None else text[context + i] - window
        expected.append({p for p in candidates if text[p] > nearest})
    assert seen_by_op(device, context, parents, window=window) == expected


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("heads", "dim"), SHAPES)
def test_against_the_reference(device, dtype, heads, dim, generator):
    lengths = contexts(device, 0, 700, 129)
    parents = random_parents((3, 6), generator)
    case = make_case(
        generator, lengths, tokens=6, heads=heads, dim=dim, dtype=dtype, parents=parents
    )
    check(device, case)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(
    "options",
    [
        {"scale": 0.5},
        {"softcap": 2.0},
        {"softcap": 50.0, "scale": 1.0},
        {"window": 3},
        {"window": 100, "softcap": 5.0},
        {"window": 600},
    ],
    ids=str,
)
def test_options(device, dtype, options, generator):
    lengths = contexts(device, 640, 77)
    check(device, make_case(generator, lengths, dtype=dtype, **options))


@pytest.mark.parametrize("tokens", [1, 2, 7, 16, 64, 65, 128])
def test_token_counts(device, tokens, generator):
    parents = random_parents((tokens,), generator)
    # A chain in the middle, so that paths are longer than a block.
    parents[tokens // 8 :] = torch.arange(tokens // 8, tokens) - 1
    lengths = contexts(device, 66, 3)
    check(device, make_case(generator, lengths, tokens=tokens, heads=(2, 1), parents=parents))


@pytest.mark.parametrize("page_size", [1, 2, 16, 64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_paged_is_contiguous(device, page_size, dtype, generator):
    case = make_case(generator, contexts(device, 200, 65, 0), dtype=dtype, window=150)
    pages = paged(case, page_size, generator)
    plain_out, plain_lse = check(device, case)
    out, lse = check(device, pages)
    assert torch.equal(out, plain_out) and torch.equal(lse, plain_lse)


@pytest.mark.parametrize("id_dtype", [torch.int32, torch.int64])
def test_ragged(device, id_dtype, generator):
    case = make_case(
        generator,
        [3, 20, 0, 9],
        tokens=6,
        num_tokens=torch.tensor([0, 6, 1, 4], dtype=id_dtype),
        parents=random_parents((6,), generator).to(id_dtype),
    )
    # Parents of tokens that do not count may be anything.
    case.options["parents"] = case.options["parents"].repeat(4, 1)
    case.options["parents"][3, 4:] = 77
    case.options["parents"][0] = -9
    case.tensors["context_lens"] = case["context_lens"].to(id_dtype)
    out, lse = check(device, case)
    assert not out[0].any() and not out[2, 1:].any() and out[3, :4].any(-1).all()
    assert (lse[3, 4:] == -torch.inf).all()


def test_exactly_full(device, generator):
    for size in (1, 5):
        case = make_case(generator, [11 - size, 0], tokens=size, capacity=11)
        out, _ = check(device, case)
        assert out.any(-1).all()


def test_hugging_face_layout_and_views(device, generator):
    case = make_case(generator, [21, 4], tokens=3)
    expected = check(device, case)
    for name in ("query", "key", "value", "key_cache", "value_cache"):
        case.tensors[name] = case[name].transpose(1, 2).contiguous().transpose(1, 2)
    for mine, theirs in zip(check(device, case), expected, strict=True):
        assert torch.equal(mine, theirs)


def test_nothing_outside_the_views_is_written(device, generator):
    case = make_case(generator, [9, 2], tokens=3, capacity=16)
    # Keys and values side by side, in every second row of a larger arena.
    arena = torch.full((4, 20, 2, 2, 96), 7.0)
    views = [arena[::2, 3:19, kind, :, 8:72] for kind in (0, 1)]
    for view, name in zip(views, ("key_cache", "value_cache"), strict=True):
        view.copy_(case[name])
    given, options = case.moved(device)
    moved = arena.to(device)
    caches = [moved[::2, 3:19, kind, :, 8:72] for kind in (0, 1)]
    expected, _ = check(device, case)
    out = ops.tree_attention(*given[:3], *caches, given[5], **options)
    assert torch.equal(out.cpu(), expected)
    for b, context in enumerate([9, 2]):
        for view, name in zip(views, ("key", "value"), strict=True):
            view[b, context : context + 3] = case[name][b]
    assert torch.equal(moved.cpu(), arena)


def test_a_row_does_not_depend_on_the_batch(device, generator):
    lengths = contexts(device, 5, 1300, 600, 64)
    parents = random_parents((4, 7), generator)
    counts = torch.tensor([7, 7, 3, 5])
    case = make_case(
        generator, lengths, tokens=7, heads=(6, 2), parents=parents, num_tokens=counts, window=640
    )
    given, options = case.moved(device)
    together, lse = ops.tree_attention(*given, **options, return_lse=True)
    for b in range(4):
        # Alone, and without the padding.
        count = int(counts[b])
        given, options = case.moved(device)
        alone, alone_lse = ops.tree_attention(
            *(tensor[b : b + 1, :count] for tensor in given[:3]),
            *(tensor[b : b + 1, : lengths[b] + count] for tensor in given[3:5]),
            given[5][b : b + 1],
            parents=options["parents"][b, :count],
            window=640,
            return_lse=True,
        )
        assert torch.equal(alone[0], together[b, :count])
        assert torch.equal(alone_lse[0], lse[b, :count])


def test_chain_is_the_default(device, generator):
    case = make_case(generator, [6, 30], tokens=4)
    expected = check(device, case)
    case.options["parents"] = torch.arange(-1, 3)
    for mine, theirs in zip(check(device, case), expected, strict=True):
        assert torch.equal(mine, theirs)


def test_no_rows_and_no_tokens(device):
    for batch, tokens in ((0, 3), (2, 0)):
        empty = torch.empty(batch, tokens, 2, 64, device=device)
        caches = [torch.ones(batch, 4, 2, 64, device=device) for _ in range(2)]
        lengths = torch.zeros(batch, dtype=torch.int64, device=device)
        out, lse = ops.tree_attention(empty, empty, empty, *caches, lengths, return_lse=True)
        assert out.shape == empty.shape and lse.shape == (batch, tokens, 2)
        assert all((cache == 1).all() for cache in caches)
