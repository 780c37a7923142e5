# SPDX-License-Identifier: Apache-2.0
"""compat.vllm.v1: the published cases by their numbers, the law, ragged and mixed batches."""

from types import SimpleNamespace

import pytest
import torch

from tests.compat_law import assert_follows, samples
from via_ext.compat import vllm
from via_ext.compat.vllm.v1 import rejection_sample


def metadata(temperature=None, *, generators=None, all_random=None):
    """What rejection_sample reads of vLLM's SamplingMetadata."""
    return SimpleNamespace(
        all_greedy=temperature is None and not all_random,
        all_random=temperature is not None if all_random is None else all_random,
        temperature=temperature,
        generators=generators or {},
    )


def run(drafts, target, bonus, sampling, device, *, draft=None, max_spec_len=None):
    """Ragged lists of drafts; rows flat, as vLLM has them."""
    counts = [len(row) for row in drafts]
    flat = torch.tensor([token for row in drafts for token in row], dtype=torch.int32)
    if sampling.temperature is not None:
        sampling.temperature = sampling.temperature.to(device)
    tokens = rejection_sample(
        flat.to(device),
        counts,
        max(counts) if max_spec_len is None else max_spec_len,
        torch.tensor(counts).cumsum(0).int().to(device),
        None if draft is None else draft.to(device),
        target.to(device),
        torch.tensor(bonus)[:, None].to(device),
        sampling,
    )
    assert tokens.dtype == torch.int32
    return tokens.tolist()


def peaked(rows, vocab=100):
    """Logits whose argmax is given, flat; the bonus, last of each row, has none."""
    tokens = torch.tensor([token for row in rows for token in row[:-1]], dtype=torch.int64)
    return torch.nn.functional.one_hot(tokens, vocab) * 200.0 - 100.0


TABLE = [
    ([[1, 2, 3]], [[1, 2, 3, 4]], [[1, 2, 3, 4]]),
    ([[1, 2, 3]], [[1, 5, 3, 4]], [[1, 5, -1, -1]]),
    ([[1, 2], [3]], [[1, 2, 5], [3, 4]], [[1, 2, 5], [3, 4, -1]]),
    ([[1]], [[1, 2]], [[1, 2]]),
    ([[]], [[5]], [[5]]),
    ([[1, 2, 3], [4, 5, 6]], [[1, 2, 7, 6], [4, 8, 6, 9]], [[1, 2, 7, -1], [4, 8, -1, -1]]),
    ([[1]], [[2, 3]], [[2, -1]]),
    ([[1, 2], [3, 4]], [[1, 5, 6], [3, 4, 7]], [[1, 5, -1], [3, 4, 7]]),
    ([[], [1, 2], []], [[7], [1, 2, 8], [9]], [[7, -1, -1], [1, 2, 8], [9, -1, -1]]),
]


@pytest.mark.parametrize(("drafts", "target", "expected"), TABLE)
@pytest.mark.parametrize("mode", ["greedy", "mixed-zero", "mixed-minus-one", "random"])
def test_table(device, drafts, target, expected, mode):
    logits, bonus = peaked(target), [row[-1] for row in target]
    if mode == "greedy":
        assert run(drafts, logits, bonus, metadata(), device) == expected
        return
    heat = {"random": 1.0, "mixed-zero": 0.0, "mixed-minus-one": -1.0}[mode]
    sampling = metadata(torch.full((len(drafts),), heat), all_random=mode == "random")
    assert run(drafts, logits.softmax(-1), bonus, sampling, device) == expected


def test_greedy_takes_logits_and_the_lowest_of_ties(device):
    logits = torch.tensor([[-5.0, -3.0, -3.0], [-2.0, -9.0, -2.0]])
    assert run([[1, 2]], logits, [7], metadata(), device) == [[1, 0, -1]]


def test_greedy_two_requests_of_ascend(device):
    target = [[10, 99, 100], [20, 22, 200]]
    expected = [[10, 99, -1], [20, 22, -1]]
    assert run([[10, 11], [20, 21]], peaked(target), [100, 200], metadata(), device) == expected


def test_both_pass_whatever_the_coins(device):
    # p/q is .8/.6 and .2/.1; the bonus lies outside this small vocabulary.
    draft = torch.tensor([[0, 0.6, 0, 0.4], [0.1, 0.2, 0.3, 0.4]])
    target = torch.tensor([[0, 0.8, 0, 0.2], [0.2, 0.1, 0.3, 0.4]])
    sampling = metadata(torch.ones(1))
    assert run([[1, 0]], target, [100], sampling, device, draft=draft) == [[1, 0, 100]]


@pytest.mark.parametrize("with_probs", [False, True])
def test_placeholders_are_rejected(device, with_probs):
    target = torch.tensor([[0.0, 0, 1], [0, 1, 0], [1, 0, 0]])
    draft = torch.full((3, 3), 1 / 3) if with_probs else None
    tokens = run([[-1] * 3], target, [100], metadata(torch.ones(1)), device, draft=draft)
    assert tokens == [[2, -1, -1, -1]]
    logits = peaked([[1, 99, 7, 9]])
    sampling = metadata(torch.ones(1), generators={0: torch.Generator(device).manual_seed(0)})
    assert run([[1, 99, -1]], logits.softmax(-1), [9], sampling, device) == [[1, 99, 7, -1]]


