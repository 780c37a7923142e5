# SPDX-License-Identifier: Apache-2.0
"""`search_route`: constraints, seeds, resumption, interruption, what it finds, errors."""

from __future__ import annotations

import random
import statistics
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

import via_ext
from tests.models import VOCAB_SIZE, random_model
from via_ext import demo
from via_ext.route import SlimRoute
from via_ext.scoring import DeployedScorer
from via_ext.search.costs import SublayerCosts
from via_ext.search.objective import Objective
from via_ext.search.result import RouteSearch, Trial
from via_ext.search.space import Moves, RouteSpace

LAYERS, LEAST = 6, 10  # two more than the eight sublayers that may be skipped


@cache
def _model() -> Any:
    return random_model("llama", num_layers=LAYERS)


def text_of_tests() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(8)
    return [torch.randint(VOCAB_SIZE, (n,), generator=generator) for n in (12, 7)]


def search(**options: Any) -> RouteSearch:
    settings: dict[str, Any] = {"max_backlog": 4, "trials": 20} | options
    return via_ext.search_route(_model(), text_of_tests(), **settings)


def _plain(trials: tuple[Trial, ...]) -> list[Any]:
    return [(t.number, t.kind, t.route, t.value, t.agreement, t.candidate) for t in trials]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"proposals": "bayes"},
        {"objective": "missing_mass", "min_shared_prefix": 3, "skip_ratio": 0.2},
        {"objective": "latency", "skip_ratio": None, "proposals": "bayes"},
        {"skip_ratio": 0.1},
    ],
    ids=lambda options: ",".join(map(str, options.values())) or "default",
)
def test_constraints_and_seed(options: dict[str, Any]) -> None:
    """Of every trial; the same seed gives the same trials, another one others."""
    if options.get("proposals") == "bayes":
        pytest.importorskip("optuna")
    found = search(**options)
    prefix = options.get("min_shared_prefix", 1)
    ratio = options.get("skip_ratio", 0.45)
    for trial in found.trials:
        masks = trial.route.keep_attention, trial.route.keep_mlp
        assert trial.route.shared_prefix >= prefix
        assert all(mask[0] and mask[-1] for mask in masks)
        skipped = round(2 * LAYERS * trial.route.skip_ratio)
        assert trial.candidate == (ratio is None or skipped == round(2 * LAYERS * ratio))
        assert trial.candidate or (trial.kind == "sensitivity" and skipped == 1)
    searched = [t.route for t in found.trials if t.kind not in ("initial", "sensitivity")]
    assert len(set(searched)) == len(searched)
    best = min((t for t in found.trials if t.candidate), key=lambda t: t.value)
    assert (
        (found.route, found.cost)
        == (best.route, best.value)
        == (best.route, min(found.best_values))
    )
    assert _plain(search(**options).trials) == _plain(found.trials)
    if ratio is None or ratio > 0.4:
        assert len(found.trials) == 20
        assert _plain(search(seed=1, **options).trials) != _plain(found.trials)


def test_values_are_the_objectives_on_the_text() -> None:
    found = search(alpha=0.3, beta=0.4)
    scorer = DeployedScorer(_model(), text_of_tests(), 4)
    score = Objective(scorer, "divergence", 0.3, 0.4, SublayerCosts.from_bytes(_model().config))
    for trial in found.trials[::5]:
        assert score(trial.route).value == pytest.approx(trial.value)
    for sublayer, value in found.sensitivity.items():
        masks = {part: [True] * LAYERS for part in ("attention", "mlp")}
        masks[sublayer.part][sublayer.layer] = False
        alone = SlimRoute(tuple(masks["attention"]), tuple(masks["mlp"]))
        assert score(alone).value == pytest.approx(value)
    assert len(found.sensitivity) == 8


def test_small_spaces_are_searched_whole() -> None:
    """28 routes skip two of eight sublayers: the best of them is found, and the search ends."""
    found = search(skip_ratio=2 / 12, trials=500)
    candidates = {trial.route for trial in found.trials if trial.candidate}
    assert len(candidates) == 28 and len(found.trials) == 28 + 8


def test_better_than_random_masks_on_the_pair() -> None:
    pair = demo.load()
    ids = pair.tokenizer.encode("\n".join(prompt.text for prompt in demo.prompts()[:5]))
    text = torch.tensor(ids[:198]).view(3, 66)
    count = pair.target.config.num_hidden_layers
    space = RouteSpace(count, 0.45, None)
    trials = len(space.sublayers) + 12
    found = via_ext.search_route(pair.target, text, trials=trials)
    scorer = DeployedScorer(pair.target, text)
    score = Objective(scorer, "divergence", 0.5, 0.3, SublayerCosts.from_bytes(pair.target.config))
    rng = random.Random(3)
    masks = [space.route(space.uniform(rng)) for _ in range(8)]
    assert found.cost < statistics.mean(score(route).value for route in masks)


