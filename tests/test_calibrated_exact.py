# SPDX-License-Identifier: Apache-2.0
"""Calibrated decoding that must not change a token: mode "exact", whatever the calibration says."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.calibrations import ZERO, calibrated
from tests.models import VOCAB_SIZE, greedy, random_model
from via_ext.config import ViaConfig
from via_ext.decode import Decoder
from via_ext.drafters import ModelDrafter, PromptLookupDrafter, SlimDrafter
from via_ext.route import SlimRoute
from via_ext.tree import Tree

NEW = 12
ROUTE = SlimRoute((True, False, True, True), (True, True, False, True))
FULL = SlimRoute.full(4)
SHAPES: dict[str, dict[str, Any]] = {
    "chain": {"num_draft_tokens": 4},
    "tree": {"tree": Tree.from_widths([2, 2])},
}


@lru_cache(maxsize=1)
def _models() -> tuple[Any, Any]:
    """A target, and a drafter of its first three layers: it is right now and then."""
    target = random_model("llama")
    drafter = random_model("llama", num_layers=3)
    drafter.load_state_dict(target.state_dict(), strict=False)
    return target, drafter


@lru_cache(maxsize=4)
def _prompts(count: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(count)
    lengths = [7, 3, 12][:count]
    return [torch.randint(VOCAB_SIZE, (n,), generator=generator) for n in lengths]


@lru_cache(maxsize=4)
def _expected(count: int) -> list[list[int]]:
    return [greedy(_models()[0], prompt.tolist(), NEW) for prompt in _prompts(count)]


def _decode(route: SlimRoute, batch: int, drafter: Any = None, **options: Any) -> Any:
    target, draft_model = _models()
    common = {"mode": "exact", "agreement": 1.0, "max_new_tokens": NEW, "seed": 0}
    config = ViaConfig(**common | options)
    drafter = ModelDrafter(draft_model) if drafter is None else drafter
    result = Decoder(target, drafter, route, config).generate(_prompts(batch))
    lengths = result.lengths.tolist()
    rows = [row[:n].tolist() for row, n in zip(result.sequences, lengths, strict=True)]
    assert result.status.tolist() == [0] * batch
    return rows, result.stats


weights = st.floats(-20.0, 20.0)
models = st.tuples(*[weights] * 8)
unit = st.floats(0.0, 1.0)


@settings(max_examples=20, deadline=None)
@given(
    draft=models,
    slim=models,
    bonus=models,
    acceptance=st.tuples(*[weights] * 4),
    stop=unit,
    survival=unit,
    matches=st.one_of(st.floats(0.0, 4.0), st.just(float("inf"))),
    shape=st.sampled_from(sorted(SHAPES)),
    batch=st.sampled_from([1, 3]),
    max_backlog=st.sampled_from([1, 3, 32]),
    slim_tier=st.booleans(),
)
def test_any_calibration_gives_the_full_models_tokens(
    draft: Any,
    slim: Any,
    bonus: Any,
    acceptance: Any,
    stop: float,
    survival: float,
    matches: float,
    shape: str,
    batch: int,
    max_backlog: int,
    slim_tier: bool,
) -> None:
    route = calibrated(
        ROUTE if slim_tier else FULL,
        1.0,
        draft=draft,
        slim=slim,
        bonus=bonus,
        acceptance=acceptance,
        draft_stop=stop,
        audit_survival=survival,
        full_matches=matches,
        full_ratio=0.1,
        accept_error=1.0,
        bonus_error=1.0,
    )
    rows, _ = _decode(route, batch, max_backlog=max_backlog, **SHAPES[shape])
    assert rows == _expected(batch)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_low_survival_brings_the_audit_with_the_next_draft(shape: str) -> None:
    """At 1 every provisional token is too much: slim and full steps take turns."""
    rows, stats = _decode(calibrated(ROUTE, 1.0, audit_survival=1.0), 1, **SHAPES[shape])
    assert rows == _expected(1)
    assert stats.resumed_passes <= 1  # no slim pass but the last is followed up in its own step
    assert stats.slim_passes <= stats.full_passes - stats.resumed_passes + 1
    _, late = _decode(calibrated(ROUTE, 1.0), 1, **SHAPES[shape])
    assert late.slim_passes > stats.slim_passes


def test_full_passes_of_a_slim_step_resume_from_it() -> None:
    """Without a calibrated reason a full pass follows the slim pass, or a full backlog."""
    _, stats = _decode(calibrated(ROUTE, 1.0), 3, max_backlog=3, **SHAPES["chain"])
    assert stats.steps == stats.slim_passes + stats.full_passes - stats.resumed_passes
    assert 0 < stats.resumed_passes < stats.full_passes
    _, two_tier = _decode(calibrated(FULL, 1.0), 3, **SHAPES["chain"])
    assert two_tier.slim_passes == two_tier.resumed_passes == 0


@pytest.mark.parametrize("shape", SHAPES)
def test_a_draft_that_looks_good_goes_straight_to_the_full_model(shape: str) -> None:
    rows, stats = _decode(calibrated(ROUTE, 1.0, full_matches=0.0), 3, **SHAPES[shape])
    assert rows == _expected(3) and stats.slim_passes == 0
    # Acceptances of nearly 1: a chain of four counts as four, a tree of two levels as more.
    sure = {"acceptance": (30.0, 0.0, 0.0, 0.0)}
    bound = 3.9 if shape == "chain" else 5.9
    _, stats = _decode(calibrated(ROUTE, 1.0, full_matches=bound, **sure), 1, **SHAPES[shape])
    assert stats.full_passes >= stats.steps - 2
    _, stats = _decode(calibrated(ROUTE, 1.0, full_matches=6.1, **sure), 1, **SHAPES[shape])
    assert stats.slim_passes == stats.steps


def test_a_draft_stop_shortens_chains_and_saves_passes() -> None:
    never = calibrated(FULL, 1.0, draft_stop=1.0, acceptance=(-30.0, 0.0, 0.0, 0.0))
    rows, stats = _decode(never, 3, **SHAPES["chain"])
    # The node whose product falls below the stop stays in.
    assert rows == _expected(3)
    assert stats.drafted == stats.draft_passes and len(stats.accepted_by_position) == 1
    rows, whole = _decode(calibrated(FULL, 1.0), 3, **SHAPES["chain"])
    rows, some = _decode(calibrated(FULL, 1.0, draft_stop=0.5), 3, **SHAPES["chain"])
    assert rows == _expected(3)
    assert stats.drafted < some.drafted < whole.drafted
    assert some.draft_passes == some.drafted and whole.draft_passes == whole.drafted


def test_a_slim_drafter_stops_its_chains_too() -> None:
    drafter = SlimDrafter()
    rows, whole = _decode(calibrated(ROUTE, 1.0), 3, drafter, **SHAPES["chain"])
    route = calibrated(ROUTE, 1.0, draft_stop=0.7)
    rows, some = _decode(route, 3, drafter, **SHAPES["chain"])
    assert rows == _expected(3) and some.drafted < whole.drafted
    # The rule is of a run: the next decoder of the same drafter drafts in full again.
    assert _decode(calibrated(ROUTE, 1.0), 3, drafter, **SHAPES["chain"])[1] == whole


def test_a_drafter_without_scores_is_served_where_no_model_weighs_them() -> None:
    route = calibrated(ROUTE, 1.0, draft_stop=0.9, full_matches=1.0, audit_survival=0.8, **_plain())
    rows, stats = _decode(route, 3, PromptLookupDrafter(), **SHAPES["chain"])
    assert rows == _expected(3) and stats.draft_passes == 0 and stats.slim_passes > 0


def _plain() -> dict[str, Any]:
    model = (-2.0, -0.5, 0.0, -0.1, *ZERO[4:])
    return {"draft": model, "slim": model, "bonus": model}
