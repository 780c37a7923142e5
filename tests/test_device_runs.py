# SPDX-License-Identifier: Apache-2.0
"""Runs of `DeviceSession` one after the other, its drafters, hooks, families, and the kernels."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests import simulation
from tests.models import FAMILIES, random_model
from tests.test_device_session import (
    EOS,
    MODES,
    PROMPTS,
    ROUTE,
    SHAPES,
    check_equal,
    comparable,
    run,
)
from via_ext import SlimRoute, ViaConfig
from via_ext.drafters import ModelDrafter, SlimDrafter
from via_ext.engines.choose import EngineChoice, open_session
from via_ext.engines.device_passes import DeviceEngine
from via_ext.engines.device_session import DeviceSession
from via_ext.engines.hooks import RowHooks
from via_ext.engines.session import Session
from via_ext.engines.torch import TorchEngine


def open_on_device(config: ViaConfig, prompts: Any, hooks: Any = None) -> DeviceSession:
    model = random_model("llama")
    drafter = ModelDrafter(random_model("llama", num_layers=2))
    drafter.configure(config, model.config.vocab_size)
    engine = DeviceEngine(TorchEngine(model, ROUTE))
    return DeviceSession(engine, drafter, config, list(map(list, prompts)), 7, EOS, None, hooks)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", ["chain", "tree"])
def test_a_run_in_the_memory_of_another_is_a_run_of_its_own(mode, shape) -> None:
    config = ViaConfig(
        max_new_tokens=16, max_backlog=3, min_new_tokens=4, temperature=0.9, **MODES[mode],
        **SHAPES[shape],
    )  # fmt: skip
    session = open_on_device(config, PROMPTS)
    first = run(session)
    others = [[9, 8, 7, 6, 5, 4], [2], [1, 2, 3]]
    assert session.restart(others, 31, None)
    again = run(session)
    assert session.restart(list(map(list, PROMPTS)), 7, None)
    assert run(session) == first
    assert again[0] != first[0]
    assert all(
        row[0][: len(prompt)] == prompt for row, prompt in zip(again[0], others, strict=True)
    )


def test_a_run_that_does_not_fit_needs_memory_of_its_own() -> None:
    config = ViaConfig(max_new_tokens=8, num_draft_tokens=3)
    session = open_on_device(config, PROMPTS)
    assert not session.restart([[1, 2]], 7, None)  # other rows
    assert not session.restart([[1] * 300, [2], [3]], 7, None)
    assert session.restart([[1] * 200, [2], [3]], 7, None)


@pytest.mark.parametrize("shape", ["chain", "tree"])
@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_the_slim_view_drafts_in_the_engines_arena(shape, temperature) -> None:
    config = ViaConfig(mode="exact", max_new_tokens=16, temperature=temperature, **SHAPES[shape])
    model = random_model("llama")
    results = []
    for kind in (Session, DeviceSession):
        engine = TorchEngine(model, None)
        drafter = SlimDrafter()
        drafter.connect(engine, ROUTE, None)
        drafter.configure(config, model.config.vocab_size)
        parts = engine if kind is Session else DeviceEngine(engine)
        results.append(run(kind(parts, drafter, config, list(map(list, PROMPTS)), 7, EOS, None)))
    (rows, stats, _), (device_rows, device_stats, _) = results
    assert [row[:2] for row in device_rows] == [row[:2] for row in rows]
    assert comparable(device_stats) == pytest.approx(comparable(stats), abs=1e-4)


@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_a_reduced_draft_vocabulary_is_mapped_on_the_device(temperature) -> None:
    kept = torch.arange(5, 69)

    def make(small: Any) -> ModelDrafter:
        small.lm_head = torch.nn.Linear(small.config.hidden_size, len(kept), bias=False)
        with torch.no_grad():
            small.lm_head.weight.copy_(small.get_input_embeddings().weight[kept])
        return ModelDrafter(small, draft_to_target=kept)

    config = ViaConfig(mode="exact", max_new_tokens=16, temperature=temperature, max_backlog=4)
    check_equal(config, ROUTE, make_drafter=make)


@pytest.mark.parametrize("family", [name for name in FAMILIES if name not in {"llama", "qwen3"}])
def test_every_family(family: str) -> None:
    config = ViaConfig(mode="exact", max_new_tokens=10, max_backlog=3, **SHAPES["tree"])
    check_equal(config, ROUTE, family, prompts=PROMPTS[:2])


def test_a_callers_criteria_end_a_row_and_processors_are_refused() -> None:
    config = ViaConfig(mode="exact", max_new_tokens=24, num_draft_tokens=4, temperature=1.2)
    whole = run(open_on_device(config, PROMPTS))[0]

    def hooks() -> list[RowHooks]:
        limits = [8, 13, 100]
        return [
            RowHooks(criteria=lambda ids, _, limit=limit: ids.shape[1] >= limit) for limit in limits
        ]

    ended = run(open_on_device(config, PROMPTS, hooks()))[0]
    assert [row[0] for row in ended[:2]] == [whole[0][0][:8], whole[1][0][:13]]
    assert ended[2] == whole[2]
    refused = [RowHooks(processors=lambda ids, scores: scores)] * 3
    with pytest.raises(ValueError, match="logits_processor"):
        open_on_device(config, PROMPTS, refused)


def test_a_model_on_the_cpu_is_decoded_by_the_host_session() -> None:
    engine = TorchEngine(random_model("llama"), None)
    config = ViaConfig(max_new_tokens=2)
    assert EngineChoice("auto").make(engine, config) is None
    session = open_session(engine, None, None, config, [[1]], 7, (), None, None)
    assert isinstance(session, Session)


@pytest.mark.skipif(not simulation.covers("verify"), reason="make simt builds the simulation")
@pytest.mark.parametrize("mode", ["exact", "via"])
@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_the_kernels_own_source_decodes(mode: str, temperature: float, monkeypatch) -> None:
    """Every operation of a step in the simulation: attention, verify, draws, bookkeeping, moves."""
    native = simulation.module()
    monkeypatch.setattr("via_ext.engines.device_state._C", native)
    route = SlimRoute((True, True, False, True), (True, True, True, True))
    config = ViaConfig(
        mode=mode, max_new_tokens=6, max_backlog=2, temperature=temperature, **SHAPES["tree"]
    )
    with simulation.active(simulation.DEVICE):
        check_equal(config, route, prompts=PROMPTS[:2])
