# SPDX-License-Identifier: Apache-2.0
"""`auto_tier` in the decoding loop: asked before a step, told what it cost, nothing lost."""

from __future__ import annotations

from typing import Any

import pytest

from tests.test_calibrated_exact import NEW, ROUTE, SHAPES, _expected, _models, _prompts
from via_ext.config import ViaConfig
from via_ext.decode import Decoder
from via_ext.drafters import ModelDrafter
from via_ext.engines.auto_tier import TierChange, TierSwitch
from via_ext.engines.session import Session
from via_ext.engines.torch import TorchEngine


class _Scripted(TierSwitch):
    """On for two steps, off for one; keeps what it is told."""

    def start_run(self) -> None:
        self.told: list[tuple[float, int, int, int]] = []
        self.changes = []

    def use_slim(self) -> bool:
        return len(self.told) % 3 < 2

    def record(self, seconds: float, tokens: int, *, escalated: int = 0, backlog: int = 0) -> None:
        self.told.append((seconds, tokens, escalated, backlog))
        self.changes.append(TierChange(len(self.told), self.use_slim(), 2.0, 1.0))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("mode", ["exact", "via"])
def test_the_switch_is_asked_and_told(mode: str, shape: str) -> None:
    target, draft_model = _models()
    config = ViaConfig(mode=mode, max_new_tokens=NEW, **SHAPES[shape])
    drafter, switch = ModelDrafter(draft_model), _Scripted()
    drafter.configure(config, target.config.vocab_size)
    prompts = [prompt.tolist() for prompt in _prompts(3)]
    engine = TorchEngine(target, ROUTE)
    session = Session(engine, drafter, config, prompts, 7, (), None, None, None, switch)
    passes = []
    while session.active:
        before = session.recorder.slim_passes
        session.step()
        passes.append(session.recorder.slim_passes - before)
    assert [bool(count) for count in passes] == [step % 3 < 2 for step in range(len(passes))]
    assert len(switch.told) == len(passes)
    seconds, tokens, escalated, backlog = map(list, zip(*switch.told, strict=True))
    assert sum(seconds) == pytest.approx(session.seconds) and min(seconds) > 0.0
    assert sum(tokens) == 3 * NEW
    assert sum(escalated) == session.recorder.resumed_passes
    # A step without the slim tier leaves no backlog, one with it does now and then.
    assert all(left == 0 for left in backlog[2::3]) and max(backlog) > 0
    changes = session.recorder.finish().to_dict()["tier_changes"]
    assert [change["step"] for change in changes] == [*range(1, len(passes) + 1)]
    if mode == "exact":
        assert [request.tokens for request in session.requests] == _expected(3)


def test_a_decoders_own_switch_keeps_the_tokens() -> None:
    target, draft_model = _models()
    config: dict[str, Any] = {"mode": "exact", "auto_tier": True, "max_new_tokens": NEW}
    decoder = Decoder(target, ModelDrafter(draft_model), ROUTE, ViaConfig(**config))
    for run in range(2):
        result = decoder.generate(_prompts(3))
        lengths = result.lengths.tolist()
        rows = [row[:n].tolist() for row, n in zip(result.sequences, lengths, strict=True)]
        assert rows == _expected(3)
        # It starts with the slim tier; where the next run starts depends on what this one took.
        assert run > 0 or result.stats.slim_passes > 0
