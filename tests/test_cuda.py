# SPDX-License-Identifier: Apache-2.0
"""What only a GPU can show: streams, CUDA graphs, no synchronisation, devices, large offsets."""

from contextlib import contextmanager

import pytest
import torch

from tests.conftest import devices
from tests.verify_runner import assert_same, prefilled, to_device
from via_ext import ops, reference

pytestmark = pytest.mark.skipif(
    "cuda" not in devices(), reason="needs a GPU and a build with CUDA kernels"
)
BATCH, NODES, SIZE, POSITIONS = 3, 6, 5000, 40
SLEEP_CYCLES = 200_000_000  # about 0.1 s: longer than the host needs for what follows


def verify_inputs(number, rule="sample"):
    """Arguments of one verify call on the CPU; every number gives another walk."""
    generator = torch.Generator().manual_seed(number)
    parents = torch.tensor([-1, -1, 0, 0, 2, 4])
    ids = torch.randint(0, SIZE, (BATCH, NODES), generator=generator)
    logits = torch.randn(BATCH, NODES + 1, SIZE, generator=generator)
    for node, parent in enumerate(parents.tolist()):
        peak = torch.randint(0, 3, (BATCH,), generator=generator) * 6.0
        logits[range(BATCH), parent + 1, ids[:, node]] += peak
    coins = torch.rand(BATCH, NODES + 1, generator=generator)
    tensors = {
        "draft_token_ids": ids,
        "logits": logits,
        "parents": parents,
        "uniform_samples": coins,
    }
    return tensors, {"rule": rule, "temperature": 0.8, "top_k": 50}


def on_gpu(tensors):
    return {name: value.cuda() for name, value in tensors.items()}


def check_verify(result, number, rule="sample"):
    tensors, options = verify_inputs(number, rule)
    assert_same(to_device(result, "cpu"), reference.verify(**tensors, **options), f"{number}")


def compact_inputs(number):
    """Caches, context lengths, path and counts on the CPU."""
    generator = torch.Generator().manual_seed(number)
    caches = [torch.randn(BATCH, POSITIONS, 2, 64, generator=generator) for _ in range(4)]
    counts = torch.randint(0, NODES + 1, (BATCH,), generator=generator, dtype=torch.int32)
    path = torch.full((BATCH, NODES), -1, dtype=torch.int32)
    for b, count in enumerate(counts.tolist()):
        path[b, :count] = torch.randperm(NODES, generator=generator)[:count].sort().values
    contexts = torch.randint(0, POSITIONS - NODES - 1, (BATCH,), generator=generator)
    return caches, contexts, path, counts


def check_compact(caches, number):
    expected, *small = compact_inputs(number)
    reference.compact_kv(expected, *small)
    for got, wanted in zip(caches, expected, strict=True):
        assert torch.equal(got.cpu(), wanted)


def copy_into(targets, sources):
    for target, source in zip(targets, sources, strict=True):
        target.copy_(source)


