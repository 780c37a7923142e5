# SPDX-License-Identifier: Apache-2.0
"""The calibrated router of rule route: features, order of decisions, limits, bad values, errors."""

import math

import pytest
import torch

from tests.verify_runner import log_rows, mask_words
from via_ext.router import FEATURES, LIMIT, NUM_WEIGHTS, Router

INF, NAN = math.inf, math.nan
ROW = [0.5, 0.3, 0.15, 0.05]
FLAT = [0.25] * 4
MODELS = ("draft", "slim", "bonus")
NOTHING = (0.0,) * NUM_WEIGHTS


def only(feature: str, weight: float = 1.0) -> tuple[float, ...]:
    return tuple(weight * (name == feature) for name in ("bias", *FEATURES))


def packed(draft=NOTHING, slim=NOTHING, bonus=NOTHING, limits=(-INF, INF, INF)):
    return torch.tensor([*draft, *slim, *bonus, *limits])


def passes(result, model, node):
    """Of each batch row: what its limit said of the node, or of the bonus token."""
    if model == "bonus":
        return [not escalated for escalated in result.escalate.tolist()]
    good = 0 if model == "draft" else 1
    return [tier == good for tier in result.tiers[:, node].tolist()]


def check_feature(verify, feature, value, ids, logits, model="slim", node=0, **arguments):
    """The feature passes a limit just above `value` and none just below, of either sign."""
    weights = {model: only(feature)}
    place = MODELS.index(model) - 3
    rows = []
    for limit in (value + 1e-4, value - 1e-4):
        row = packed(**weights)
        row[-3:] = torch.tensor([-INF, -INF, INF])
        row[place] = limit
        rows.append(row)
    ids, logits = torch.tensor([ids] * 2, dtype=torch.int64), logits.expand(2, -1, -1)
    pairs = {
        name: given.expand(2, *given.shape[1:]).contiguous() for name, given in arguments.items()
    }
    if "temperature" in pairs:
        pairs["uniform_samples"] = torch.full((2, ids.shape[1] + 1), 0.5)
    result = verify(ids, logits, rule="route", router=torch.stack(rows), **pairs)
    assert passes(result, model, node) == [True, False], (feature, value, result)
    return result


@pytest.mark.parametrize("tau", [(0.7, 0.5), (0.9, 0.05), (0.2, 0.2)])
def test_weights_on_the_ratio_alone_are_the_thresholds(verify, tau):
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(6, 6, 9, generator=generator) * 2
    ids = logits[:, :5].topk(2, -1).indices[:, :, 1].contiguous()
    ids[::2] = logits[::2, :5].argmax(-1)
    parents = torch.tensor([-1, -1, 0, 1, 3])
    router = packed(
        *[only("log_ratio", -1.0)] * 2, limits=(-math.log(tau[0]), -math.log(tau[1]), INF)
    )
    result = verify(ids, logits, rule="route", parents=parents, router=router)
    thresholds = {"accept_threshold": tau[0], "escalate_threshold": tau[1]}
    expected = verify(ids, logits, rule="route", parents=parents, **thresholds)
    for got, wanted in zip(result, expected, strict=True):
        assert torch.equal(got, wanted)


@pytest.mark.parametrize("temperature", [1.0, 0.5, 2.5])
@pytest.mark.parametrize("model", ["draft", "slim"])
def test_features_of_a_node(verify, model, temperature):
    logits = log_rows(ROW, ROW)
    row = (torch.tensor(ROW).log() / temperature).log_softmax(0).tolist()
    expected = {
        "log_ratio": row[1] - row[0],
        "log_max": row[0],
        "margin": row[0] - row[1],
        "log_draft": -1.25,
        "draft_margin": 0.75,
        "depth": 1.0,
        "same": 0.0,
    }
    heat = {"temperature": torch.tensor([temperature])}
    if temperature == 1.0:
        heat = {}  # greedy: the same features
    scores = torch.tensor([[[-1.25, 0.75]]])
    for feature, value in expected.items():
        check_feature(verify, feature, value, [1], logits, model, draft_scores=scores, **heat)
    check_feature(verify, "same", 1.0, [0], logits, model)
    check_feature(verify, "log_ratio", 0.0, [0], logits, model)
    check_feature(verify, "bias", 1.0, [0], logits, model)


