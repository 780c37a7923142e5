# SPDX-License-Identifier: Apache-2.0
"""compact_kv: contiguous, strided and paged caches of several dtypes, and saved hidden rows."""

import pytest
import torch

from via_ext import ops, reference

DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.int8, torch.float64]


def numbered(*shape, dtype=torch.float32, start=0):
    """A cache in which every element of float64 precision differs, as far as the dtype allows."""
    count = torch.Size(shape).numel()
    return (torch.arange(start, start + count).reshape(shape) % 127).to(dtype)


def random_paths(batch, nodes, generator):
    """Ascending paths of random length, padded -1."""
    path = torch.full((batch, nodes), -1, dtype=torch.int32)
    counts = torch.randint(0, nodes + 1, (batch,), generator=generator, dtype=torch.int32)
    for b in range(batch):
        chosen = torch.randperm(nodes, generator=generator)[: int(counts[b])]
        path[b, : int(counts[b])] = chosen.sort().values
    return path, counts


def check(device, caches, contexts, path, counts, page_table=None):
    """The op on copies with the same layout, against the reference; inputs unchanged."""
    small = [contexts, path, counts, page_table]
    moved = [None if x is None else x.to(device) for x in small]
    given = [cache.clone(memory_format=torch.preserve_format).to(device) for cache in caches]
    ops.compact_kv(given, *moved[:3], page_table=moved[3])
    reference.compact_kv(caches, *small[:3], page_table=page_table)
    for result, expected in zip(given, caches, strict=True):
        assert torch.equal(result.cpu(), expected)
    for before, after in zip(small, moved, strict=True):
        assert before is after is None or torch.equal(before, after.cpu())
    return given


def test_by_hand(device):
    # Root at 2; nodes 0, 2, 3 kept: positions 3, 5, 6 -> 3, 4, 5. Row 1 keeps nothing.
    cache = torch.arange(16.0).reshape(2, 8, 1, 1).to(device)
    contexts = torch.tensor([2, 2], device=device)
    path = torch.tensor([[0, 2, 3, -1], [-1] * 4], dtype=torch.int32, device=device)
    ops.compact_kv([cache], contexts, path, torch.tensor([3, 0], dtype=torch.int32, device=device))
    assert cache[0, :, 0, 0].tolist() == [0, 1, 2, 3, 5, 6, 6, 7]
    assert cache[1, :, 0, 0].tolist() == list(range(8, 16))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("id_dtype", [torch.int32, torch.int64])
def test_contiguous(device, dtype, id_dtype, generator):
    path, counts = random_paths(5, 9, generator)
    contexts = torch.tensor([0, 3, 10, 6, 1]).to(id_dtype)
    caches = [numbered(5, 21, 3, 8, dtype=dtype, start=i) for i in range(4)]
    check(device, caches, contexts, path.to(id_dtype), counts.to(id_dtype))


def test_mixed_dtypes_shapes_and_hidden_rows(device, generator):
    # K and V of two layers with different heads, saved hidden states [B, S, 1, H], odd byte counts.
    path, counts = random_paths(4, 7, generator)
    caches = [
        numbered(4, 30, 2, 64, dtype=torch.bfloat16),
        numbered(4, 30, 2, 80, dtype=torch.bfloat16, start=1),
        numbered(4, 30, 1, 33, dtype=torch.float32, start=2),
        numbered(4, 30, 3, 5, dtype=torch.int8, start=3),
        numbered(4, 30, 1, 1, dtype=torch.float16, start=4),
    ]
    check(device, caches, torch.tensor([4, 0, 20, 9]), path, counts)


def test_hugging_face_layout(device, generator):
    # [B, H, T, D] enters transposed; also a slice of a larger arena with a gap between heads.
    path, counts = random_paths(3, 6, generator)
    contexts = torch.tensor([2, 5, 0])
    transposed = numbered(3, 4, 16, 8).transpose(1, 2)
    check(device, [transposed], contexts, path, counts)
    for place in (device,):
        arena = numbered(6, 20, 8, 16).to(place)
        before = arena.clone()
        view = arena[::2, 3:, ::2, :8]
        expected = view.cpu().clone()
        ops.compact_kv([view], *(x.to(place) for x in (contexts, path, counts)))
        reference.compact_kv([expected], contexts, path, counts)
        assert torch.equal(view.cpu(), expected)
        # Nothing outside the view was written.
        before[::2, 3:, ::2, :8] = view
        assert torch.equal(arena, before)


def test_layers_as_views_of_one_arena(device, generator):
    path, counts = random_paths(2, 5, generator)
    contexts = torch.tensor([1, 4])
    arena = numbered(3, 2, 12, 2, 4)
    check(device, list(arena.unbind(0)), contexts, path, counts)


