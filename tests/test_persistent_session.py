# SPDX-License-Identifier: Apache-2.0
"""Runs of the persistent engine around its launches: passes alone, faults, reuse, memory, law."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from tests.persistent_cases import ROUTE, available, decoder, simulate, toy_model
from via_ext import Tree, ViaConfig
from via_ext.drafters import ModelDrafter
from via_ext.engines.persistent_session import PersistentSession

pytestmark = pytest.mark.skipif(not available, reason="needs the simulated module (make simt)")


@pytest.fixture(autouse=True)
def _simulated(monkeypatch: pytest.MonkeyPatch) -> None:
    simulate(monkeypatch)


def open_run(target: Any, config: ViaConfig, prompts: list[list[int]]) -> PersistentSession:
    made = decoder(target, None, None, config, "persistent")
    return PersistentSession(made._device, None, config, prompts, 7, (), None)


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_logits_of_one_full_pass_are_the_models(family: str) -> None:
    target = toy_model(family, seed=2)
    exact = copy.deepcopy(target).float()
    prompts = [[3, 5, 7, 9], [1, 2]]
    session = open_run(target, ViaConfig(num_draft_tokens=3, max_new_tokens=4), prompts)
    # A tree behind the last token of the first prompt, a shorter chain behind the second's.
    tokens = torch.tensor([[9, 20, 21, 22], [2, 30, 31, 0]])
    parents = torch.tensor([[-1, 0, 0, 1], [-1, 0, 1, 2]], dtype=torch.int32)
    depths = torch.tensor([[0, 1, 1, 2], [0, 1, 2, 3]], dtype=torch.int32)
    inputs = {
        "token_ids": tokens,
        "counts": torch.tensor([4, 3], dtype=torch.int32),
        "contexts": torch.tensor([3, 1], dtype=torch.int32),
        "parents": parents,
        "depths": depths,
    }
    launch = next(iter(session.launch._launches.values()))
    launch.forward("full", inputs, 4)
    logits = session.launch.buffers["logits"].view(2, -1, target.config.vocab_size)
    for row, prompt in enumerate(prompts):
        for token in range(int(inputs["counts"][row])):
            path, node = [], token
            while node >= 0:
                path.append(int(tokens[row, node]))
                node = int(parents[row, node])
            whole = torch.tensor([prompt[:-1] + path[::-1]])
            expected = exact(whole).logits[0, -1].detach()
            error = (logits[row, token] - expected).abs().max() / expected.std()
            assert error < 0.05, (row, token)


def test_a_block_that_stays_away_ends_in_an_error_and_the_engine_can_be_used_again() -> None:
    target = toy_model()
    config = ViaConfig(num_draft_tokens=2, max_new_tokens=4, seed=1)
    drafter = ModelDrafter(toy_model(num_layers=1, seed=1))
    made = decoder(target, drafter, ROUTE, config, "persistent")
    expected = made.generate([torch.tensor([3, 5, 7])])
    for launch_settings in ({"missing_block": 1, "watchdog_s": 1e-6},):
        made._session = None  # its launches are made with the settings of then
        for name, value in launch_settings.items():
            setattr(made._device, name, value)
        text = r"block \d .* barrier in .*, epoch \d+ .* can be used again"
        with pytest.raises(RuntimeError, match=text):
            made.generate([torch.tensor([3, 5, 7])])
        assert not made._device.control.any()
        assert not made._session.active
    made._session = None
    made._device.missing_block, made._device.watchdog_s = -1, 2.0
    found = made.generate([torch.tensor([3, 5, 7])])
    assert torch.equal(found.sequences, expected.sequences)
    assert torch.equal(found.logprobs, expected.logprobs)


def test_later_runs_take_the_same_memory_and_repeat_bit_by_bit() -> None:
    target = toy_model("qwen3")
    config = ViaConfig(tree=Tree.from_widths([2, 1]), max_new_tokens=5, max_backlog=4, seed=1)
    drafter = ModelDrafter(toy_model(num_layers=1, seed=1))
    made = decoder(target, drafter, ROUTE, config, "persistent")
    prompts = [torch.tensor([3, 5, 7]), torch.tensor([9])]
    first = made.generate(prompts)
    session = made._session
    streamed = [token for output in made.stream(prompts) for token in output.tokens[0]]
    assert made._session is session
    second = made.generate(prompts)
    assert torch.equal(first.sequences, second.sequences)
    assert torch.equal(first.logprobs, second.logprobs)
    assert streamed == first.sequences[0, 3 : int(first.lengths[0])].tolist()


def test_memory_is_reported_and_running_out_leaves_the_engine_usable(monkeypatch) -> None:
    target = toy_model()
    config = ViaConfig(num_draft_tokens=2, max_new_tokens=3)
    made = decoder(target, None, None, config, "persistent")

    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as patch:
        patch.setattr("via_ext.engines.persistent_session.PersistentLaunch", full)
        with pytest.raises(RuntimeError, match="out of memory"):
            made.generate([torch.tensor([3, 5])])
    made.generate([torch.tensor([3, 5])])
    memory = made._session.memory()
    weights = {id(weight): weight.nbytes for weight in target.parameters() if weight.dim() > 1}
    assert memory["packed"] == sum(weights.values())
    arena = made._session._passes.arena
    assert memory["cache"] == sum(tensor.nbytes for tensor in arena.tensors)
    assert all(memory[name] > 0 for name in ("vectors", "buffers", "tables"))
