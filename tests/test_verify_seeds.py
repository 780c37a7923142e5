# SPDX-License-Identifier: Apache-2.0
"""Random streams: Philox by its published vectors, and the law of rule sample with seeds.

Chi-square tests count the outcome of one call exactly as it should be distributed, accepted or not:
  P(accept a, then b) = min(p, q)(a) q'(b | a),   P(reject, then b) = max(q - p, 0)(b).
The draft is drawn with the very (seed, position) of the verify call: a coin shared between the
drafter, the acceptance test and the final draw would show at once. Seeds are fixed; for a fresh
choice a false alarm has probability 1e-6 per test.
"""

import itertools

import pytest
import torch
from scipy import stats

from tests.simulation import scaled
from tests.verify_runner import run_op
from via_ext import ops, reference
from via_ext.reference.philox import philox_words

TRIALS = 40_000
FALSE_ALARM = 1e-6
Q = torch.tensor([0.05, 0.3, 0.1, 0.35, 0.2], dtype=torch.float64)
P = torch.tensor([0.3, 0.1, 0.1, 0.15, 0.35], dtype=torch.float64)
Q_AFTER = torch.tensor(
    [[0.2] * 5, [0.6, 0.1, 0.1, 0.1, 0.1], [0.05, 0.15, 0.25, 0.5, 0.05], [0, 0, 0.5, 0.25, 0.25],
     [0.3, 0.3, 0.3, 0.1, 0]], dtype=torch.float64,
)  # fmt: skip


def keys(kind, trials):
    """Seeds and positions: one request through its calls, or many requests in one call."""
    numbers = torch.arange(trials)
    constant = torch.full_like(numbers, 17)
    return {
        "calls": {"seed": constant, "position": numbers},
        "requests": {"seed": numbers, "position": constant},
        "wide": {"seed": numbers * 2**40 - 2**62, "position": numbers * 2**35},
    }[kind]


def fits(counts, expected):
    """Chi-square test of counts against probabilities; bins of probability 0 must be empty."""
    counts, expected = torch.as_tensor(counts).double(), torch.as_tensor(expected).double()
    assert counts[expected == 0].sum() == 0
    assert abs(expected.sum() - 1) < 1e-6
    counts, expected = counts[expected > 0], expected[expected > 0]
    pvalue = stats.chisquare(counts, expected / expected.sum() * counts.sum()).pvalue
    return pvalue > FALSE_ALARM


def test_philox_vectors():
    # Known answers published with the generator (Random123, philox4x32-10).
    zeros = philox_words((0, 0), (0, 0, 0, 0))
    assert zeros == (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)
    ones = philox_words((0xFFFFFFFF,) * 2, (0xFFFFFFFF,) * 4)
    assert ones == (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)
    pi = philox_words((0xA4093822, 0x299F31D0), (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344))
    assert pi == (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)
    assert reference.philox_uniform(0, 0, 0, 0) == (0x6627E8D5 >> 8) / 2**24


@pytest.mark.parametrize("kind", ["calls", "requests", "wide"])
def test_the_final_draw_is_the_uniform_of_the_specification(device, kind):
    # 4096 equal weights: the token is the first 12 bits of the uniform.
    rows = scaled(500, device, least=60)
    key = keys(kind, rows)
    result = run_op(device)(
        torch.empty(rows, 0, dtype=torch.int64),
        torch.zeros(rows, 1, 4096),
        rule="sample",
        temperature=1.0,
        **key,
    )
    expected = [
        int(reference.philox_uniform(int(seed), int(position), 0, 1) * 4096)
        for seed, position in zip(key["seed"], key["position"], strict=True)
    ]
    assert result.next_token.tolist() == expected


