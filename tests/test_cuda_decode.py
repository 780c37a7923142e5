# SPDX-License-Identifier: Apache-2.0
"""Decoding on a GPU: the CPU's tokens, recorded steps, and a host that waits for one word only."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from tests.conftest import devices
from tests.models import random_model
from tests.test_device_session import MODES, PROMPTS, ROUTE, SHAPES
from via_ext import Decoder, SlimRoute, ViaConfig
from via_ext.drafters import ModelDrafter, PromptLookupDrafter
from via_ext.engines.device_session import DeviceSession

pytestmark = pytest.mark.skipif(
    "cuda" not in devices(), reason="needs a GPU and a build with CUDA kernels"
)
IDS = [torch.tensor(prompt) for prompt in PROMPTS]


@pytest.fixture(autouse=True)
def _exact_products() -> Iterator[None]:
    # TF32 would change tokens of these small models.
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32 = before


def decoders(config: ViaConfig, route: SlimRoute | None, make: Any) -> tuple[Decoder, Decoder]:
    """The same decoder on the CPU and on the GPU."""
    target, small = random_model("llama"), random_model("llama", num_layers=2)
    on_cpu = Decoder(target, make(small), route, config)
    on_gpu = Decoder(copy.deepcopy(target).cuda(), make(copy.deepcopy(small).cuda()), route, config)
    return on_cpu, on_gpu


def sequences(result: Any) -> list[list[int]]:
    rows = zip(result.sequences.tolist(), result.lengths.tolist(), strict=True)
    return [tokens[:length] for tokens, length in rows]


@pytest.mark.parametrize("shape", ["chain", "tree"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("route", [None, ROUTE], ids=["two-tier", "slim"])
@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_emits_the_tokens_of_the_cpu(temperature, route, mode, shape) -> None:
    config = ViaConfig(
        max_new_tokens=20, max_backlog=4, temperature=temperature, seed=5, **MODES[mode],
        **SHAPES[shape],
    )  # fmt: skip
    on_cpu, on_gpu = decoders(config, route, ModelDrafter)
    wanted = sequences(on_cpu.generate(IDS))
    assert sequences(on_gpu.generate(IDS)) == wanted
    assert sequences(on_gpu.generate(IDS)) == wanted  # from the recorded graphs


def test_later_runs_replay_what_the_first_recorded() -> None:
    config = ViaConfig(mode="via", max_new_tokens=24, max_backlog=4, num_draft_tokens=4)
    _, decoder = decoders(config, ROUTE, ModelDrafter)
    decoder.generate(IDS)
    session = decoder._session
    assert isinstance(session, DeviceSession)
    captures = session._runner.captures
    assert captures > 0
    decoder.generate(IDS)
    assert decoder._session is session
    assert session._runner.captures <= captures + 2  # a wider full pass may come later
    assert session._runner.replays > 0


def test_a_step_waits_for_its_word_only() -> None:
    """Anything else that makes the host wait is an error in this mode."""
    config = ViaConfig(mode="via", max_new_tokens=24, max_backlog=4, num_draft_tokens=4)
    _, decoder = decoders(config, ROUTE, ModelDrafter)
    decoder.generate(IDS)  # records the graphs
    session: Any = decoder._start(IDS, None)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(4):
            session.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_drafter_of_the_host_drafts_for_the_device() -> None:
    config = ViaConfig(mode="exact", max_new_tokens=20, num_draft_tokens=4)
    on_cpu, on_gpu = decoders(config, None, lambda _: PromptLookupDrafter())
    repeated = [torch.tensor([1, 2, 3, 4] * 3), torch.tensor([5, 6] * 4)]
    assert sequences(on_gpu.generate(repeated)) == sequences(on_cpu.generate(repeated))


def test_streamed_tokens_are_the_generated_ones() -> None:
    config = ViaConfig(mode="exact", max_new_tokens=20, num_draft_tokens=4, max_backlog=4)
    _, decoder = decoders(config, ROUTE, ModelDrafter)
    streamed: list[int] = []
    for output in decoder.stream(IDS[:1]):
        streamed += output.tokens[0]
    assert streamed == sequences(decoder.generate(IDS[:1]))[0][len(PROMPTS[0]) :]