def test_delta_and_facts(tmp_path: Path) -> None:
    drafter = random_model("llama", num_layers=1, seed=3)
    found = search(drafter=drafter, trials=LEAST)
    facts = found.route.facts
    assert facts["delta"] == found.delta is not None and facts["value"] == found.cost
    expected = {"objective": "divergence", "seed": 0, "trials": LEAST, "tokens": 19, "alpha": 0.5}
    assert expected.items() <= facts.items()
    assert facts["skip_ratio"] == found.route.skip_ratio
    assert facts["via_ext"] == via_ext.__version__ and len(facts["text_sha256"]) == 64
    found.route.save(tmp_path / "route.json")
    loaded = SlimRoute.load(tmp_path / "route.json")
    assert loaded == found.route and loaded.facts == facts
    assert loaded.fingerprint == via_ext.fingerprint.fingerprint(_model())
    other = [*text_of_tests()[:1], text_of_tests()[1].flip(0)]
    again = via_ext.search_route(_model(), other, max_backlog=4, trials=LEAST)
    assert again.route.facts["text_sha256"] != facts["text_sha256"] and again.delta is None
    table = found.table().splitlines()
    assert [line.split()[0] for line in table[:3]] == ["objective", "value", "delta"]
    assert f"{found.cost:.4g}" in table[1]


class _Stop:
    """Ctrl-C after so many trials."""

    def __init__(self, after: int) -> None:
        self.after = after

    def __call__(self, trial: Trial, best: Trial) -> None:
        assert best.value <= trial.value or not trial.candidate
        if trial.number + 1 == self.after:
            raise KeyboardInterrupt


@cache
def _whole(proposals: str) -> RouteSearch:
    """Not interrupted, with a drafter."""
    return search(proposals=proposals, drafter=random_model("llama", num_layers=1, seed=3))


@pytest.mark.parametrize("proposals", ["swaps", "bayes"])
@pytest.mark.parametrize("after", [3, 15])
def test_interrupted_and_resumed(tmp_path: Path, proposals: str, after: int) -> None:
    """The best so far is kept; going on ends as if nothing had happened, and scores none anew."""
    if proposals == "bayes":
        pytest.importorskip("optuna")
    study = tmp_path / "trials.jsonl"
    drafter = random_model("llama", num_layers=1, seed=3)
    settings: dict[str, Any] = {"proposals": proposals, "drafter": drafter}
    whole = _whole(proposals)
    broken = search(study=study, progress=_Stop(after), **settings)
    assert broken.interrupted and broken.delta is None and not whole.interrupted
    assert _plain(broken.trials) == _plain(whole.trials[:after])
    assert broken.cost == min(t.value for t in broken.trials if t.candidate)
    with study.open("a") as file:
        file.write('{"kind": "swap", "sk')  # as a killed process leaves it
    resumed = search(study=study, **settings)
    assert _plain(resumed.trials) == _plain(whole.trials) and resumed.delta == whole.delta
    assert [t.seconds for t in resumed.trials[:after]] == [t.seconds for t in broken.trials]
    assert len(study.read_text().splitlines()) == 1 + len(whole.trials)
    longer = search(study=study, trials=23, **{"proposals": proposals})
    assert _plain(longer.trials[:20]) == _plain(whole.trials) and len(longer.trials) == 23


def test_measured_costs_of_a_study_are_kept(tmp_path: Path) -> None:
    def run(seconds: float) -> RouteSearch:
        costs = SublayerCosts((1.0,) * LAYERS, (seconds,) * LAYERS, 1.0, "seconds")
        study, trials = tmp_path / "trials.jsonl", LEAST if seconds == 2.0 else 12
        return search(objective="latency", costs=costs, study=study, trials=trials)

    first, second = run(2.0), run(2.5)
    assert _plain(second.trials[:LEAST]) == _plain(first.trials)
    assert second.route.facts["costs"] == "seconds"


def test_patience_and_initial() -> None:
    start = SlimRoute.evenly(LAYERS, first_skip=2)
    found = search(initial=start, trials=200, patience=3)
    assert found.trials[0].route == start and found.trials[0].kind == "initial"
    assert len(found.trials) < 40
    assert len(set(found.best_values[-4:])) == 1 < len(set(found.best_values[-5:]))


def test_moves_keep_the_space_and_prefer_the_insensitive() -> None:
    space = RouteSpace(LAYERS, 0.25, None)
    moves = Moves(space, range(8), random.Random(2))
    assert moves.starts() == [frozenset({0, 1, 2})]
    counts = [0] * 8
    for _ in range(600):
        found = moves.neighbour(frozenset({1, 4, 6}))
        assert len(found) == 3 and found <= set(range(8))
        for index in found:
            counts[index] += 1
    assert counts[0] > counts[7] and counts[1] > counts[6]
    assert len(moves.repaired(frozenset(range(8)))) == len(moves.repaired(frozenset())) == 3


def test_plots(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    paths = search(trials=12).plot(tmp_path / "figures")
    assert [path.name for path in paths] == [
        "route_search_trials.png",
        "route_search_sensitivity.png",
    ]
    for path in paths:
        assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 5000