def test_mixed_requests(device):
    # Request 0 is greedy and refuses 1 for 9; request 1 is random and its drafts have all mass.
    target = torch.zeros(6, 10)
    target[0, 9], target[0, 1] = 0.6, 0.4
    target[1, 2] = target[2, 3] = 1.0
    target[3, 4] = target[4, 5] = target[5, 6] = 1.0
    sampling = metadata(torch.tensor([0.0, 1.0]), all_random=False)
    tokens = run([[1, 2, 3], [4, 5, 6]], target, [7, 8], sampling, device)
    assert tokens == [[9, -1, -1, -1], [4, 5, 6, 8]]


@pytest.mark.parametrize("with_probs", [False, True])
def test_law(device, with_probs):
    batch, vocab = samples(30000, device), 10
    draft = torch.softmax(torch.rand(vocab), -1)
    target = torch.softmax(torch.rand(2, vocab) * 2, -1)
    drafts = torch.multinomial(draft, 2 * batch, replacement=True).view(batch, 2)
    flat = draft.expand(2 * batch, -1) if with_probs else None
    sampling = metadata(torch.ones(batch))
    rows = target.repeat(batch, 1)
    tokens = torch.tensor(run(drafts.tolist(), rows, [0] * batch, sampling, device, draft=flat))
    assert_follows(tokens[:, 0], target[0], "first")
    assert_follows(tokens[tokens[:, 1] >= 0, 1], target[1], "second")


@pytest.mark.parametrize("steps", [1, 4])
def test_seeded_requests_repeat_in_any_batch(device, steps):
    vocab, batch = 100, 3
    target = torch.softmax(torch.rand(batch * steps, vocab), -1)
    drafts = torch.randint(vocab, (batch, steps)).tolist()

    def sample(rows):
        seeds = {
            i: torch.Generator(device).manual_seed(row) for i, row in enumerate(rows) if row != 1
        }
        flat = target.view(batch, steps, vocab)[rows].flatten(0, 1)
        sampling = metadata(torch.ones(len(rows)), generators=seeds)
        return run([drafts[row] for row in rows], flat, rows, sampling, device)

    whole = sample([0, 1, 2])
    assert sample([0, 1, 2])[0] == whole[0] and sample([2, 0]) == [whole[2], whole[0]]


def test_requests_without_drafts_take_no_numbers(device):
    generators = {i: torch.Generator(device).manual_seed(i) for i in range(2)}
    before = generators[1].get_state()
    target = torch.softmax(torch.rand(2, 8), -1)
    sampling = metadata(torch.ones(2), generators=generators)
    tokens = run([[1, 2], []], target, [3, 4], sampling, device)
    assert tokens[1] == [4, -1, -1]
    assert torch.equal(generators[1].get_state(), before)


@pytest.mark.parametrize("vocab", [100, 2049])
@pytest.mark.parametrize("with_probs", [False, True])
def test_recovered_tokens_stay_in_the_vocabulary(device, vocab, with_probs):
    # The only mass is the draft's own token, or none: still an id inside.
    target = torch.zeros(6, vocab)
    target[:3, 0] = 1.0
    draft = torch.softmax(torch.rand(6, vocab), -1) if with_probs else None
    if with_probs:
        draft[0] = target[4] = float("nan")
    sampling = metadata(torch.ones(2))
    tokens = run([[0, 0, 0]] * 2, target, [1, 1], sampling, device, draft=draft)
    assert tokens == [[0, 0, 0, 1], [0, -1, -1, -1]]


def test_counts_that_do_not_fit_are_cut(device):
    # Decreasing sums, as in one of vllm-ascend's cases: request 1 has no drafts then.
    target = torch.tensor([[0, 0.8, 0, 0.2], [0.2, 0.1, 0.3, 0.4], [0.9, 0.1, 0, 0]])
    draft = torch.tensor([[0, 0.6, 0, 0.4], [0.1, 0.2, 0.3, 0.4], [0.5, 0.5, 0, 0]])
    sampling = metadata(torch.ones(2).to(device))
    arguments = [
        torch.tensor([1, 0, 2]),
        [2, 1],
        3,
        torch.tensor([2, 1]),
        draft,
        target,
        torch.tensor([[100], [200]]),
    ]
    moved = [a.to(device) if isinstance(a, torch.Tensor) else a for a in arguments]
    assert rejection_sample(*moved, sampling).tolist() == [[1, 0, 100, -1], [200, -1, -1, -1]]
    moved[3] = torch.tensor([-5, 10**6]).to(device)
    tokens = rejection_sample(*moved, sampling)
    assert tokens[0].tolist() == [100, -1, -1, -1]


def test_strided_rows_and_the_common_name(device):
    target = torch.softmax(torch.rand(3, 66), -1)
    wide = torch.cat([target, target], 1).to(device)
    sampling = metadata(torch.ones(2), generators={})
    results = []
    for rows in (target.to(device), wide[:, :66], target.T.contiguous().T.to(device)):
        sampling.generators = {i: torch.Generator(device).manual_seed(i) for i in range(2)}
        sampling.temperature = torch.ones(2, device=device)
        results.append(
            vllm.rejection_sample(
                torch.tensor([1, 2, 3], device=device),
                [2, 1],
                2,
                torch.tensor([2, 3], device=device),
                None,
                rows,
                torch.tensor([8, 9], device=device),
                sampling,
            ).tolist()
        )
    assert results[0] == results[1] == results[2]
    assert vllm.rejection_sample_v1 is vllm.v1.rejection_sample
