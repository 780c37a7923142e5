# SPDX-License-Identifier: Apache-2.0
"""evaluate: measures against counts by hand, ratios, files, interruption and resume."""

import csv
import json
import math
from dataclasses import replace

import pytest
import torch

pytest.importorskip("transformers")

from tests.models import greedy, random_model
from via_ext import Decoder, SlimRoute, ViaConfig, evaluate
from via_ext.calibration import Calibration, Setting
from via_ext.evaluation import METHODS, TaskPrompt, ablation_methods, measures
from via_ext.evaluation.costs import PassCosts, Passes, pass_costs
from via_ext.evaluation.methods import Subject, baseline_of, choose, config_of, reason_against
from via_ext.evaluation.runners import Record
from via_ext.trace import TextScore

NEW = 8
KEYS = ["transformers", "assisted", "two-tier-2", "lookup", "via", "exact", "slim"]
ORACLES = ["oracle-two-tier", "oracle"]


@pytest.fixture(scope="module")
def pair():
    target, drafter = random_model("llama"), random_model("llama", num_layers=2)
    return target, drafter, SlimRoute.evenly(4, 0.5)


@pytest.fixture(scope="module")
def tasks():
    generator = torch.Generator().manual_seed(3)
    ids = [torch.randint(1, 96, (n,), generator=generator) for n in (6, 9, 5)]
    sets = (("a", "a/1"), ("a", "a/2"), ("b", "b/1"))
    return [TaskPrompt(str(i), *names, x) for i, (names, x) in enumerate(zip(sets, ids))]  # noqa: B905


