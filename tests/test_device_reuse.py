# SPDX-License-Identifier: Apache-2.0
"""A decoder whose session is used again: streams, settings, memory, tensors of a host drafter."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch

from tests.models import random_model
from tests.test_device_session import EOS, ROUTE, Shrinking, run
from via_ext import Decoder, Tree, ViaConfig
from via_ext.drafters import ModelDrafter, PromptLookupDrafter, SlimDrafter
from via_ext.drafters.protocol import DraftTokens
from via_ext.engines.device_passes import DeviceEngine
from via_ext.engines.device_session import DeviceSession
from via_ext.engines.graphs import GraphRunner
from via_ext.engines.torch import TorchEngine

CONFIG = ViaConfig(mode="exact", max_new_tokens=12, max_backlog=3, num_draft_tokens=3, seed=1)
PROMPT = [torch.tensor([3, 5, 7])]


def make_decoder(on_device: bool) -> Decoder:
    drafter = ModelDrafter(random_model("llama", num_layers=2))
    decoder = Decoder(random_model("llama"), drafter, ROUTE, CONFIG)
    if on_device:  # as on CUDA
        decoder._device = DeviceEngine(decoder._engine)
    return decoder


@pytest.mark.parametrize("on_device", [False, True])
@pytest.mark.parametrize("consumed", [0, 1])
def test_a_stream_ends_with_an_error_where_a_later_run_took_over(on_device, consumed) -> None:
    decoder = make_decoder(on_device)
    stream = decoder.stream(PROMPT)
    for _ in range(consumed):
        next(stream)
    result = decoder.generate([torch.tensor([9, 8])])
    assert result.lengths.tolist() == [14]
    with pytest.raises(RuntimeError, match="another run"):
        next(stream)


def test_a_stream_that_is_left_does_not_change_the_next_run() -> None:
    decoder = make_decoder(True)
    whole = decoder.generate(PROMPT)
    session = decoder._session
    next(decoder.stream([torch.tensor([9, 8])]))
    again = decoder.generate(PROMPT)
    assert decoder._session is session
    assert torch.equal(again.sequences, whole.sequences)
    assert torch.equal(again.logprobs, whole.logprobs)


def test_a_configuration_set_later_counts() -> None:
    decoder = make_decoder(True)
    decoder.generate(PROMPT)
    decoder.config = ViaConfig(mode="exact", max_new_tokens=5, max_backlog=3, num_draft_tokens=2)
    assert decoder.generate(PROMPT).lengths.tolist() == [8]


class KeepingRunner(GraphRunner):
    """Keeps the first body of each key, as a recorded graph does."""

    def run(self, key: Any, body: Any) -> None:
        kept = self.__dict__.setdefault("bodies", {})
        kept.setdefault(key, body)()


def test_a_session_that_is_dropped_is_freed_at_once() -> None:
    model = random_model("llama")
    drafter = ModelDrafter(random_model("llama", num_layers=2))
    drafter.configure(CONFIG, model.config.vocab_size)
    engine = DeviceEngine(TorchEngine(model, ROUTE))
    session = DeviceSession(
        engine, drafter, CONFIG, [[3, 5, 7]], 7, EOS, None, None, KeepingRunner("cpu")
    )
    run(session)
    assert any(key[0] == "tail" for key in session._runner.bodies)
    freed = weakref.ref(session)
    gc.disable()
    try:
        del session
        assert freed() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("make", [PromptLookupDrafter, Shrinking])
def test_a_drafter_of_the_host_drafts_for_several_runs(make) -> None:
    config = ViaConfig(max_new_tokens=12, max_backlog=3, num_draft_tokens=4, temperature=0.9)
    engine = DeviceEngine(TorchEngine(random_model("llama"), ROUTE))
    prompts = [[1, 2, 3, 4, 1, 2, 3, 4, 1, 2], [5, 6, 5, 6, 5]]
    session = DeviceSession(engine, make(), config, prompts, 7, EOS, None)
    first = run(session)
    assert session.restart([[9, 8], [7, 7, 7, 7]], 3, None)
    run(session)
    assert session.restart(prompts, 7, None)
    assert run(session) == first


class Fresh:
    """Draws from a distribution over half of the vocabulary, in new tensors every time."""

    def __init__(self) -> None:
        self.maps: list[torch.Tensor] = []

    def prefill(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None) -> None:
        self.rows = len(input_ids)

    def propose(self, tree: Tree, seed: torch.Tensor, position: torch.Tensor) -> DraftTokens:
        # The last of the maps alone is right: a recording that reads an older one is found out.
        for old in self.maps:
            old.fill_(-1)
        self.maps.append(torch.arange(48) + 40)
        probs = torch.zeros(self.rows, tree.num_nodes, 48)
        probs[:, :, 7] = 1.0
        ids = torch.full((self.rows, tree.num_nodes), 47)
        return DraftTokens(ids, None, None, probs, draft_to_target=self.maps[-1])

    def commit(self, token_ids: Any, counts: Any, hidden_states: Any = None) -> None:
        pass

    def rollback(self, lengths: torch.Tensor) -> None:
        pass


def test_an_id_map_that_a_host_drafter_makes_anew_is_copied() -> None:
    config = ViaConfig(mode="exact", max_new_tokens=12, num_draft_tokens=3, temperature=1.0)
    engine = DeviceEngine(TorchEngine(random_model("llama"), None))
    drafter = Fresh()
    session = DeviceSession(engine, drafter, config, [[3, 5, 7]], 7, EOS, None)
    read = set()
    while session.active:
        session.step()
        found = session._verify.draft_to_target
        assert found is not None and found.tolist() == list(range(40, 88))
        read.add(found.data_ptr())
    assert len(drafter.maps) > 1 and len(read) == 1


def test_a_slim_drafter_serves_the_engine_that_it_was_given_to_last() -> None:
    model = random_model("llama")
    drafter = SlimDrafter()
    engines = [TorchEngine(model, None), TorchEngine(model, None)]
    for engine in engines:
        drafter.connect(engine, ROUTE, None)
        drafter.configure(CONFIG, model.config.vocab_size)
    arguments = (drafter, CONFIG, [[3, 5, 7]], 7, EOS, None)
    with pytest.raises(RuntimeError, match="latest decoder, got the arena of another"):
        DeviceSession(DeviceEngine(engines[0]), *arguments)
    run(DeviceSession(DeviceEngine(engines[1]), *arguments))