@pytest.mark.parametrize("with_distribution", [False, True])
def test_the_coin_is_the_uniform_of_the_specification(device, with_distribution):
    # A chain of two certain steps and a test: row 2 or node 2 is column 2, purpose 0.
    rows = scaled(500, device, least=60)
    key = keys("wide", rows)
    uniforms = torch.tensor(
        [reference.philox_uniform(int(s), int(p), 2, 0) for s, p in zip(*key.values(), strict=True)]
    )
    logits = torch.zeros(rows, 4, 2)
    logits[:, :2, 1] = -torch.inf
    # q(0) = 1/4 against p(0) = 1 (given, or one-hot): accepted iff the coin is below 1/4.
    logits[:, 2, 1] = torch.tensor(3.0).log()
    probs = torch.tensor([[1.0, 0.0]] * 3).expand(rows, 3, 2)
    arguments = {"draft_probs": probs} if with_distribution else {}
    result = run_op(device)(
        torch.zeros(rows, 3, dtype=torch.int64),
        logits,
        rule="sample",
        temperature=1.0,
        **key,
        **arguments,
    )
    assert result.num_accepted.tolist() == torch.where(uniforms < 0.25, 3, 2).tolist()


@pytest.mark.parametrize("kind", ["calls", "requests", "wide"])
def test_chain_with_its_drafter(device, kind):
    trials = scaled(TRIALS, device)
    key = keys(kind, trials)
    logits = P.float().log().expand(trials, -1)
    drafts, probs = ops.draft_sample(logits, column=0, **key)
    rows = torch.cat([Q.log().expand(trials, 1, -1), Q_AFTER.log()[drafts][:, None]], 1)
    result = run_op(device)(
        drafts[:, None],
        rows.float(),
        rule="sample",
        temperature=1.0,
        draft_probs=probs[:, None],
        **key,
    )
    overlap = torch.minimum(P, Q)
    joint = torch.cat([(Q - P).clamp(min=0), (overlap[:, None] * Q_AFTER).flatten()])
    accepted = result.num_accepted == 1
    cell = torch.where(accepted, 5 + 5 * drafts + result.next_token, result.next_token)
    assert fits(cell.bincount(minlength=30), joint)
    first = torch.where(accepted, drafts, result.next_token)
    assert fits(first.bincount(minlength=5), Q)


def test_one_hot_tree(device):
    # Root: tokens 3, 0; below the first: token 2. Fixed proposals, any of them exact.
    trials = scaled(TRIALS, device)
    rows = torch.stack([Q, Q_AFTER[3], Q_AFTER[0], Q_AFTER[2]]).float().log()
    result = run_op(device)(
        torch.tensor([[3, 0, 2]]).expand(trials, 3),
        rows.expand(trials, 4, 5),
        rule="sample",
        parents=torch.tensor([-1, -1, 0]),
        temperature=1.0,
        **keys("calls", trials),
    )
    # Sequences of tokens: (b) rejected, (3, b), (0, b), (3, 2, b).
    path = result.path.tolist()
    counts = torch.zeros(4, 5)
    for nodes, token in zip(path, result.next_token.tolist(), strict=True):
        counts[{(-1, -1): 0, (0, -1): 1, (1, -1): 2, (0, 2): 3}[tuple(nodes[:2])], token] += 1
    expected = torch.zeros(4, 5, dtype=torch.float64)
    expected[0] = Q * torch.tensor([0, 1, 1, 0, 1])
    expected[1] = Q[3] * Q_AFTER[3] * torch.tensor([1, 1, 0, 1, 1])
    expected[2] = Q[0] * Q_AFTER[0]
    expected[3] = Q[3] * Q_AFTER[3, 2] * Q_AFTER[2]
    assert fits(counts.flatten(), expected.flatten())


def test_siblings_with_their_drafter(device):
    # Two independent draws under the root, from P and from Q_AFTER[1].
    trials = scaled(TRIALS, device)
    key = keys("requests", trials)
    laws = [P, Q_AFTER[1]]
    drawn = [
        ops.draft_sample(law.float().log().expand(trials, -1), column=column, **key)
        for column, law in enumerate(laws)
    ]
    ids = torch.stack([tokens for tokens, _ in drawn], 1)
    rows = torch.cat([Q.log().expand(trials, 1, -1), Q_AFTER.log()[ids]], 1)
    result = run_op(device)(
        ids,
        rows.float(),
        rule="sample",
        parents=torch.tensor([-1, -1]),
        temperature=1.0,
        draft_probs=torch.stack([probs for _, probs in drawn], 1),
        **key,
    )
    first = torch.where(
        result.num_accepted == 1,
        ids.gather(1, result.path[:, :1].clamp(min=0).long())[:, 0],
        result.next_token,
    )
    assert fits(first.bincount(minlength=5), Q)
    # After an accepted first token the next one follows that token's row.
    pair = (5 * first + result.next_token)[result.num_accepted == 1]
    for token in range(5):
        counts = pair.bincount(minlength=25)[5 * token : 5 * token + 5]
        assert fits(counts, Q_AFTER[token])


