# SPDX-License-Identifier: Apache-2.0
"""Calibrated decoding in mode "via": the router's limits, the full model's ratio, the errors."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.calibrations import DRAFT, SLIM, calibrated
from tests.test_calibrated_exact import (
    FULL,
    NEW,
    ROUTE,
    SHAPES,
    _expected,
    _models,
    _plain,
    _prompts,
)
from via_ext.config import ViaConfig
from via_ext.decode import Decoder
from via_ext.drafters import ModelDrafter, PromptLookupDrafter, SlimDrafter
from via_ext.engines.calibrated import check_device, choose_setting
from via_ext.engines.hooks import RowHooks
from via_ext.route import SlimRoute

ALWAYS = {"accept_error": 1.0, "regenerate_error": 1.0, "bonus_error": 1.0}
#: Accepts and refuses drafts, regenerates and escalates.
MIXED = {"accept_error": 0.2, "regenerate_error": 0.65, "bonus_error": 0.6}


def _decoder(route: SlimRoute, drafter: Any = None, **options: Any) -> Decoder:
    target, draft_model = _models()
    config = ViaConfig(**{"agreement": 0.9, "max_new_tokens": NEW, "seed": 0} | options)
    drafter = ModelDrafter(draft_model) if drafter is None else drafter
    return Decoder(target, drafter, route, config)


def _rows(result: Any) -> list[list[int]]:
    lengths = result.lengths.tolist()
    return [row[:n].tolist() for row, n in zip(result.sequences, lengths, strict=True)]


@pytest.mark.parametrize("shape", SHAPES)
def test_limits_of_one_leave_everything_to_the_slim_verifier(shape: str) -> None:
    result = _decoder(calibrated(ROUTE, 0.9, **ALWAYS), **SHAPES[shape]).generate(_prompts(3))
    assert result.stats.full_passes == 0 and set(result.tiers.flatten().tolist()) == {0, 1}
    # The backlog's limit stands above the router.
    capped = _decoder(calibrated(ROUTE, 0.9, **ALWAYS), max_backlog=2, **SHAPES[shape])
    assert capped.generate(_prompts(3)).stats.full_passes > 0


@pytest.mark.parametrize("shape", SHAPES)
def test_negative_limits_are_the_full_model_everywhere(shape: str) -> None:
    result = _decoder(calibrated(ROUTE, 0.9), **SHAPES[shape]).generate(_prompts(3))
    stats = result.stats
    assert _rows(result) == _expected(3) and set(result.tiers.flatten().tolist()) == {2}
    assert stats.steps == stats.slim_passes == stats.full_passes == stats.resumed_passes


@pytest.mark.parametrize("shape", SHAPES)
def test_a_row_is_decided_alone_and_row_by_row_as_in_a_batch(shape: str) -> None:
    """Row by row, every call has its own root: the router must see the same depths there."""
    weights = {"draft": (*DRAFT[:6], 0.6, DRAFT[7]), "slim": (*SLIM[:6], -0.4, SLIM[7])}
    route = calibrated(ROUTE, 0.9, draft_stop=0.3, full_ratio=0.6, **weights, **MIXED)
    decoder = _decoder(route, max_backlog=6, **SHAPES[shape])
    together = decoder.generate(_prompts(3))
    stats = together.stats
    assert min(stats.accept_rate, stats.regenerate_rate, stats.escalate_rate) > 0.0, stats
    hooks = [RowHooks(processors=lambda ids, scores: scores, stateful=False) for _ in range(3)]
    by_row = decoder.run(_prompts(3), hooks=hooks)
    assert _rows(by_row) == _rows(together)
    assert torch.equal(by_row.tiers, together.tiers)
    for row, prompt in enumerate(_prompts(3)):
        alone = decoder.generate(prompt)
        assert _rows(alone)[0] == _rows(together)[row]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("route", [FULL, ROUTE], ids=["two-tier", "slim"])
def test_full_ratio_bounds_what_the_full_model_takes(route: SlimRoute, shape: str) -> None:
    ratio, limits = 0.02, MIXED if route is ROUTE else {}
    calibration = calibrated(route, 0.9, full_ratio=ratio, **limits)
    result = _decoder(calibration, **SHAPES[shape]).generate(_prompts(3))
    found = []
    for row, (prompt, ids) in enumerate(zip(_prompts(3), _rows(result), strict=True)):
        first = len(prompt)
        with torch.no_grad():
            logits = _models()[0](torch.tensor([ids])).logits[0, first - 1 : -1]
        chosen = logits.gather(1, torch.tensor(ids[first:])[:, None])[:, 0]
        ratios = (chosen - logits.amax(-1)).exp()
        found += ratios[result.tiers[row, : len(ids) - first] == 2].tolist()
    assert min(found) >= ratio * 0.999
    assert min(found) < 0.999  # some are not its first choice


@pytest.mark.parametrize("kind", ["model", "slim"])
def test_two_tiers_with_a_ratio_of_one_are_exact(kind: str) -> None:
    drafter = SlimDrafter() if kind == "slim" else None
    route = calibrated(ROUTE if kind == "slim" else FULL, 0.9, draft_stop=0.6, **ALWAYS)
    result = _decoder(route, drafter).generate(_prompts(3))
    assert _rows(result) == _expected(3) and result.stats.slim_passes == 0


def test_without_drafts_the_bonus_model_decides() -> None:
    target, _ = _models()
    for limit, passes in ((1.0, 0), (-1.0, NEW)):
        config = ViaConfig(agreement=0.9, max_new_tokens=NEW, max_backlog=NEW)
        decoder = Decoder(target, None, calibrated(ROUTE, 0.9, bonus_error=limit), config)
        assert decoder.generate(_prompts(1)).stats.full_passes == passes


def test_errors_come_before_any_work() -> None:
    with pytest.raises(ValueError, match=r"route must hold a calibration .*, got None"):
        _decoder(None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"route must hold a calibration .*, got a route without"):
        _decoder(ROUTE)
    with pytest.raises(ValueError, match=r"agreement must be one .* \(0.95\).*, got 0.9"):
        _decoder(calibrated(ROUTE, 0.95))
    with pytest.raises(ValueError, match=r"drafter must have set_scoring .*, got PromptLookup"):
        _decoder(calibrated(ROUTE, 0.9), PromptLookupDrafter())
    _decoder(calibrated(ROUTE, 0.9, **_plain()), PromptLookupDrafter())
    _decoder(calibrated(FULL, 0.9), PromptLookupDrafter())


def test_a_drafter_that_was_asked_for_scores_must_give_them() -> None:
    class Silent(ModelDrafter):
        def propose(self, *arguments: Any) -> Any:
            return super().propose(*arguments)._replace(scores=None)

    decoder = _decoder(calibrated(ROUTE, 0.9), Silent(_models()[1]))
    with pytest.raises(ValueError, match=r"scores must be given .*, got None from Silent"):
        decoder.generate(torch.tensor([[5, 9, 2]]))


def test_cuda_is_refused_by_name() -> None:
    parameter = SimpleNamespace(device=torch.device("cuda", 0))
    target = SimpleNamespace(parameters=lambda: iter([parameter]))
    check_device(ViaConfig(), target)
    with pytest.raises(ValueError, match=r"agreement must be None on CUDA .*, got 0.9"):
        check_device(ViaConfig(agreement=0.9), target)
    with pytest.raises(ValueError, match=r"auto_tier must be False on CUDA .*, got True"):
        check_device(ViaConfig(auto_tier=True), target)


def test_a_setting_applies_where_its_mode_and_tiers_allow() -> None:
    everything = {"audit_survival": 0.9, "full_ratio": 0.5, "full_matches": 2.0, "draft_stop": 0.4}

    def chosen(agreement: float, has_slim: bool = True, **options: Any) -> Any:
        config = ViaConfig(agreement=agreement, **options)
        route = calibrated(ROUTE, agreement, **everything)
        return choose_setting(config, route, ModelDrafter(_models()[1]), has_slim=has_slim)

    via = chosen(0.9)
    assert via.router is not None and via.audit_survival == 0.0 and via.full_ratio == 0.5
    exact = chosen(1.0, mode="exact")
    assert exact.router is None and exact.audit_survival == 0.9 and exact.full_ratio == 1.0
    assert exact.full_matches == 2.0 and exact.scoring.scores
    # A drawn draft is not looked at before it is judged.
    assert chosen(1.0, mode="exact", temperature=1.0).full_matches == float("inf")
    two = chosen(0.9, has_slim=False)
    assert two.router is None and two.full_matches == float("inf") and not two.scoring.scores
    assert two.scoring.threshold == 0.4
