# SPDX-License-Identifier: Apache-2.0
"""`calibrate` as a whole, with small random models: settings, files, decoding, errors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("transformers")

import via_ext
from tests.models import greedy, random_model
from via_ext.calibration.decode import Trials
from via_ext.calibration.report import Calibrated
from via_ext.config import ViaConfig
from via_ext.decode import Decoder
from via_ext.drafters import PromptLookupDrafter
from via_ext.fingerprint import fingerprint
from via_ext.route import SlimRoute
from via_ext.trace import score_text

ROUTE = SlimRoute((True, True, True), (True, False, True))
#: Many short prompts: rows are decoded together, tokens one after the other.
PROMPTS, NEW = 20, 15


@pytest.fixture(scope="module")
def models() -> tuple[Any, Any]:
    return random_model("llama", 3, seed=3), random_model("llama", 1, seed=3)


@pytest.fixture(scope="module")
def prompts() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    return [torch.randint(0, 96, (6,), generator=generator) for _ in range(PROMPTS)]


@pytest.fixture(scope="module")
def found(models, prompts) -> Calibrated:
    return calibrate(models, prompts)


def calibrate(models: tuple[Any, Any], prompts: list[torch.Tensor], **more: Any) -> Calibrated:
    options: dict[str, Any] = {"agreements": (0.9, 1.0), "max_new_tokens": NEW} | more
    route = options.pop("route", ROUTE)
    return via_ext.calibrate(*models, route, prompts, **options)


def test_reports_and_settings(found: Calibrated, models) -> None:
    assert found.finished and found.refitted in (True, False)
    assert [report.agreement for report in found.reports] == [1.0, 0.9]
    assert set(found.quality) <= {"draft", "slim", "bonus", "acceptance"}
    calibration = found.route.calibration
    assert calibration.settings == tuple(report.setting for report in found.reports)
    exact, lossy = found.reports
    assert exact.measured == 1.0
    for report in found.reports:
        assert report.interval[0] <= report.measured <= report.interval[1]
        assert report.setting.cost > 0.0 and report.setting.measured == report.measured
        assert report.cost > 0.0 and report.gain is not None
    # Chosen on the calibration prompts, so compared there.
    assert lossy.setting.cost <= exact.setting.cost
    facts = calibration.facts
    assert facts["tokens"] >= 200 and facts["prompts"] == [14, 6]
    assert found.route.fingerprint == fingerprint(models[0])


def test_saved_route_loads_and_decodes(found: Calibrated, models, prompts, tmp_path: Path) -> None:
    target, drafter = models
    path = tmp_path / "route.json"
    found.route.save(path, model=target)
    route = SlimRoute.load(path)
    assert route.calibration == found.route.calibration
    config = ViaConfig(mode="exact", agreement=1.0, max_new_tokens=24)
    result = Decoder(target, drafter, route, config).generate(prompts[0])
    assert result.sequences[0].tolist() == greedy(target, prompts[0].tolist(), 24)
    config = replace(config, mode="via", agreement=0.9)
    result = Decoder(target, drafter, route, config).generate(prompts[:4])
    scores = score_text(target, list(result.sequences), [6] * 4)
    assert sum(int(score.agrees.sum()) for score in scores) >= 0.7 * 4 * 24


def test_two_tiers(models, prompts) -> None:
    two = calibrate(models, prompts, route=None)
    assert two.route.is_full and two.refitted is None and set(two.quality) == {"acceptance"}
    for report in two.reports:
        assert report.two_tier_cost is None and report.skips_slim
        assert (report.accept, report.regenerate, report.escalate) == (0.0, 0.0, 0.0)
    config = ViaConfig(mode="exact", agreement=1.0, max_new_tokens=24)
    result = Decoder(*models, two.route, config).generate(prompts[0])
    assert result.sequences[0].tolist() == greedy(models[0], prompts[0].tolist(), 24)


def test_interrupted_keeps_what_is_done(models, prompts, monkeypatch) -> None:
    measure = Trials.measure

    def interrupted(self, calibration, setting, texts):
        if setting is not None and setting.agreement < 1.0:
            raise KeyboardInterrupt
        return measure(self, calibration, setting, texts)

    monkeypatch.setattr(Trials, "measure", interrupted)
    part = calibrate(models, prompts, route=None)
    assert not part.finished and [report.agreement for report in part.reports] == [1.0]
    assert [setting.agreement for setting in part.route.calibration.settings] == [1.0]
    with pytest.raises(KeyboardInterrupt):
        calibrate(models, prompts, route=None, agreements=(0.9,))


def test_errors_before_work(models, prompts) -> None:
    target, drafter = models
    for agreements, said in (
        ((), "at least one number"),
        ((0.0,), r"in \(0, 1\], got 0"),
        ((1.5,), r"in \(0, 1\], got 1.5"),
    ):
        with pytest.raises(ValueError, match=said):
            calibrate(models, prompts, agreements=agreements)
    with pytest.raises(TypeError, match="agreements must hold numbers"):
        calibrate(models, prompts, agreements=("0.9",))
    for name, wrong in (("route", "x"), ("agreements", 0.9), ("seed", "x"), ("held_out", None)):
        with pytest.raises(TypeError, match=f"calibrate: {name} must be"):
            calibrate(models, prompts, **{name: wrong})
    with pytest.raises(TypeError, match="calibrate: prompts must be a sequence of tensors"):
        calibrate(models, None)
    with pytest.raises(ValueError, match=r"calibrate: prompts must leave .*, got 0"):
        calibrate(models, [])
    for other, name in ((PromptLookupDrafter(), "PromptLookupDrafter"), (None, "NoneType")):
        said = f"calibrate: drafter must be a model or a ModelDrafter, got {name}: "
        with pytest.raises(TypeError, match=f"{said}.* small model .* without agreement"):
            via_ext.calibrate(target, other, ROUTE, prompts)
    with pytest.raises(TypeError, match="target must be a transformers model"):
        via_ext.calibrate(torch.nn.Linear(2, 2), drafter, ROUTE, prompts)
    with pytest.raises(ValueError, match="must have 3 layers"):
        calibrate(models, prompts, route=SlimRoute.evenly(6))
    with pytest.raises(ValueError, match="must be of this model"):
        calibrate(models, prompts, route=replace(ROUTE, fingerprint="sha256:0"))
    with pytest.raises(ValueError, match=r"held_out must be in \(0, 1\), got 1"):
        calibrate(models, prompts, held_out=1.0)
    with pytest.raises(ValueError, match="at least 4 to fit on, got 3"):
        calibrate(models, prompts[:4])
    with pytest.raises(ValueError, match="at least 200 tokens to fit on, got 70"):
        calibrate(models, prompts, max_new_tokens=5)
    with pytest.raises(ValueError, match="leave room for max_new_tokens = 400"):
        calibrate(models, prompts, max_new_tokens=400)