@pytest.fixture(scope="module")
def done(pair, tasks, tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluation") / "new"
    options = {"methods": [*KEYS, *ORACLES, "via-0.95"], "max_new_tokens": NEW, "repeats": 2}
    calls = []
    progress = lambda *call: calls.append(call)  # noqa: E731
    found = evaluate(*pair, tasks, out=folder, problems=["x:1: bad"], progress=progress, **options)
    assert calls[-1][1] == calls[-1][2] and all(0 < done <= total for _, done, total in calls)
    return found


def test_cost_of_passes_by_hand():
    costs = PassCosts(slim=0.5, prefix=0.25, draft=0.1)
    assert costs.total(Passes(full=3, resumed=2, slim=4, draft=5)) == 3 - 0.5 + 2 + 0.5


def test_costs_are_shares_of_the_weights_a_pass_reads(pair):
    target, drafter, _ = pair
    layer = sum(p.numel() for p in target.model.layers[0].parameters() if p.dim() > 1)
    head = target.lm_head.weight.numel()
    route = SlimRoute((True, True, False, True), (True, True, True, True))
    attention = sum(p.numel() for p in target.model.layers[0].self_attn.parameters())
    full = 4 * layer + head
    costs = pass_costs(target, drafter, route)
    assert costs.slim == pytest.approx((full - attention) / full)
    assert costs.prefix == pytest.approx(2 * layer / full)
    assert costs.draft == pytest.approx((2 * layer + head) / full)
    assert pass_costs(target, None, None) == PassCosts(0.0, 0.0, 0.0)


def record(new, **changes):
    base = Record(torch.arange(new + 2), new, Passes(2, 0, 0, 0), 2.0)
    for name, value in changes.items():
        setattr(base, name, value)
    return base


def score(agrees, logprobs):
    return TextScore(torch.tensor(agrees), torch.tensor(logprobs))


def test_measures_of_a_set_by_hand():
    half, fifth = math.log(0.5), math.log(0.2)
    first = record(
        3, steps=2, examined=4, kept=3, tiers=(2, 0, 1), routes=(0.5, 0.25, 0.25),
        by_position=(1.0, 0.5), slim_logprobs=[(0, half), (2, fifth)],
    )  # fmt: skip
    second = record(
        1, cost=1.0, steps=2, examined=2, kept=0, tiers=(0, 1, 0), routes=(0.0, 1.0, 0.0),
        by_position=(0.0,),
    )  # fmt: skip
    scores = [score([True, False, True], [fifth, half, half]), score([True], [half])]
    found = measures.measure_set([first, second], scores)
    assert found["agreement"] == 0.75 and found["tokens"] == 4 and found["full_passes"] == 4
    assert found["modelled_cost"] == 0.75 and found["modelled_speedup"] == pytest.approx(4 / 3)
    assert found["mean_logprob"] == pytest.approx((fifth + 3 * half) / 4)
    assert found["rejection"] == 0.5 and found["tokens_per_step"] == 1.0
    assert [found[f"tier_{name}"] for name in ("draft", "slim", "full")] == [0.5, 0.25, 0.25]
    assert found["accept"] == pytest.approx(4 * 0.5 / 6)
    assert found["accepted_by_position"] == [0.5, 0.5]
    # s - q is .5 - .2 for token 0 and negative for token 2; the rest count 0.
    assert found["overshoot_mean"] == pytest.approx(0.3 / 4)
    assert found["overshoot_p99"] == pytest.approx(0.3)


def test_unknown_measures_are_absent():
    found = measures.measure_set([record(2)], [score([True, True], [-1.0, -1.0])])
    assert not {"rejection", "tier_full", "overshoot_mean", "tokens_per_step"} & set(found)
    assert "agreement" not in measures.measure_set([record(0)], [score([], [])])


def test_ratios_are_paired_within_set_and_repeat():
    sets = {"x": {"tokens": 10, "modelled_cost": 0.5}}
    plain, base = {"x": {"tokens": 20}}, {"x": {"tokens": 10, "modelled_cost": 0.75}}
    own, theirs, bases = [{"x": 1.0}, {"x": 4.0}], [{"x": 4.0}, {"x": 32.0}], [{"x": 1.0}] * 2
    measures.add_times(sets, plain, base, own, theirs, bases)
    row = sets["x"]
    assert row["tokens_per_second"] == (10 + 2.5) / 2
    assert row["speedup"] == (2.0 + 4.0) / 2 and row["ratio"] == (1.0 + 0.25) / 2
    assert row["modelled_ratio"] == 1.5
    summary = measures.summarize([row, {**row, "ratio": 0.0}])
    assert summary["ratio"] == 0.3125 and summary["ratio_se"] == pytest.approx(0.3125)


def test_what_ran_and_what_did_not(done):
    methods = done.data["methods"]
    assert {key for key, entry in methods.items() if entry["status"] == "done"} == {
        "greedy", *KEYS, *ORACLES,
    }  # fmt: skip
    assert "no calibration" in methods["via-0.95"]["reason"]
    assert done.data["baseline"] == "two-tier-2" and len(done.data["repeats"]) == 2
    for key in ("greedy", *KEYS):
        row = done.summary(key)
        assert row["tokens_per_second"] > 0 and row["ratio"] > 0 and row["sets"] == 3
        assert methods[key]["memory"]["kind"] and not methods[key]["note"]
    assert done.summary("two-tier-2")["ratio"] == done.summary("greedy")["speedup"] == 1.0
    for key in ORACLES:
        assert methods[key]["simulated"] and "speedup" not in done.summary(key)


def test_exact_methods_agree_and_counts_are_the_decoders(done, pair, tasks):
    for key, entry in done.data["methods"].items():
        if entry["status"] == "done" and METHODS[key].exact:
            assert done.summary(key)["agreement"] == 1.0
    target, drafter, route = pair
    decoder = Decoder(target, drafter, route, ViaConfig(max_new_tokens=NEW, seed=0))
    full = slim = agreed = 0
    for task in tasks:
        result = decoder.generate(task.input_ids[None])
        full, slim = full + result.stats.full_passes, slim + result.stats.slim_passes
        text = result.sequences[0].tolist()
        for place in range(len(task.input_ids), len(text)):
            agreed += greedy(target, text[:place], 1)[-1] == text[place]
    sets = done.data["methods"]["via"]["sets"].values()
    assert sum(row["full_passes"] for row in sets) == full
    assert sum(row["slim_passes"] for row in sets) == slim > 0
    total = sum(row["agreement"] * row["tokens"] for row in sets)
    assert total == pytest.approx(agreed) and agreed < 3 * NEW


def test_files_hold_it_all(done):
    names = set(done.files)
    assert {"results.json", "results.csv", "report.md", "speed_agreement.png"} <= names
    assert {"acceptance_by_position.svg", "tier_shares.png"} <= names
    for name in names:
        assert (done.folder / name).stat().st_size > 100
    data = json.loads((done.folder / "results.json").read_text())
    assert data["methods"]["via"]["summary"]["agreement"] == done.summary("via")["agreement"]
    assert {"torch", "cpu", "threads", "date"} <= set(data["facts"])
    assert data["settings"]["target"].startswith("sha256:")
    rows = list(csv.DictReader((done.folder / "results.csv").open()))
    assert len([row for row in rows if row["method"] == "via"]) == 4
    report = (done.folder / "report.md").read_text()
    for text in ("(simulated)", "(baseline)", "x:1: bad", "no calibration", "a: x greedy"):
        assert text in report


def test_baseline_and_choice():
    costs = {"two-tier-2": 0.6, "two-tier-4": 0.5, "two-tier-calibrated": 0.7}
    assert baseline_of(costs, costs) == "two-tier-calibrated"
    assert baseline_of(costs, ["greedy", "two-tier-2", "two-tier-4"]) == "two-tier-4"
    assert baseline_of({}, ["greedy", "via"]) == "greedy"
    assert [method.key for method in choose(["via"])] == ["greedy", "via"]
    assert len(choose(None)) == len(METHODS)


def test_calibrated_methods_run_where_there_is_a_setting(pair, tasks):
    weights = (0.0,) * 8
    settings = (Setting(1.0, draft_stop=0.3),)
    facts = {"num_draft_tokens": 3, "max_backlog": 9}
    calibration = Calibration(weights, weights, weights, (0.0,) * 4, settings, facts)
    two_tier = replace(SlimRoute.full(4), calibration=calibration)
    subject = Subject(*pair, two_tier)
    assert reason_against(METHODS["two-tier-calibrated"], subject) is None
    config = config_of(METHODS["two-tier-calibrated"], subject, 6, 0)
    assert (config.num_draft_tokens, config.max_backlog) == (3, 9)
    assert config_of(METHODS["via"], subject, 6, 0).num_draft_tokens == 5
    assert "0.95" in reason_against(METHODS["two-tier-0.95"], subject)
    found = evaluate(
        *pair, tasks, two_tier=two_tier, methods=["two-tier-calibrated", "oracle-two-tier"],
        max_new_tokens=6, repeats=1,
    )  # fmt: skip
    assert found.data["baseline"] == "two-tier-calibrated" and found.folder is None
    row = found.summary("two-tier-calibrated")
    assert row["agreement"] == 1.0 and row["draft_per_token"] > 0
    assert found.summary("oracle-two-tier")["modelled_cost"] <= row["modelled_cost"] + 1e-9


def test_a_calibrated_slim_tier_that_trusts_nothing_is_exact(pair, tasks):
    """No decision of the slim verifier passes limits below 0: all tokens are the full model's."""
    weights = (0.0,) * 8
    settings = (Setting(0.95), Setting(0.9, 1.0, 1.0, 1.0))
    calibration = Calibration(weights, weights, weights, (0.0,) * 4, settings)
    target, drafter, route = pair
    calibrated = replace(route, calibration=calibration)
    options = {"methods": ["via-0.95", "via-0.90"], "max_new_tokens": 6, "repeats": 0}
    found = evaluate(target, drafter, calibrated, tasks, **options)
    strict, loose = (found.summary(key) for key in options["methods"])
    assert strict["agreement"] == 1.0 and strict["tier_full"] == 1.0
    assert loose["full_per_token"] == 0.0 and loose["tier_full"] == 0.0


def test_searched_routes_need_text_and_differ_from_the_route_in_nothing_else(pair):
    target, _, route = pair
    text = [torch.randint(1, 96, (40,), generator=torch.Generator().manual_seed(5))]
    methods = ablation_methods(["seeds"], route, target=target, text=text)
    assert {method.route.skip_ratio for method in methods} == {route.skip_ratio}
    assert len({method.key for method in methods}) == 3
    with pytest.raises(ValueError, match="text must be given"):
        ablation_methods(["seeds"], route)


def test_ablations_vary_one_thing(pair, tasks):
    route = pair[2]
    methods = ablation_methods(["masks", "skip", "drafts", "gate"], route)
    assert {method.ablation for method in methods} == {"masks", "skip", "drafts", "gate"}
    for method in methods:
        if method.ablation == "masks":
            assert method.route.skip_ratio == route.skip_ratio and method.route.keep_mlp[-1]
    chosen = [m for m in methods if m.key in ("masks-1", "drafts-3", "gate-0.5")]
    found = evaluate(*pair, tasks[:1], methods=chosen, max_new_tokens=4, repeats=0)
    assert {e["status"] for e in found.data["methods"].values()} == {"done"}
    assert found.data["methods"]["masks-1"]["keep_mlp"] == list(methods[0].route.keep_mlp)
    with pytest.raises(ValueError, match="ablation must be of seeds"):
        ablation_methods(["mask"], route)
