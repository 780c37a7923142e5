# SPDX-License-Identifier: Apache-2.0
"""compat.flashinfer: the published cases by their numbers, the law, counters, seeds, bad rows."""

import pytest
import torch

from tests import simulation
from tests.compat_law import assert_follows, samples
from via_ext.compat.flashinfer import chain_speculative_sampling

Q = torch.tensor([[[0.1, 0.2, 0.3, 0.4], [0.2, 0.3, 0.4, 0.1]]])
IDS = torch.tensor([[2, 1]])
P = torch.tensor([[[0, 0.1, 0.6, 0.3], [1, 0, 0, 0], [0.7, 0.1, 0.1, 0.1]]])


def on(device, *tensors):
    return tuple(tensor.to(device) for tensor in tensors)


def random_rows(*shape, power=1):
    rows = torch.rand(*shape) ** power
    return rows / rows.sum(-1, keepdim=True)


@pytest.mark.parametrize("seed", [None, 0, 7, 2**64 - 1])
@pytest.mark.parametrize("ids", [IDS, IDS.int()])
def test_documentation_example(device, seed, ids):
    tokens, accepted, emitted = chain_speculative_sampling(*on(device, Q, ids, P), seed=seed)
    assert tokens.dtype == accepted.dtype == emitted.dtype == torch.int32
    assert tokens.tolist() == [[2, 0, -1]]
    assert (accepted.tolist(), emitted.tolist()) == ([1], [1])


@pytest.mark.parametrize("steps", [1, 3, 7])
def test_one_hot_targets_keep_every_draft(device, steps):
    batch, vocab = simulation.scaled(19, device, 3), 111
    ids = torch.randint(vocab, (batch, steps + 1))
    target = torch.zeros(batch, steps + 1, vocab).scatter_(2, ids[..., None], 1.0)
    draft = random_rows(batch, steps, vocab)
    counters = [torch.full((batch,), 5, dtype=torch.int32, device=device) for _ in range(2)]
    arguments = on(device, draft, ids[:, :-1], target)
    tokens, accepted, emitted = chain_speculative_sampling(*arguments, *counters)
    assert torch.equal(tokens.cpu(), ids.int())
    assert accepted is counters[0] and emitted is counters[1]
    assert accepted.tolist() == emitted.tolist() == [5 + steps] * batch


@pytest.mark.parametrize("steps", [1, 5])
def test_outputs_hang_together(device, steps):
    batch, vocab = simulation.scaled(99, device, 6), 500
    ids = torch.randint(vocab, (batch, steps))
    target, draft = random_rows(batch, steps + 1, vocab), random_rows(batch, steps, vocab)
    tokens, accepted, emitted = on(
        "cpu", *chain_speculative_sampling(*on(device, draft, ids, target))
    )
    assert torch.equal(emitted + 1, (tokens != -1).sum(1))
    assert (accepted >= emitted).all()
    assert (tokens < vocab).all()
    for row, count in enumerate(emitted.tolist()):
        assert tokens[row, :count].tolist() == ids[row, :count].tolist()
        assert (tokens[row, count + 1 :] == -1).all()


def test_accepted_counts_drafts_after_the_first_failure(device):
    # Draft 0 fails for any coin, draft 1 passes for any: accepted 1, emitted 0.
    target = torch.tensor([[[0.0, 1.0], [1.0, 0.0], [0.5, 0.5]]])
    draft = torch.full((1, 2, 2), 0.5)
    tokens, accepted, emitted = chain_speculative_sampling(
        *on(device, draft, torch.tensor([[0, 0]]), target)
    )
    assert tokens.tolist() == [[1, -1, -1]]
    assert (accepted.tolist(), emitted.tolist()) == ([1], [0])


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_counters_accumulate_in_place(device, dtype):
    counters = [torch.tensor([3], dtype=dtype, device=device) for _ in range(2)]
    for _ in range(2):
        chain_speculative_sampling(*on(device, Q, IDS, P), *counters)
    assert [counter.tolist() for counter in counters] == [[5], [5]]


def test_every_position_follows_the_target(device):
    batch, vocab = samples(65536, device), 16
    draft, target = random_rows(2, vocab, power=3), random_rows(3, vocab, power=3)
    ids = torch.multinomial(draft, batch, replacement=True).T.contiguous()
    arguments = (draft.expand(batch, -1, -1), ids, target.expand(batch, -1, -1))
    tokens, accepted, emitted = on(
        "cpu", *chain_speculative_sampling(*on(device, *arguments), seed=20, offset=4)
    )
    assert_follows(tokens[:, 0], target[0], "first")
    assert_follows(tokens[emitted >= 1, 1], target[1], "second")
    assert_follows(tokens[emitted == 2, 2], target[2], "bonus")
    passes = torch.minimum(draft, target[:2]).sum(-1).double()
    expected = torch.stack([1 - passes[0], passes[0] * (1 - passes[1]), passes.prod()])
    assert_follows(emitted, expected, "emitted")
    mean, spread = passes.sum(), (passes * (1 - passes)).sum().sqrt() / batch**0.5
    assert abs(accepted.double().mean() - mean) < 6 * spread