@pytest.mark.parametrize(
    ("filters", "kept"),
    [
        ({"temperature": 0.7}, [0, 1, 2, 3, 4]),
        ({"temperature": 1.3, "top_k": 3}, [1, 3, 4]),
        ({"temperature": 1.0, "top_p": 0.8}, [1, 3, 4]),
        ({"temperature": 1.0, "min_p": 0.25, "top_p": 0.97}, [1, 2, 3, 4]),
    ],
)
def test_filtered_laws(device, filters, kept):
    trials = scaled(TRIALS, device)
    key = keys("calls", trials)
    drafts, probs = ops.draft_sample(P.float().log().expand(trials, -1), **key)
    result = run_op(device)(
        drafts[:, None],
        Q.float().log().expand(trials, 2, 5),
        rule="sample",
        draft_probs=probs[:, None],
        **filters,
        **key,
    )
    expected = torch.zeros(5, dtype=torch.float64)
    expected[kept] = Q[kept] ** (1 / filters["temperature"])
    first = torch.where(result.num_accepted == 1, drafts, result.next_token)
    assert fits(first.bincount(minlength=5), expected / expected.sum())


def test_with_injected_uniforms(device, generator):
    trials = scaled(TRIALS, device)
    uniforms = torch.rand(trials, 2, generator=generator)
    drafts = torch.multinomial(P, trials, replacement=True, generator=generator)
    result = run_op(device)(
        drafts[:, None],
        Q.float().log().expand(trials, 2, 5),
        rule="sample",
        temperature=1.0,
        draft_probs=P.float().expand(trials, 1, 5),
        uniform_samples=uniforms,
    )
    first = torch.where(result.num_accepted == 1, drafts, result.next_token)
    assert fits(first.bincount(minlength=5), Q)


@pytest.mark.parametrize("temperature", [0.6, 1.0])
def test_a_large_vocabulary(device, temperature, generator):
    trials = scaled(TRIALS, device)
    size = 512
    q, p = (torch.randn(size, generator=generator) for _ in range(2))
    key = keys("calls", trials)
    drafts, probs = ops.draft_sample(p.expand(trials, -1), **key)
    result = run_op(device)(
        drafts[:, None],
        q.expand(trials, 2, size),
        rule="sample",
        temperature=temperature,
        draft_probs=probs[:, None],
        **key,
    )
    first = torch.where(result.num_accepted == 1, drafts, result.next_token)
    expected = (q.double() / temperature).softmax(0)
    # Bins of at least five expected counts: the lightest ids are merged.
    order = expected.argsort()
    merged = int((expected[order].cumsum(0) * trials < 5).sum()) + 1
    light = order[: max(merged, int((expected * trials < 5).sum()))]
    counts = first.bincount(minlength=size).double()
    keep = torch.ones(size, dtype=torch.bool)
    keep[light] = False
    assert fits(
        torch.cat([counts[keep], counts[light].sum()[None]]),
        torch.cat([expected[keep], expected[light].sum()[None]]),
    )


def test_streams_are_independent():
    # Pairs of the streams that meet in one call, and of neighbouring columns and positions.
    points = range(3000)
    draw = reference.philox_uniform
    streams = {
        "coin": [draw(5, n, 0, 0) for n in points],
        "next coin": [draw(5, n, 1, 0) for n in points],
        "final": [draw(5, n, 0, 1) for n in points],
        "drafter": [draw(5, n, 0, 2) for n in points],
        "next position": [draw(5, n + 1, 0, 0) for n in points],
        "next seed": [draw(6, n, 0, 0) for n in points],
    }
    bins = {name: (torch.tensor(values) * 6).long() for name, values in streams.items()}
    for a, b in itertools.combinations(bins, 2):
        table = (6 * bins[a] + bins[b]).bincount(minlength=36)
        assert fits(table, torch.full((36,), 1 / 36)), (a, b)