@contextmanager
def no_synchronisation():
    """Inside, an operation of torch that waits for the device raises."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_results_follow_the_stream():
    # The inputs are written on the same side stream, after a long sleep.
    tensors, options = verify_inputs(1)
    ready = on_gpu(tensors)
    caches, *small = compact_inputs(1)
    ready_caches, ready_small = [c.cuda() for c in caches], [t.cuda() for t in small]
    late = {name: torch.zeros_like(value) for name, value in ready.items()}
    late_caches, late_small = map(
        lambda values: [torch.zeros_like(value) for value in values], (ready_caches, ready_small)
    )
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        ops.verify(**ready, **options)  # allocates the work space of the stream
        torch.cuda._sleep(SLEEP_CYCLES)
        copy_into(late.values(), ready.values())
        copy_into([*late_caches, *late_small], [*ready_caches, *ready_small])
        result = ops.verify(**late, **options)
        ops.compact_kv(late_caches, *late_small)
        # Both calls came back while the stream was still asleep.
        assert not stream.query()
    stream.synchronize()
    check_verify(result, 1)
    check_compact(late_caches, 1)


@pytest.mark.parametrize("rule", ["route", "greedy", "sample"])
def test_no_call_waits_for_the_device(rule):
    tensors, options = verify_inputs(2, rule)
    given = on_gpu(tensors)
    caches, *small = compact_inputs(2)
    caches, small = [c.cuda() for c in caches], [t.cuda() for t in small]
    stream = torch.cuda.current_stream()
    ops.verify(**given, **options)  # allocates the work space
    with no_synchronisation():
        torch.cuda._sleep(SLEEP_CYCLES)
        result = ops.verify(**given, **options)
        ops.compact_kv(caches, *small)
        assert not stream.query()
    check_verify(result, 2, rule)
    check_compact(caches, 2)


@pytest.mark.parametrize("warm", [True, False])
def test_a_graph_replays_with_new_values(warm):
    tensors, options = verify_inputs(3)
    given = on_gpu(tensors)
    caches, *small = compact_inputs(3)
    caches, small = [c.cuda() for c in caches], [t.cuda() for t in small]
    out = prefilled(BATCH, NODES, "cuda", ratios=False)
    if warm:
        ops.verify(**given, **options, out=out)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        assert ops.verify(**given, **options, out=out) is out
        # The second call of a graph uses the same work space.
        again = ops.verify(**given, **options)
        ops.compact_kv(caches, *small)
    for number in range(4, 14):
        copy_into(given.values(), verify_inputs(number)[0].values())
        fresh, *fresh_small = compact_inputs(number)
        copy_into([*caches, *small], [*fresh, *fresh_small])
        graph.replay()
        # Work outside the graph, on the same stream, has a work space of its own.
        ops.verify(**on_gpu(verify_inputs(99)[0]), **options)
        torch.cuda.synchronize()
        check_verify(out, number)
        check_verify(again, number)
        check_compact(caches, number)


def test_out_keeps_its_addresses_and_may_be_used_again():
    out = prefilled(BATCH, NODES, "cuda", ratios=True)
    addresses = [field.data_ptr() for field in out]
    for number in range(20, 25):
        tensors, options = verify_inputs(number, "route")
        assert ops.verify(**on_gpu(tensors), **options, out=out) is out
        check_verify(out, number, "route")
    assert [field.data_ptr() for field in out] == addresses


def test_streams_have_work_spaces_of_their_own():
    # Interleaved calls of different sizes on four streams, nothing in between.
    streams = [torch.cuda.Stream() for _ in range(4)]
    given = {number: (on_gpu(verify_inputs(number)[0])) for number in range(30, 50)}
    torch.cuda.synchronize()
    results = {}
    for number, tensors in given.items():
        with torch.cuda.stream(streams[number % 4]):
            results[number] = ops.verify(**tensors, **verify_inputs(number)[1])
    torch.cuda.synchronize()
    for number, result in results.items():
        check_verify(result, number)


def draft_inputs(number):
    """Logits, seeds and positions on the CPU."""
    generator = torch.Generator().manual_seed(number)
    keys = torch.randint(0, 1000, (2, BATCH), generator=generator)
    return torch.randn(BATCH, SIZE, generator=generator), *keys


def test_a_graph_of_draws_into_columns_replays_with_new_values():
    logits, seed, position = (value.cuda() for value in draft_inputs(70))
    tokens = torch.zeros(BATCH, 3, dtype=torch.int64, device="cuda")
    probs = torch.zeros(BATCH, 2, SIZE, device="cuda")
    key, options = {"seed": seed, "position": position}, {"temperature": 0.8, "top_k": 50}

    def draw():
        for column in range(2):
            out = (tokens[:, column], probs[:, column])
            ops.draft_sample(logits, column=column, out=out, **key, **options)
        out = (tokens[:, 2], None)
        ops.draft_sample(logits, temperature=0.0, return_probs=False, out=out)

    draw()  # allocates the work space
    with no_synchronisation():
        draw()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        draw()
    for number in range(71, 75):
        fresh = draft_inputs(number)
        copy_into((logits, seed, position), fresh)
        graph.replay()
        torch.cuda.synchronize()
        key = {"seed": fresh[1], "position": fresh[2]}
        for column in range(2):
            token, law = reference.draft_sample(fresh[0], column=column, **key, **options)
            assert torch.equal(tokens[:, column].cpu(), token)
            torch.testing.assert_close(probs[:, column].cpu(), law, rtol=2e-6, atol=1e-9)
        assert torch.equal(tokens[:, 2].cpu(), fresh[0].argmax(-1))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_tensors_of_another_device():
    tensors, options = verify_inputs(60)
    given = {name: value.to("cuda:1") for name, value in tensors.items()}
    caches, *small = compact_inputs(60)
    caches, small = [c.to("cuda:1") for c in caches], [t.to("cuda:1") for t in small]
    with torch.cuda.device(0):
        result = ops.verify(**given, **options)
        ops.compact_kv(caches, *small)
        assert torch.cuda.current_device() == 0
        assert torch.ones(1, device="cuda").device.index == 0
    assert result.path.device == torch.device("cuda:1")
    check_verify(result, 60)
    check_compact(caches, 60)


def test_offsets_beyond_two_gib():
    positions, width = 5, 2**29  # float16: 1 GiB per position
    if torch.cuda.mem_get_info()[0] < 8 * 2**30:
        pytest.skip("needs 8 GiB of free GPU memory")
    cache = torch.zeros(1, positions, 1, width, dtype=torch.float16, device="cuda")
    for position in range(positions):
        cache[0, position] = position
    path = torch.tensor([[1, 2, -1]], dtype=torch.int32, device="cuda")
    counts = torch.tensor([2], device="cuda")
    ops.compact_kv([cache], torch.tensor([1], device="cuda"), path, counts)
    for position, value in enumerate([0, 1, 3, 4, 4]):
        assert bool((cache[0, position] == value).all()), position


@pytest.mark.parametrize("caches", [8, 9, 80, 81, 512, 513, 1100])
def test_any_number_of_caches(caches, generator):
    # Every size of the kernel's table, and more caches than one launch takes.
    path = torch.tensor([[1, 2]], dtype=torch.int32)
    counts, contexts = torch.tensor([2]), torch.tensor([1])
    expected = list(torch.randn(caches, 1, 6, 2, 8, generator=generator).unbind(0))
    given = [cache.cuda() for cache in expected]
    ops.compact_kv(given, contexts.cuda(), path.cuda(), counts.cuda())
    reference.compact_kv(expected, contexts, path, counts)
    for got, wanted in zip(given, expected, strict=True):
        assert torch.equal(got.cpu(), wanted)