def test_seeds_are_stateless(device):
    batch, vocab = simulation.scaled(12, device, 6), 40
    ids = torch.randint(vocab, (batch, 3))
    arguments = on(
        device, random_rows(1, 3, vocab).expand(batch, -1, -1), ids, random_rows(batch, 4, vocab)
    )

    def run(**given):
        return [part.tolist() for part in chain_speculative_sampling(*arguments, **given)]

    scalar = run(seed=11, offset=8)
    assert scalar == run(seed=11, offset=8) == run(seed=11, offset=8, deterministic=False)
    assert run(seed=11) == run(seed=11, offset=0)
    assert run(seed=11, offset=12) != scalar and run(seed=12, offset=8) != scalar
    for length in (1, batch):
        seed = torch.full((length,), 11, dtype=torch.int64, device=device)
        assert run(seed=seed, offset=torch.full_like(seed, 8)) == scalar
    seeds = torch.arange(batch, dtype=torch.int64, device=device) * 5
    mixed = run(seed=seeds, offset=torch.zeros_like(seeds))[0]
    for row in range(0, batch, 2):
        assert mixed[row] == run(seed=row * 5)[0][row]
    fewer = chain_speculative_sampling(*(a[:4] for a in arguments), seed=11, offset=8)
    assert fewer[0].tolist() == scalar[0][:4]


def test_rows_of_one_seed_are_independent(device):
    batch = simulation.scaled(64, device, 24)
    uniform = torch.full((batch, 2, 256), 1 / 256)
    arguments = on(device, uniform[:, :1], torch.full((batch, 1), -1), uniform)
    tokens = chain_speculative_sampling(*arguments, seed=3)[0][:, 0]
    assert len(set(tokens.tolist())) > batch // 2


def test_generators(device):
    batch, vocab = 8, 50
    arguments = on(
        device,
        random_rows(batch, 2, vocab),
        torch.randint(vocab, (batch, 2)),
        random_rows(batch, 3, vocab),
    )
    runs = [
        chain_speculative_sampling(
            *arguments, generator=torch.Generator(device).manual_seed(number)
        )[0].tolist()
        for number in (5, 5, 6)
    ]
    assert runs[0] == runs[1] != runs[2]
    torch.manual_seed(1)
    first = chain_speculative_sampling(*arguments)[0]
    torch.manual_seed(1)
    assert torch.equal(first, chain_speculative_sampling(*arguments)[0])


@pytest.mark.parametrize("bad", [-1, 4, 10**6])
def test_ids_outside_the_vocabulary_are_rejected_unread(device, bad):
    # Without a draft there is nothing to take out: the target row itself is drawn from.
    ids = torch.tensor([[bad, 1], [2, bad]])
    target = torch.zeros(2, 3, 4)
    target[:, 0, 2] = target[:, 1, 3] = target[:, 2, 0] = 1.0
    draft = torch.full((2, 2, 4), 0.25)
    tokens, accepted, emitted = chain_speculative_sampling(*on(device, draft, ids, target), seed=1)
    assert tokens.tolist() == [[2, -1, -1], [2, 3, -1]]
    assert (accepted.tolist(), emitted.tolist()) == ([0, 1], [0, 1])


@pytest.mark.parametrize("value", [float("nan"), 0.0, -1.0])
@pytest.mark.parametrize("which", ["draft", "target", "both"])
def test_rows_without_mass_give_ids_of_the_vocabulary(device, value, which):
    batch, steps, vocab = 3, 2, 5
    ids = torch.randint(vocab, (batch, steps))
    draft, target = random_rows(batch, steps, vocab), random_rows(batch, steps + 1, vocab)
    whole = chain_speculative_sampling(*on(device, draft, ids, target), seed=2)[0].tolist()
    if which != "target":
        draft[1] = value
    if which != "draft":
        target[1] = value
    tokens, _, emitted = chain_speculative_sampling(*on(device, draft, ids, target), seed=2)
    assert ((tokens >= -1) & (tokens < vocab)).all()
    assert torch.equal(emitted + 1, (tokens != -1).sum(1))
    assert tokens[0].tolist() == whole[0] and tokens[2].tolist() == whole[2]
    if which != "draft":
        assert tokens[1].tolist() == [0, -1, -1]


def test_equal_rows_never_leave_the_vocabulary(device):
    rows = random_rows(30, 2, 7)
    ids = torch.randint(7, (30, 1))
    tokens = chain_speculative_sampling(*on(device, rows[:, :1], ids, rows), seed=9)[0]
    assert torch.equal(tokens[:, :1].cpu(), ids.int())  # u q < p holds for every u < 1
    assert ((tokens >= 0) & (tokens < 7)).all()


def test_strides_and_dtypes(device):
    batch, steps, vocab = 4, 3, 33
    ids = torch.randint(vocab, (batch, steps))
    draft = random_rows(batch, steps, vocab).bfloat16()
    target = random_rows(batch, steps + 1, vocab).bfloat16()
    arguments = on(device, draft, ids, target)
    expected = chain_speculative_sampling(*arguments, seed=4)[0]
    inputs = [tensor.clone() for tensor in arguments]
    apart = [tensor.transpose(0, -1).contiguous().transpose(0, -1) for tensor in arguments]
    assert apart[0].stride(-1) != 1
    wide = [torch.cat([t, t], 1)[:, : t.shape[1]] for t in arguments]
    for variant in (apart, wide, [arguments[0].float(), ids.int().to(device), target.double()]):
        tensors = [tensor.to(device) for tensor in variant]
        assert torch.equal(chain_speculative_sampling(*tensors, seed=4)[0], expected)
    for tensor, kept in zip(arguments, inputs, strict=True):
        assert torch.equal(tensor, kept)


def test_empty_sizes(device):
    rows = random_rows(2, 1, 5)
    tokens, accepted, emitted = chain_speculative_sampling(
        *on(device, rows[:, :0], torch.zeros(2, 0, dtype=torch.int64), rows)
    )
    assert tokens.shape == (2, 1) and (tokens >= 0).all()
    assert accepted.tolist() == emitted.tolist() == [0, 0]
    none = chain_speculative_sampling(*(t[:0] for t in on(device, Q, IDS, P)))
    assert [tuple(part.shape) for part in none] == [(0, 3), (0,), (0,)]
