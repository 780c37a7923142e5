# SPDX-License-Identifier: Apache-2.0
"""compat.vllm.v2: the published cases by their numbers, the law at every position, bad rows."""

import pytest
import torch

from tests import simulation
from tests.compat_law import assert_follows, samples
from via_ext.compat import vllm
from via_ext.compat.vllm.v2 import rejection_sample

V = 4096


def inputs(target, draft, steps, temperature, trials, device, *, drawn_at=1.0):
    """Many requests over one target and one draft row, which are not copied."""
    size = steps + 1
    probs = torch.softmax(draft.float() / drawn_at, -1)
    tokens = torch.zeros(trials, size, dtype=torch.int64)
    if steps:
        drawn = torch.multinomial(probs, trials * steps, replacement=True)
        tokens[:, 1:] = drawn.view(trials, steps)
    requests = torch.arange(trials, dtype=torch.int32)
    made = {
        "target_logits": target.to(device).expand(trials * size, -1),
        "draft_logits": draft.to(device).expand(trials, steps, -1),
        "draft_sampled": tokens.flatten(),
        "cu_num_logits": torch.arange(trials + 1, dtype=torch.int32) * size,
        "pos": torch.arange(trials * size, dtype=torch.int32),
        "idx_mapping": requests,
        "expanded_idx_mapping": requests.repeat_interleave(size),
        "expanded_local_pos": torch.arange(size, dtype=torch.int32).repeat(trials),
        "temperature": torch.full((trials,), temperature),
        "seed": torch.arange(trials),
    }
    moved = {name: value.to(device) for name, value in made.items()}
    return {**moved, "num_speculative_steps": steps}


def emitted(sampled, num_sampled):
    steps = torch.arange(sampled.shape[1], device=sampled.device)
    mask = steps < num_sampled[:, None]
    assert (sampled[~mask] == -1).all()
    return sampled[mask]


@pytest.mark.parametrize("temperature", [0.6, 1.0])
@pytest.mark.parametrize("steps", [1, 3])
def test_every_position_follows_the_target(device, steps, temperature):
    trials = samples(10 * V, device)
    target = torch.randn(V) / temperature
    draft = torch.randn(V) / temperature
    sampled, count = rejection_sample(**inputs(target, draft, steps, temperature, trials, device))
    assert sampled.dtype == torch.int64 and count.dtype == torch.int32
    probs = torch.softmax(target, -1)
    for position in range(steps + 1):
        assert_follows(sampled[count > position, position], probs, f"position {position}")
    emitted(sampled, count)


def test_drafts_without_logits_follow_the_target(device):
    trials = samples(40000, device)
    target, draft = torch.randn(12) * 2, torch.randn(12)
    given = inputs(target, draft, 2, 1.0, trials, device)
    sampled, count = rejection_sample(**{**given, "draft_logits": None})
    for position in range(2):
        reached = sampled[count > position, position]
        assert_follows(reached, torch.softmax(target, -1), f"position {position}")


def test_raw_draft_logits_are_divided_on_demand(device):
    # Drafts drawn at temperature .5 from logits stored without it.
    trials = samples(40000, device)
    target, draft = torch.randn(12) * 2, torch.randn(12) * 2
    given = inputs(target, draft, 2, 0.5, trials, device, drawn_at=0.5)
    sampled, count = rejection_sample(**given, draft_temperature=True)
    for position in range(2):
        reached = sampled[count > position, position]
        assert_follows(reached, torch.softmax(target, -1), f"position {position}")


@pytest.mark.parametrize("vocab", [8, 20])
def test_other_draft_vocabularies(device, vocab):
    # The target keeps its mass above a smaller draft vocabulary; a larger one is cut off.
    trials = samples(40000, device)
    target, draft = torch.randn(12) * 2, torch.randn(vocab)
    given = inputs(target, draft[:12], 2, 1.0, trials, device)
    given["draft_logits"] = draft.to(device).expand(trials, 2, -1)
    sampled, count = rejection_sample(**given)
    for position in range(2):
        reached = sampled[count > position, position]
        assert_follows(reached, torch.softmax(target, -1), f"position {position}")


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_greedy_emits_the_argmax(device, steps):
    trials = simulation.scaled(1000, device, 6)
    target, draft = torch.randn(V), torch.randn(V)
    given = inputs(target, draft, steps, 0.0, trials, device)
    assert (emitted(*rejection_sample(**given)) == target.argmax().item()).all()


