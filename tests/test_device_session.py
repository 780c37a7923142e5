# SPDX-License-Identifier: Apache-2.0
"""`DeviceSession`: its steps, run without the host, emit what `Session` emits, token for token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.models import random_model
from via_ext import SlimRoute, Tree, ViaConfig
from via_ext.drafters import ModelDrafter, PromptLookupDrafter
from via_ext.drafters.protocol import DraftTokens
from via_ext.engines.device_passes import DeviceEngine
from via_ext.engines.device_session import DeviceSession
from via_ext.engines.graphs import GraphRunner
from via_ext.engines.session import Session
from via_ext.engines.torch import TorchEngine
from via_ext.result import confirmed

PROMPTS = ([3, 5, 7], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11], [20])
# A tree of several branches, a chain, and no draft at all.
SHAPES: dict[str, dict[str, Any]] = {
    "chain": {"num_draft_tokens": 4},
    "tree": {"tree": Tree.from_widths([3, 2, 1])},
    "none": {"num_draft_tokens": 0},
}
ROUTE = SlimRoute((True, True, False, True), (True, False, True, True))
MODES: dict[str, dict[str, Any]] = {
    "exact": {"mode": "exact"},
    "via": {"mode": "via"},
    "audit": {"mode": "via", "audit_threshold": 0.5},
}
SAMPLING: dict[str, dict[str, Any]] = {
    "greedy": {},
    "sample": {"temperature": 0.8, "top_k": 20, "top_p": 0.9},
}
EOS = (11, 40)


def configure(drafter: Any, config: ViaConfig, vocab_size: int) -> Any:
    if hasattr(drafter, "configure"):
        drafter.configure(config, vocab_size)
    return drafter


def run(session: Any) -> tuple[list[Any], dict[str, Any], list[int]]:
    """Rows (tokens, tiers, logprobs), statistics and status of a finished session."""
    while session.active:
        session.step()
    rows = [(request.tokens, request.tiers, request.logprobs) for request in session.requests]
    return rows, session.recorder.finish().to_dict(), session.status


def comparable(stats: dict[str, Any]) -> dict[str, Any]:
    """Statistics that both sessions count alike.

    On the device every step drafts a whole tree, and walks are not told apart by depth.
    """
    left_out = ("draft_passes", "accepted_by_position", "tier_changes")
    return {name: value for name, value in stats.items() if name not in left_out}


def check_equal(
    config: ViaConfig,
    route: SlimRoute | None,
    family: str = "llama",
    make_drafter: Any = ModelDrafter,
    prompts: Sequence[Sequence[int]] = PROMPTS,
    decode: Any = None,
) -> GraphRunner:
    """Runs both sessions with equal seeds and compares everything they report."""
    engine = TorchEngine(random_model(family), route)
    small = random_model(family, num_layers=2)
    results = []
    runner = GraphRunner("cpu")
    for kind, parts, extra in ((Session, engine, ()), (DeviceSession, None, (None, runner))):
        drafter = make_drafter(small) if make_drafter else None
        drafter = configure(drafter, config, small.config.vocab_size)
        parts = DeviceEngine(engine) if parts is None else parts
        tokens = [list(prompt) for prompt in prompts]
        results.append(run(kind(parts, drafter, config, tokens, 7, EOS, decode, *extra)))
    (rows, stats, status), (device_rows, device_stats, device_status) = results
    for (tokens, tiers, logprobs), (found, found_tiers, found_logprobs) in zip(
        rows, device_rows, strict=True
    ):
        assert found == tokens
        assert found_tiers == tiers
        assert found_logprobs == pytest.approx(logprobs, abs=1e-3)
    assert comparable(device_stats) == pytest.approx(comparable(stats), abs=1e-4)
    assert device_status == status
    return runner


@pytest.mark.parametrize("shape", ["chain", "tree"])
@pytest.mark.parametrize("sampling", SAMPLING)
@pytest.mark.parametrize("mode", MODES)
def test_three_tiers_emit_what_the_host_session_emits(mode, sampling, shape) -> None:
    # A short backlog is full often; a longer one is rolled back often.
    for max_backlog in (3, 8):
        config = ViaConfig(
            max_new_tokens=20,
            max_backlog=max_backlog,
            min_new_tokens=5,
            **MODES[mode],
            **SAMPLING[sampling],
            **SHAPES[shape],
        )
        check_equal(config, ROUTE)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("sampling", SAMPLING)
def test_two_tiers_emit_what_the_host_session_emits(sampling, shape) -> None:
    config = ViaConfig(mode="exact", max_new_tokens=20, **SAMPLING[sampling], **SHAPES[shape])
    runner = check_equal(config, None)
    assert runner.direct > 0


@pytest.mark.parametrize("family", ["mistral", "qwen2", "qwen3"])
def test_other_families_and_windows(family: str) -> None:
    config = ViaConfig(max_new_tokens=20, max_backlog=4, audit_threshold=0.3, **SHAPES["tree"])
    check_equal(config, ROUTE, family)


def test_a_draft_threshold_and_thresholds_that_never_accept() -> None:
    config = ViaConfig(
        max_new_tokens=16, temperature=1.0, draft_threshold=0.2, num_draft_tokens=3, max_backlog=4
    )
    check_equal(config, ROUTE)
    config = ViaConfig(max_new_tokens=16, accept_threshold=1.5, escalate_threshold=1.5)
    check_equal(config, ROUTE)


class Shrinking:
    """Proposes trees whose shape and size change from step to step, different in every row."""

    def prefill(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None) -> None:
        self.rows = len(input_ids)

    def propose(self, tree: Tree, seed: torch.Tensor, position: torch.Tensor) -> DraftTokens:
        step = position.tolist()
        parents = [[-1, -1, 0, 2 if number % 2 else 1] for number in step]
        counts = [(number + row) % 5 for row, number in enumerate(step)]
        ids = [
            [(7 * number + 3 * row + i) % 96 for i in range(4)] for row, number in enumerate(step)
        ]
        return DraftTokens(torch.tensor(ids), torch.tensor(parents), torch.tensor(counts), None)

    def commit(self, token_ids: Any, counts: Any, hidden_states: Any = None) -> None:
        assert token_ids.shape[0] == self.rows

    def rollback(self, lengths: torch.Tensor) -> None:
        assert len(lengths) == self.rows


@pytest.mark.parametrize("mode", MODES)
def test_drafters_of_the_host(mode: str) -> None:
    config = ViaConfig(max_new_tokens=16, max_backlog=4, num_draft_tokens=4, **MODES[mode])
    repeated = ([1, 2, 3, 4, 1, 2, 3, 4, 1, 2], [5, 6, 5, 6, 5])
    check_equal(config, ROUTE, make_drafter=lambda _: PromptLookupDrafter(), prompts=repeated)
    check_equal(config, ROUTE, make_drafter=lambda _: Shrinking())
    check_equal(config, None, make_drafter=None)


def test_a_stop_string_ends_a_row_where_the_host_session_ends_it() -> None:
    def decode(tokens: list[int]) -> str:
        return "".join(f"<{token}>" for token in tokens)

    settings: dict[str, Any] = {"mode": "exact", "max_new_tokens": 24, "num_draft_tokens": 3}
    settings["temperature"] = 1.5  # greedy text of a random model repeats itself
    engine = TorchEngine(random_model("llama"), None)
    prompt = list(PROMPTS[0])
    tokens = run(Session(engine, None, ViaConfig(**settings), [prompt], 7, EOS, None))[0][0][0]
    # The text of two tokens in the middle, which ends within the second one.
    stop = decode(tokens[9:11])[:-1]
    check_equal(ViaConfig(stop_strings=(stop,), **settings), None, decode=decode)
    session = DeviceSession(
        DeviceEngine(engine), None, ViaConfig(stop_strings=(stop,), **settings), [prompt], 7, EOS,
        decode,
    )  # fmt: skip
    assert stop not in decode(tokens[:10])
    assert run(session)[0][0][0] == tokens[:11]


def test_confirmed_tokens_come_once_and_in_order() -> None:
    config = ViaConfig(mode="exact", max_new_tokens=20, max_backlog=4, num_draft_tokens=3)
    model = random_model("llama")
    engine = DeviceEngine(TorchEngine(model, ROUTE))
    drafter = configure(ModelDrafter(random_model("llama", 2)), config, model.config.vocab_size)
    session = DeviceSession(engine, drafter, config, [[3, 5, 7], [9]], 7, (), None)
    streamed: list[list[int]] = [[], []]
    while session.active:
        session.step()
        for row, tokens in enumerate(confirmed(session).tokens):
            streamed[row] += tokens
    requests = session.requests
    assert streamed == [request.tokens[request.prompt_length :] for request in requests]
    assert [len(tokens) for tokens in streamed] == [20, 20]


class NoHostReads(TorchDispatchMode):
    """Refuses what would make the host wait, or make a shape depend on a value."""

    FORBIDDEN = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "_to_copy.cpu")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert not any(name in str(func) for name in self.FORBIDDEN), func
        return func(*args, **(kwargs or {}))


class CheckedRunner(GraphRunner):
    """Runs every body under `NoHostReads`."""

    def run(self, key: Any, body: Any) -> None:
        with NoHostReads():
            body()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", ["chain", "tree"])
def test_what_a_graph_records_never_reads_back_and_keeps_its_addresses(mode, shape) -> None:
    config = ViaConfig(
        max_new_tokens=12, max_backlog=3, min_new_tokens=4, temperature=0.7, seed=1, **MODES[mode],
        **SHAPES[shape],
    )  # fmt: skip
    model = random_model("llama")
    engine = DeviceEngine(TorchEngine(model, ROUTE))
    drafter = configure(ModelDrafter(random_model("llama", 2)), config, model.config.vocab_size)
    runner = CheckedRunner("cpu")
    session = DeviceSession(engine, drafter, config, [[3, 5], [9]], 7, EOS, None, None, runner)
    state = session._state
    results = [tensor for tensor in (*state.slim, *state.full) if tensor is not None]
    tensors = [*state.arrays.values(), *results]
    addresses = [tensor.data_ptr() for tensor in tensors]
    while session.active:
        session.step()
    assert [tensor.data_ptr() for tensor in tensors] == addresses
