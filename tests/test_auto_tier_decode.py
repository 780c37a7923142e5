# SPDX-License-Identifier: Apache-2.0
"""`ViaConfig(auto_tier=True)` in decoding: the same tokens, a log of what was switched."""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytest.importorskip("transformers")

from tests.models import VOCAB_SIZE, greedy, random_model
from via_ext.config import ViaConfig
from via_ext.decode import Decoder
from via_ext.drafters import ModelDrafter
from via_ext.engines.auto_tier import TierSwitch
from via_ext.route import SlimRoute

ROUTE = SlimRoute.evenly(4, 0.25)
NEW = 80


class Priced(TierSwitch):
    """Step times by a price list instead of a clock: what is measured is the same every time."""

    slim_seconds = 5.0

    def record(self, seconds: float, tokens: int, **more: Any) -> None:
        price = self.slim_seconds if self.use_slim() else 1.0
        super().record(price, tokens, **more)


class Cheap(Priced):
    slim_seconds = 0.01


def prompts(*lengths: int) -> list[torch.Tensor]:
    return [torch.randint(1, VOCAB_SIZE, (length,)) for length in lengths]


def decoder(**changes: Any) -> Decoder:
    settings: dict[str, Any] = {"mode": "exact", "max_backlog": 4, "num_draft_tokens": 2}
    config = ViaConfig(**(settings | {"max_new_tokens": NEW, "auto_tier": True} | changes))
    return Decoder(random_model("llama"), random_model("llama", 2), ROUTE, config)


@pytest.mark.parametrize(
    ("switch", "lengths"), [(Priced, (11,)), (Priced, (5, 14, 9)), (TierSwitch, (12,))]
)
def test_greedy_exact_tokens_are_transformers_whatever_it_decides(
    monkeypatch: pytest.MonkeyPatch, switch: type[TierSwitch], lengths: tuple[int, ...]
) -> None:
    monkeypatch.setattr("via_ext.decode.TierSwitch", switch)
    model, ids = random_model("llama"), prompts(*lengths)
    result = decoder().generate(ids)
    for row, prompt in enumerate(ids):
        tokens = result.sequences[row, : result.lengths[row]].tolist()
        assert tokens == greedy(model, prompt.tolist(), NEW)


def test_a_dear_slim_tier_is_switched_off_and_the_change_is_in_the_stats(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("via_ext.decode.TierSwitch", Priced)
    one = decoder()
    ids = prompts(11)
    stats = one.generate(ids).stats
    assert [change["slim"] for change in stats.tier_changes] == [False]
    change = stats.tier_changes[0]
    assert change["with_slim"] > change["without"] > 0.0
    assert 0 < change["step"] < stats.steps
    assert 0 < stats.slim_passes < stats.steps
    # The next run starts with what this one found, and with an empty log.
    again = one.generate(ids).stats
    assert again.tier_changes == () or again.tier_changes[0]["slim"]
    assert again.slim_passes < stats.slim_passes
    assert "tier_changes" in stats.table() and stats.to_dict()["tier_changes"]


def test_a_cheap_slim_tier_stays_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("via_ext.decode.TierSwitch", Cheap)
    stats = decoder().generate(prompts(11)).stats
    assert stats.tier_changes == () and stats.slim_passes > 0


def test_without_a_slim_tier_there_is_nothing_to_switch() -> None:
    config = ViaConfig(mode="exact", max_new_tokens=8, auto_tier=True)
    two = Decoder(random_model("llama"), random_model("llama", 2), None, config)
    assert two.generate(prompts(9)).stats.tier_changes == ()


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_the_decision_comes_before_the_draft(
    monkeypatch: pytest.MonkeyPatch, temperature: float
) -> None:
    """Per step: asked, then drafted, then told; exact sampling depends on that order."""
    events: list[str] = []

    class Watched(Priced):
        telling = False

        def use_slim(self) -> bool:
            if not self.telling:  # not what `record` itself asks
                events.append("ask")
            return super().use_slim()

        def record(self, seconds: float, tokens: int, **more: Any) -> None:
            events.append("tell")
            self.telling = True
            super().record(seconds, tokens, **more)
            self.telling = False

    class WatchedDrafter(ModelDrafter):
        def propose(self, *arguments: Any, **more: Any) -> Any:
            events.append("draft")
            return super().propose(*arguments, **more)

    monkeypatch.setattr("via_ext.decode.TierSwitch", Watched)
    config = ViaConfig(
        mode="exact", temperature=temperature, seed=1, max_new_tokens=30, auto_tier=True
    )
    drafter = WatchedDrafter(random_model("llama", 2))
    Decoder(random_model("llama"), drafter, ROUTE, config).generate(prompts(9))
    # A step that can only end the request drafts nothing.
    rest = [event for event in events if event != "draft"]
    assert rest == ["ask", "tell"] * events.count("tell")
    drafted = [place for place, event in enumerate(events) if event == "draft"]
    assert len(drafted) > 5 and all(events[place - 1] == "ask" for place in drafted)


def test_sampling_is_reproduced_by_the_same_timings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("via_ext.decode.TierSwitch", Priced)
    ids = prompts(12)
    runs = [decoder(temperature=0.9, seed=4).generate(ids) for _ in range(2)]
    assert runs[0].sequences.tolist() == runs[1].sequences.tolist()
    assert runs[0].stats.tier_changes == runs[1].stats.tier_changes