@pytest.mark.parametrize("page_size", [1, 2, 4, 16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_paged(device, page_size, dtype, generator):
    path, counts = random_paths(4, 10, generator)
    contexts = torch.tensor([0, 3, 9, 14])
    pages_per_row = -(-32 // page_size)
    table = torch.randperm(4 * pages_per_row + 3, generator=generator)[: 4 * pages_per_row]
    table = table.reshape(4, pages_per_row).to(torch.int32)
    caches = [
        numbered(4 * pages_per_row + 3, page_size, 2, 8, dtype=dtype, start=i) for i in (0, 1)
    ]
    check(device, caches, contexts, path, counts, table)


@pytest.mark.parametrize(
    ("path", "count", "moved"),
    [
        ([1, 2, 3, 4], 4, 4),
        ([1, 2, 3, 4], 2, 2),
        ([1, 1, 3, 4], 4, 1),
        ([1, 3, 2, 4], 4, 2),
        ([1, -1, 3, 4], 4, 1),
        ([1, 2, 5, 4], 4, 2),
        ([-2, 2, 3, 4], 4, 0),
        ([1, 2, 3, 4], 0, 0),
        ([1, 2, 3, 4], -3, 0),
    ],
)
def test_paths_that_are_no_paths_stop_the_row(device, path, count, moved):
    cache = torch.arange(20.0).reshape(2, 10, 1, 1)
    expected = cache[0, :, 0, 0].tolist()
    for i in range(moved):
        expected[3 + i] = float(3 + path[i])
    rows = torch.tensor([[*path, -1], [1, -1, -1, -1, -1]], dtype=torch.int32)
    counts = torch.tensor([count, 1], dtype=torch.int32)
    given = check(device, [cache], torch.tensor([2, 2]), rows, counts)
    assert given[0][0, :, 0, 0].tolist() == expected
    assert given[0][1, 3, 0, 0].item() == 14.0


def test_counts_above_the_path_length(device):
    cache = torch.arange(10.0).reshape(1, 10, 1, 1)
    path = torch.tensor([[0, 2, -1]], dtype=torch.int32)
    given = check(device, [cache], torch.tensor([2]), path, torch.tensor([100]))
    assert given[0][0, :, 0, 0].tolist() == [0, 1, 2, 3, 5, 5, 6, 7, 8, 9]


@pytest.mark.parametrize(
    "context", [8, 9, 10, 1000, -1, -2, -50, 2**31 - 1, -(2**31), 2**63 - 1, -(2**63)]
)
def test_positions_outside_the_cache_are_not_touched(device, context):
    cache = torch.arange(20.0).reshape(2, 10, 1, 1)
    path = torch.tensor([[0, 2, -1], [0, 2, -1]], dtype=torch.int32)
    given = check(device, [cache], torch.tensor([context, 3]), path, torch.tensor([2, 2]))
    assert given[0][1, 5, 0, 0].item() == 16.0


def test_a_cache_without_elements_may_have_any_size(device):
    # Behind the last position, positions exceed int64.
    cache = torch.empty(1, 2**63 - 1, 1, 0, device=device)
    path = torch.tensor([[1, 2]], device=device)
    count = torch.tensor([2], device=device)
    for context in (2**63 - 2, 5):
        ops.compact_kv([cache], torch.tensor([context], device=device), path, count)
    assert cache.shape[1] == 2**63 - 1


@pytest.mark.parametrize("page", [-1, 6, 2**31 - 1])
def test_pages_out_of_range_stop_the_row(device, page):
    cache = numbered(6, 2, 1, 4)
    table = torch.tensor([[0, 1, page], [3, 4, 5]], dtype=torch.int32)
    path = torch.tensor([[1, 3, -1, -1], [1, 3, -1, -1]], dtype=torch.int32)
    check(device, [cache], torch.tensor([0, 0]), path, torch.tensor([2, 2]), table)


def test_no_nodes(device):
    cache = numbered(2, 5, 1, 4)
    empty = torch.empty(2, 0, dtype=torch.int32)
    check(device, [cache], torch.tensor([1, 1]), empty, torch.tensor([0, 0]))


def test_the_result_of_verify_can_be_used_as_it_is(device, generator):
    parents = torch.tensor([-1, -1, 1, 1, 3])
    ids = torch.randint(0, 4, (6, 5), generator=generator)
    logits = torch.randn(6, 6, 4, generator=generator)
    result = ops.verify(
        ids.to(device), logits.to(device), rule="greedy", parents=parents.to(device)
    )
    cache = numbered(6, 12, 2, 4)
    check(
        device,
        [cache],
        torch.tensor([0, 1, 2, 3, 4, 5]),
        result.path.cpu(),
        result.num_accepted.cpu(),
    )