def test_features_where_there_is_no_candidate(verify):
    logits = log_rows(FLAT, ROW)
    values = {"log_ratio": 0.0, "log_max": math.log(0.5), "margin": math.log(0.5 / 0.3)}
    values |= {"log_draft": 0.0, "draft_margin": 0.0, "depth": 1.0, "same": 0.0, "bias": 1.0}
    for feature, value in values.items():
        # Nothing drafted, and a node that is none.
        empty = torch.zeros(1, 0, 2)
        check_feature(verify, feature, value, [], logits[:, 1:], "bonus", draft_scores=empty)
        scores = torch.tensor([[[-3.0, 2.0]]])
        check_feature(verify, feature, value, [-1], logits[:, [1, 0]], "bonus", draft_scores=scores)


@pytest.mark.parametrize("where", ["plain", "far"])
def test_ties_of_the_maximum_have_margin_0(verify, where):
    size, other = (4, 1) if where == "plain" else (5000, 4321)
    logits = torch.full((1, 2, size), -2.0)
    logits[0, 0, [0, other]] = 3.0
    check_feature(verify, "margin", 0.0, [other], logits)
    # Of two first choices the lowest id is the one.
    check_feature(verify, "same", 0.0, [other], logits)
    check_feature(verify, "same", 1.0, [0], logits)
    logits[0, 0, other] = 2.5
    check_feature(verify, "margin", 0.5, [0], logits)
    logits[0, 0, 0] = -INF
    check_feature(verify, "margin", 4.5, [0], logits)


def test_the_only_token_with_mass_has_the_largest_margin(verify):
    logits = log_rows([1, 0, 0, 0], FLAT)
    check_feature(verify, "margin", LIMIT, [0], logits)
    check_feature(verify, "log_max", 0.0, [0], logits)
    check_feature(verify, "log_ratio", -LIMIT, [2], logits)
    masks = torch.tensor([[[False, True, False, False], [True] * 4]])
    allowed = {"allowed": mask_words(masks)}
    check_feature(verify, "margin", LIMIT, [1], log_rows(ROW, FLAT), **allowed)
    check_feature(verify, "same", 0.0, [0], log_rows(ROW, FLAT), **allowed)
    single = torch.tensor([[[2.5], [1.0]]])
    check_feature(verify, "margin", LIMIT, [0], single)


def test_the_mask_comes_before_the_features(verify):
    masks = torch.tensor([[[False, True, False, True], [True] * 4]])
    allowed = {"allowed": mask_words(masks)}
    logits = log_rows(ROW, FLAT)
    check_feature(verify, "margin", math.log(0.3 / 0.05), [1], logits, **allowed)
    check_feature(verify, "log_max", math.log(0.3 / 0.35), [1], logits, **allowed)
    check_feature(verify, "log_ratio", math.log(0.05 / 0.3), [3], logits, **allowed)


def test_nan_and_infinities_in_a_row(verify):
    nan = torch.tensor([[[1.0, NAN, 0.5, -INF], [0.0] * 4]])
    assert check_feature(verify, "margin", 0.5, [0], nan).status.tolist() == [1, 1]
    check_feature(verify, "log_ratio", -LIMIT, [1], nan)
    one_hot = torch.tensor([[[1.0, INF, INF, 0.0], [0.0] * 4]])
    check_feature(verify, "margin", LIMIT, [1], one_hot)
    check_feature(verify, "log_max", 0.0, [1], one_hot)
    check_feature(verify, "same", 1.0, [1], one_hot)
    check_feature(verify, "log_ratio", -LIMIT, [2], one_hot)


