# SPDX-License-Identifier: Apache-2.0
"""Calibrated exact sampling follows the full model's distribution, at any stop and any audit."""

from __future__ import annotations

from typing import Any

import pytest

from tests.calibrations import calibrated
from tests.test_decode_law import LENGTH, ROUTE, _assert_law, _frequencies, _law, _models
from via_ext.config import ViaConfig
from via_ext.decode import Decoder
from via_ext.drafters import DraftTokens
from via_ext.drafters.model import ModelDrafter
from via_ext.engines import session
from via_ext.engines.draft import Draft, split_drafts
from via_ext.route import SlimRoute

# full_matches is off when tokens are drawn: see test_calibrated_via.py.
CASES: dict[str, tuple[SlimRoute, dict[str, Any]]] = {
    "two-tier draft stop": (SlimRoute.full(3), {"draft_stop": 0.6}),
    "three-tier draft stop and survival": (
        ROUTE,
        {"draft_stop": 0.6, "audit_survival": 0.6, "full_matches": 0.8},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_calibrated_sampling_follows_the_full_model(case: str) -> None:
    target, draft_model = _models()
    route, setting = CASES[case]
    drafter = ModelDrafter(draft_model)
    decoders = []

    def decoder_of(seed: int) -> Decoder:
        config = ViaConfig(
            mode="exact",
            agreement=1.0,
            temperature=1.3,
            seed=seed,
            num_draft_tokens=3,
            max_new_tokens=LENGTH + 2,
            eos_token_id=(),
        )
        decoders.append(Decoder(target, drafter, calibrated(route, 1.0, **setting), config))
        return decoders[-1]

    _assert_law(_frequencies(decoder_of), _law(target, 1.3))
    _assert_both_ways(case, [decoder.stats for decoder in decoders])


def _assert_both_ways(case: str, found: list[Any]) -> None:
    """The rules of a case applied here and there, neither nowhere nor everywhere."""
    steps = sum(stats.steps for stats in found)
    shares = sum(stats.drafted for stats in found) / steps
    assert 1.05 < shares < 2.6, shares
    if case != "two-tier draft stop":
        fresh = sum(stats.full_passes - stats.resumed_passes for stats in found)
        assert 0.05 < fresh / steps < 0.6, fresh / steps


def test_dropping_the_doubtful_node_itself_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then a node's own token decides whether it exists: the same test must reject it."""
    target, draft_model = _models()
    drafter = ModelDrafter(draft_model)

    def split(proposal: DraftTokens, *arguments: Any) -> list[Draft]:
        counts, width = proposal.num_nodes, proposal.token_ids.shape[1]
        if counts is not None:
            proposal = proposal._replace(num_nodes=counts - (counts < width).long())
        return split_drafts(proposal, *arguments)

    monkeypatch.setattr(session, "split_drafts", split)

    def decoder_of(seed: int) -> Decoder:
        config = ViaConfig(
            mode="exact",
            agreement=1.0,
            temperature=1.3,
            seed=seed,
            num_draft_tokens=3,
            max_new_tokens=LENGTH + 1,
            eos_token_id=(),
        )
        route = calibrated(SlimRoute.full(3), 1.0, draft_stop=0.6)
        return Decoder(target, drafter, route, config)

    with pytest.raises(AssertionError):
        _assert_law(_frequencies(decoder_of, runs=4), _law(target, 1.3))
