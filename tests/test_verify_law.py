# SPDX-License-Identifier: Apache-2.0
"""The law of rule sample, by exact enumeration on toys.

Every toy's probabilities are chosen so that decisions change only at coins that are multiples of
1 / GRID: ratios q(x) / p(x), cumulative sums and normalised residuals. The midpoints of the grid,
all equally likely, then give the law exactly. A toy that broke this rule would not sum to the
expected law, so no test can pass by it.
"""

import itertools
from collections import defaultdict

import pytest
import torch

from tests.simulation import is_simulated
from tests.verify_runner import run_op

GRID = 8
SIZE = 4
# (q, p) in eighths after the prefix: root, then by the first token; q alone after two tokens.
ROOT = ([1, 1, 3, 3], [2, 4, 0, 2])
AFTER_ONE = [
    ([1, 2, 4, 1], [2, 1, 3, 2]),
    ([2, 2, 0, 4], [1, 4, 2, 1]),
    ([5, 1, 1, 1], [2, 0, 2, 4]),
    ([1, 4, 3, 0], [2, 2, 1, 3]),
]
AFTER_TWO = [[3, 1, 2, 2], [0, 8, 0, 0], [1, 1, 1, 5], [4, 2, 2, 0]]


def verifier(prefix):
    """The verifier's next-token distribution, in eighths."""
    if len(prefix) == 2:
        return AFTER_TWO[sum(prefix) % 4]
    return AFTER_ONE[prefix[0]][0] if prefix else ROOT[0]


def drafter(prefix):
    return AFTER_ONE[prefix[0]][1] if prefix else ROOT[1]