def test_a_row_without_mass_ends_the_walk_as_ever(verify):
    logits = torch.tensor([[[-INF] * 4, [0.0] * 4]])
    for limits in ((INF, INF, INF), (-INF, -INF, -INF)):
        result = verify(torch.tensor([[1]]), logits, rule="route", router=packed(limits=limits))
        assert result.status.tolist() == [4]
        assert result.next_token.tolist() == [0]
        assert result.escalate.tolist() == [False]
        assert result.tiers.tolist() == [[1 if limits[1] > 0 else 2]]
    check = {"log_ratio": -LIMIT, "log_max": -LIMIT, "margin": 0.0, "same": 0.0}
    for feature, value in check.items():
        check_feature(verify, feature, value, [1], logits)


@pytest.mark.parametrize(
    ("given", "log_draft", "margin"),
    [
        ([-30.0, 30.0], -LIMIT, LIMIT),
        ([-INF, INF], -LIMIT, LIMIT),
        ([0.5, -0.5], 0.0, 0.0),
        ([NAN, NAN], -LIMIT, 0.0),
        ([-0.5, 0.25], -0.5, 0.25),
    ],
)
def test_draft_scores_are_cut(verify, given, log_draft, margin):
    scores = torch.tensor([[[-9.0, 9.0], given]])
    ids, logits = [0, 1], log_rows(ROW, ROW, ROW)
    result = check_feature(
        verify, "log_draft", log_draft, ids, logits, "slim", 1, draft_scores=scores
    )
    assert result.status.tolist() == [0, 0]
    check_feature(verify, "draft_margin", margin, ids, logits, "slim", 1, draft_scores=scores)


def test_missing_scores_count_as_0(verify):
    for feature in ("log_draft", "draft_margin"):
        check_feature(verify, feature, 0.0, [1], log_rows(ROW, ROW))


def test_depth_counts_from_the_root(verify):
    parents = torch.tensor([[-1, 0, 0, 2, -1]])
    ids, logits = [0, 1, 0, 0, 1], log_rows(*[ROW] * 6)
    for node, depth in enumerate([1, 2, 2, 3, 1]):
        check_feature(verify, "depth", depth, ids, logits, "slim", node, parents=parents)
    chain = log_rows(*[ROW] * 4)
    for node in range(3):
        check_feature(verify, "depth", node + 1.0, [0] * 3, chain, "slim", node)
    # The bonus token after nodes 0, 2 and 3 has the depth of a child there.
    for depth, limit in ((4, 4.5), (4, 3.5)):
        router = packed(bonus=only("depth"), limits=(INF, INF, limit))
        result = verify(torch.tensor([ids]), logits, rule="route", parents=parents, router=router)
        assert result.path[0, :3].tolist() == [0, 2, 3]
        assert result.next_row.tolist() == [4]
        assert result.escalate.tolist() == [depth > limit]


def test_the_order_of_decisions(verify):
    # Node 1 has the largest ratio: only what the router says of it counts for the walk.
    ids, logits = torch.tensor([[1, 0]]), log_rows(ROW, FLAT, FLAT)
    parents = torch.tensor([-1, -1])
    for limits, tiers, path in (
        ((0.5, INF, INF), [0, 1], []),  # accepts node 0 (same = 0), not the candidate
        ((0.5, -INF, INF), [0, 2], []),
        ((1.5, -INF, INF), [0, 0], [1]),
    ):
        router = packed(draft=only("same"), limits=limits)
        result = verify(ids, logits, rule="route", parents=parents, router=router)
        assert result.tiers.tolist() == [tiers]
        assert result.path.tolist() == [path + [-1] * (2 - len(path))]
        assert result.escalate.tolist() == [not path and limits[1] < 0]
        if not path and limits[1] > 0:
            assert result.next_token.tolist() == [0]