@pytest.mark.parametrize("temperature", [0.0, 0.6])
@pytest.mark.parametrize("with_logits", [False, True])
def test_placeholders_end_the_chain(device, temperature, with_logits):
    trials = simulation.scaled(64, device, 4)
    target = torch.randn(V)
    best = int(target.argmax())
    target[best] += 60.0  # a draft of it passes at any temperature
    given = inputs(target, target, 3, temperature, trials, device)
    if not with_logits:
        given["draft_logits"] = None
    tokens = given["draft_sampled"].view(trials, 4)
    tokens[:, 1] = tokens[:, 3] = best
    tokens[:, 2] = -1
    sampled, count = rejection_sample(**given)
    assert count.tolist() == [2] * trials
    assert (emitted(sampled, count) == best).all()
    given["draft_sampled"].fill_(-1)
    sampled, count = rejection_sample(**given)
    assert count.tolist() == [1] * trials and (sampled[:, 0] == best).all()


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("which", ["target", "draft"])
def test_nan_rows_stay_in_the_vocabulary(device, temperature, which):
    vocab = 5000
    target, draft = torch.randn(vocab), torch.randn(vocab)
    given = inputs(target, draft, 1, temperature, 4, device)
    name = f"{which}_logits"
    given[name] = torch.full_like(given[name], float("nan"))
    sampled, count = rejection_sample(**given)
    tokens = emitted(sampled, count)
    assert ((tokens >= 0) & (tokens < vocab)).all()


def test_ragged_and_mixed_requests(device):
    # States 3 and 1 of four; request 0 has two drafts and is greedy, request 1 one, and is random.
    target = torch.full((5, 8), -100.0)
    for row, token in enumerate((1, 2, 3, 6, 7)):
        target[row, token] = 100.0
    draft = torch.zeros(4, 3, 8)
    arguments = {
        "target_logits": target.half(),
        "draft_logits": draft,
        "draft_sampled": torch.tensor([0, 1, 2, 0, 6]),
        "cu_num_logits": torch.tensor([0, 3, 5]),
        "pos": torch.tensor([10, 11, 12, 5, 6]),
        "idx_mapping": torch.tensor([3, 1]),
        "expanded_idx_mapping": torch.tensor([3, 3, 3, 1, 1]),
        "expanded_local_pos": torch.tensor([0, 1, 2, 0, 1]),
        "temperature": torch.tensor([9.0, 1.0, 9.0, 0.0]),
        "seed": torch.arange(4),
    }
    moved = {name: value.to(device) for name, value in arguments.items()}
    sampled, count = rejection_sample(**moved, num_speculative_steps=3, use_fp64=True)
    assert sampled.tolist() == [[1, 2, 3, -1], [6, 7, -1, -1]]
    assert count.tolist() == [3, 2]
    moved["draft_sampled"][2] = 5
    sampled, count = vllm.rejection_sample(**moved, num_speculative_steps=3)
    assert sampled.tolist() == [[1, 2, -1, -1], [6, 7, -1, -1]]


def test_draft_rows_belong_to_the_state(device):
    # Only state 2 drew token 4 surely; elsewhere q(4) is tiny, and the draft would always pass.
    target = torch.zeros(2, 6)
    draft = torch.zeros(3, 1, 6)
    draft[2, 0, 4] = 80.0
    accepted = 0
    trials = samples(400, device)
    rows = torch.arange(trials)
    sampled, count = rejection_sample(
        *(
            target.repeat(trials, 1).to(device),
            draft.to(device),
            torch.tensor([0, 4]).repeat(trials).to(device),
            (torch.arange(trials + 1) * 2).to(device),
            rows.repeat_interleave(2).to(device),
            torch.full((trials,), 2, device=device),
            torch.full((2 * trials,), 2, device=device),
            torch.tensor([0, 1]).repeat(trials).to(device),
            torch.ones(3, device=device),
            torch.arange(3, device=device),
            1,
        )
    )
    accepted = int((count == 2).sum())
    assert abs(accepted / trials - 1 / 6) < 6 * (5 / 36 / trials) ** 0.5
    assert (sampled[count == 1, 0] != 4).all()


def test_seed_and_position_fix_the_tokens(device):
    target, draft = torch.randn(50), torch.randn(50)
    given = inputs(target, draft, 2, 1.0, 6, device)
    whole = rejection_sample(**given)[0]
    assert torch.equal(rejection_sample(**given)[0], whole)
    part = {**given, "cu_num_logits": given["cu_num_logits"][2:5]}
    part["idx_mapping"] = given["idx_mapping"][2:4]
    assert torch.equal(rejection_sample(**part)[0], whole[2:4])
    assert not torch.equal(rejection_sample(**{**given, "pos": given["pos"] + 1})[0], whole)
    assert not torch.equal(rejection_sample(**{**given, "seed": given["seed"] + 9})[0], whole)