def law_of(verify, ids, weights, q, p=None, parents=None, used=None, **arguments):
    """{tokens of the path and the next token: probability}.

    Args:
        verify: runner.
        ids: D drafts of N tokens.
        weights: probability of each draft.
        q: [D][N + 1][V] eighths.
        p: [D][N][V] eighths, or None for one-hot drafts.
        parents: tree of the drafts.
        used: columns in which a coin can matter; the others are constant.
        arguments: further arguments of verify, one entry per draft where they are tensors.
    """
    nodes = len(ids[0])
    used = range(nodes + 1) if used is None else used
    points = [(i + 0.5) / GRID for i in range(GRID)]
    grid = torch.full((GRID ** len(used), nodes + 1), 0.5)
    grid[:, list(used)] = torch.tensor(list(itertools.product(points, repeat=len(used))))
    repeats = len(grid)

    def spread(value):
        """One entry per draft -> one per draft and coin."""
        if isinstance(value, tuple):
            return type(value)(*(spread(field) for field in value))
        return value.repeat_interleave(repeats, 0) if isinstance(value, torch.Tensor) else value

    if p is not None:
        arguments["draft_probs"] = torch.tensor(p) / 8
    result = verify(
        spread(torch.tensor(ids).view(len(ids), nodes)),
        spread((torch.tensor(q) / 8).log()),
        rule="sample",
        temperature=1.0,
        parents=None if parents is None else torch.tensor(parents),
        uniform_samples=grid.repeat(len(ids), 1),
        **{name: spread(value) for name, value in arguments.items()},
    )
    assert not result.status.any() and not result.escalate.any()
    law = defaultdict(float)
    rows = zip(result.path.tolist(), result.next_token.tolist(), strict=True)
    for i, (path, last) in enumerate(rows):
        draft = ids[i // repeats]
        tokens = (*(draft[node] for node in path if node >= 0), last)
        law[tokens] += weights[i // repeats] / repeats
    return law


def assert_law(law, verifier, length):
    """The first `length` tokens follow the verifier, which goes on where a step ended early."""
    got = defaultdict(float)
    for tokens, weight in law.items():
        for rest in itertools.product(range(SIZE), repeat=max(length - len(tokens), 0)):
            sequence, probability = tokens, weight
            for token in rest:
                probability *= verifier(sequence)[token] / 8
                sequence = (*sequence, token)
            got[sequence[:length]] += probability
    for sequence in itertools.product(range(SIZE), repeat=length):
        expected = 1.0
        for i, token in enumerate(sequence):
            expected *= verifier(sequence[:i])[token] / 8
        assert abs(got[sequence] - expected) < 1e-9, (sequence, got[sequence], expected)


def drawn(depth):
    """All drafts of a chain with positive probability: ids, weights, p rows."""
    ids, weights, rows = [], [], []
    for draft in itertools.product(range(SIZE), repeat=depth):
        p = [drafter(draft[:i]) for i in range(depth)]
        weight = 1.0
        for token, row in zip(draft, p, strict=True):
            weight *= row[token] / 8
        if weight > 0.0:
            ids.append(draft)
            weights.append(weight)
            rows.append(p)
    return ids, weights, rows


def skip_if_slow(device):
    if is_simulated(device):
        pytest.skip("more than 4000 rows: too slow for the simulation")


def test_chain_with_distributions(verify):
    ids, weights, p = drawn(1)
    q = [[verifier(draft[:i]) for i in range(2)] for draft in ids]
    assert_law(law_of(verify, ids, weights, q, p), verifier, 2)


def test_longer_chain_with_distributions(device):
    skip_if_slow(device)
    ids, weights, p = drawn(2)
    q = [[verifier(draft[:i]) for i in range(3)] for draft in ids]
    assert_law(law_of(run_op(device), ids, weights, q, p), verifier, 3)


def test_the_acceptance_rate_is_one_minus_the_distance(verify):
    ids, weights, p = drawn(1)
    q = [[verifier(draft[:i]) for i in range(2)] for draft in ids]
    law = law_of(verify, ids, weights, q, p)
    overlap = sum(min(a, b) for a, b in zip(*ROOT, strict=True)) / 8
    assert abs(sum(w for tokens, w in law.items() if len(tokens) == 2) - overlap) < 1e-9


SIBLINGS = ([1, 1, 1, 5], [4, 2, 0, 2], [2, 0, 4, 2])


def siblings():
    """Two draws under one parent, from two distributions."""
    first, second = SIBLINGS[1:]
    pairs = [(a, b) for a in range(SIZE) for b in range(SIZE) if first[a] * second[b] > 0]
    return pairs, [first[a] * second[b] / 64 for a, b in pairs]


def tree_verifier(prefix):
    return verifier(prefix) if prefix else SIBLINGS[0]


def test_siblings_with_distributions(device):
    skip_if_slow(device)
    ids, weights = siblings()
    q = [[SIBLINGS[0], verifier((a,)), verifier((b,))] for a, b in ids]
    p = [list(SIBLINGS[1:])] * len(ids)
    law = law_of(run_op(device), ids, weights, q, p, parents=[-1, -1])
    assert_law(law, tree_verifier, 2)


def test_tree_with_distributions(device):
    # A third node below the second child, drawn from the drafter after that token.
    skip_if_slow(device)
    ids, weights, q, p = [], [], [], []
    for (a, b), weight in zip(*siblings(), strict=True):
        for c in range(SIZE):
            if drafter((b,))[c] > 0:
                ids.append((a, b, c))
                weights.append(weight * drafter((b,))[c] / 8)
                q.append([SIBLINGS[0], verifier((a,)), verifier((b,)), verifier((b, c))])
                p.append([*SIBLINGS[1:], drafter((b,))])
    law = law_of(run_op(device), ids, weights, q, p, parents=[-1, -1, 1])
    assert_law(law, tree_verifier, 3)


@pytest.mark.parametrize(
    "ids",
    [[1], [-1], [1, 0], [0, 1, 0], [1, 1, 1], [2, 1, 0], [3, 0, 1], [0, 2, 3], [0, 1, 2, 3]],
)
def test_one_hot_siblings(verify, ids):
    # Any proposal is exact: the drafts are fixed, not drawn. Rows keep the rest on the grid.
    root = [2, 4, 1, 1] if ids != [3, 0, 1] else [1, 2, 1, 4]

    def q_of(prefix):
        return verifier(prefix) if prefix else root

    q = [[root, *(verifier((max(token, 0),)) for token in ids)]]
    law = law_of(verify, [ids], [1.0], q, parents=[-1] * len(ids), used=[0, len(ids)])
    assert_law(law, q_of, 2)


def test_one_hot_tree(device):
    # Root: tokens 1, 0; below node 0: 2, 1; below node 1: 3; below node 4: 2.
    skip_if_slow(device)
    ids, parents = [1, 0, 2, 1, 3, 2], [-1, -1, 0, 0, 1, 4]
    prefixes = [(), (1,), (0,), (1, 2), (1, 1), (0, 3), (0, 3, 2)]
    table = {(): [2, 4, 1, 1], (1,): [1, 3, 3, 1], (0,): [1, 1, 2, 4], (0, 3): [2, 1, 4, 1]}

    def q_of(prefix):
        return table.get(prefix, AFTER_TWO[sum(prefix) % 4])

    q = [[q_of(prefix) for prefix in prefixes]]
    law = law_of(run_op(device), [ids], [1.0], q, parents=parents, used=[0, 1, 2, 5, 6])
    assert_law(law, q_of, 3)


@pytest.mark.parametrize("with_distributions", [True, False])
def test_resuming_at_the_root_keeps_the_law(device, with_distributions):
    # Thresholds above 1 escalate every row at its root, whatever was drafted.
    verify = run_op(device)
    ids, weights, p = drawn(1)
    q = [[verifier(draft[:i]) for i in range(2)] for draft in ids]
    slim = torch.randn(len(ids), 2, SIZE)
    first = verify(
        torch.tensor(ids), slim, rule="route", accept_threshold=2.0, escalate_threshold=2.0
    )
    if not with_distributions:
        # Fixed proposals; both leave the rest of the root's q on the grid.
        p, ids, weights = None, [(0,)] * len(ids), weights
        q = [[[4, 2, 1, 1], AFTER_ONE[0][0]]] * len(ids)
    law = law_of(verify, ids, weights, q, p, resume=first)
    if with_distributions:
        assert_law(law, verifier, 2)
    else:
        assert_law(law, lambda prefix: AFTER_ONE[prefix[0]][0] if prefix else [4, 2, 1, 1], 2)


def test_resuming_on_the_path_keeps_the_law(device):
    # The slim model accepts node 0 whatever it is and gives node 1 ratio 0.
    verify = run_op(device)
    ids, weights, p = drawn(2)
    q = [[[0, 0, 0, 8], *(verifier(draft[:i]) for i in (1, 2))] for draft in ids]
    slim = torch.zeros(len(ids), 3, SIZE)
    slim[range(len(ids)), 1, [(draft[1] + 1) % SIZE for draft in ids]] = torch.inf
    first = verify(torch.tensor(ids), slim, rule="route")
    assert first.num_accepted.tolist() == [1] * len(ids) and first.escalate.all()
    # Column 0, the coin of node 0, was spent by the earlier call.
    law = law_of(verify, ids, weights, q, p, used=[1, 2], resume=first)
    accepted = drafter(())
    assert_law(law, lambda prefix: verifier(prefix) if prefix else accepted, 3)