@pytest.mark.parametrize("error", [-1.0, 0.0, 1.0, 0.5])
def test_what_a_limit_means(verify, error):
    # Log-odds of -50: as certain as a finite sum may be. 0 and below never pass, 1 always does.
    for bias in (-50.0, 50.0):
        model = (bias, *NOTHING[1:])
        router = Router(model, model, model, error, error, error)
        good = error == 1.0 or (error == 0.5 and bias < 0)
        result = verify(torch.tensor([[0]]), log_rows(ROW, FLAT), rule="route", router=router)
        assert result.tiers.tolist() == [[0 if good else 2]]
        assert result.num_accepted.tolist() == [int(good)]
        assert result.escalate.tolist() == [not good]
        empty = torch.zeros(1, 0, dtype=torch.int64)
        result = verify(empty, log_rows(ROW), rule="route", router=router)
        assert result.escalate.tolist() == [not good]


def test_a_node_of_ratio_0_is_never_accepted(verify):
    logits = log_rows([0.5, 0.5, 0], FLAT[:3])
    result = verify(torch.tensor([[2]]), logits, rule="route", router=packed(limits=(INF,) * 3))
    assert result.tiers.tolist() == [[1]]
    assert result.num_accepted.tolist() == [0]


def test_a_leaf_without_any_chance_is_not_read(verify):
    logits = torch.stack([torch.tensor(ROW).log(), torch.tensor([NAN, 0, 0, 0])])[None]
    for limit, status in ((-INF, 0), (INF, 1)):
        router = packed(limits=(INF, INF, limit))
        result = verify(torch.tensor([[0]]), logits, rule="route", router=router)
        assert result.escalate.tolist() == [limit < 0]
        assert result.status.tolist() == [status]


def test_requests_have_routers_of_their_own(verify):
    limits = torch.tensor([[INF, 0, INF], [-INF, INF, 0], [-INF, -INF, -INF], [INF, INF, -INF]])
    wide = torch.zeros(4, 40)
    wide[:, 24:27] = limits
    ids, logits = torch.tensor([[0]] * 4), log_rows(ROW, FLAT).expand(4, -1, -1)
    result = verify(ids, logits, rule="route", router=wide[:, :27], num_nodes=torch.tensor([1] * 4))
    assert result.tiers.tolist() == [[0], [1], [2], [0]]
    assert result.escalate.tolist() == [False, False, True, True]
    ragged = verify(ids, logits, rule="route", router=wide[:, :27], num_nodes=torch.zeros(4).int())
    assert ragged.tiers.tolist() == [[255]] * 4
    assert ragged.escalate.tolist() == [False, False, True, True]


@pytest.mark.parametrize(
    ("place", "value", "status"),
    [(0, NAN, 16), (9, INF, 16), (23, -INF, 16), (24, NAN, 16), (26, NAN, 16), (25, INF, 0)],
)
def test_numbers_out_of_rule_refuse_their_request(verify, place, value, status):
    router = packed(limits=(INF, INF, INF)).repeat(2, 1)
    router[1, place] = value
    ids, logits = torch.tensor([[0]] * 2), log_rows(ROW, FLAT).expand(2, -1, -1)
    coins = {"temperature": 1.0, "uniform_samples": torch.full((2, 2), 0.9)}
    result = verify(ids, logits, rule="route", router=router, **coins)
    assert result.status.tolist() == [0, status]
    assert result.num_accepted.tolist() == [1, 0 if status else 1]
    if status:  # greedy, nothing accepted
        assert result.next_token[1] == 0
        assert result.tiers[1].tolist() == [255]


def test_the_thresholds_are_not_looked_at(verify):
    bad = {"accept_threshold": torch.tensor([NAN]), "escalate_threshold": torch.tensor([3.0])}
    router = packed(limits=(INF, INF, INF))
    result = verify(torch.tensor([[0]]), log_rows(ROW, FLAT), rule="route", router=router, **bad)
    assert result.status.tolist() == [0]
    assert result.num_accepted.tolist() == [1]
