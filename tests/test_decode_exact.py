# SPDX-License-Identifier: Apache-2.0
"""Greedy exact decoding equals transformers' own generate, token for token, in float32."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.models import VOCAB_SIZE, greedy, random_model
from via_ext.config import ViaConfig
from via_ext.decode import Decoder
from via_ext.drafters import PromptLookupDrafter
from via_ext.drafters.model import ModelDrafter
from via_ext.route import SlimRoute
from via_ext.tree import Tree

NEW = 16
ROUTE = SlimRoute((True, False, True, True), (True, True, False, True))
SHAPES = {"chain": Tree.chain(4), "tree": Tree.from_widths([3, 2, 1])}


def _prompts(lengths: list[int], seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(VOCAB_SIZE, (n,), generator=generator) for n in lengths]


def _check(decoder: Decoder, model: Any, prompts: list[torch.Tensor]) -> Any:
    result = decoder.generate(prompts)
    for row, prompt in enumerate(prompts):
        got = result.sequences[row, : result.lengths[row]].tolist()
        assert got == greedy(model, prompt.tolist(), NEW), f"row {row}"
    assert result.status.tolist() == [0] * len(prompts)
    return result


@pytest.mark.parametrize("mode", ["exact", "via"])
@pytest.mark.parametrize("route", [None, ROUTE], ids=["two-tier", "slim"])
@pytest.mark.parametrize("kind", ["none", "lookup", "model", "tree"])
def test_thresholds_above_one_equal_greedy(mode: str, route: SlimRoute | None, kind: str) -> None:
    model = random_model("llama")
    drafter = {
        "none": None,
        "lookup": PromptLookupDrafter(),
        "model": ModelDrafter(random_model("llama", num_layers=2)),
        "tree": ModelDrafter(random_model("llama", num_layers=2)),
    }[kind]
    config = ViaConfig(
        mode=mode,
        accept_threshold=1.5,
        escalate_threshold=1.5,
        max_new_tokens=NEW,
        tree=SHAPES["tree"] if kind == "tree" else None,
    )
    _check(Decoder(model, drafter, route, config), model, _prompts([9, 3, 14]))


@pytest.mark.parametrize("max_backlog", [1, 2, 5, 32])
@pytest.mark.parametrize("shape", SHAPES)
def test_every_backlog_limit_is_exact(max_backlog: int, shape: str) -> None:
    model = random_model("qwen3")
    drafter = ModelDrafter(random_model("qwen3", num_layers=2))
    config = ViaConfig(
        mode="exact", tree=SHAPES[shape], max_new_tokens=NEW, max_backlog=max_backlog
    )
    _check(Decoder(model, drafter, ROUTE, config), model, _prompts([5, 8]))


@pytest.mark.parametrize(
    "route",
    [SlimRoute.prefix(4, 2), SlimRoute((False, True, True, True), (True, False, True, True))],
    ids=["exit", "no-prefix"],
)
def test_early_exit_and_no_shared_prefix_are_exact(route: SlimRoute) -> None:
    model = random_model("llama")
    config = ViaConfig(mode="exact", max_new_tokens=NEW, max_backlog=4)
    drafter = ModelDrafter(random_model("llama", num_layers=2))
    _check(Decoder(model, drafter, route, config), model, _prompts([5, 8]))


def test_audit_at_threshold_one_equals_greedy() -> None:
    """Every slim token must then be the full model's most likely one."""
    model = random_model("llama")
    drafter = ModelDrafter(random_model("llama", num_layers=2))
    config = ViaConfig(mode="via", audit_threshold=1.0, max_new_tokens=NEW, max_backlog=5)
    _check(Decoder(model, drafter, ROUTE, config), model, _prompts([6, 11, 3]))


@pytest.mark.parametrize("audit", [0.2, 0.6])
def test_audit_bounds_every_token(audit: float) -> None:
    """Every token keeps q(token) / max q >= audit_threshold in its own context."""
    model = random_model("llama")
    drafter = ModelDrafter(random_model("llama", num_layers=2))
    config = ViaConfig(mode="via", audit_threshold=audit, max_new_tokens=NEW, max_backlog=5)
    result = Decoder(model, drafter, ROUTE, config).generate(_prompts([6, 11, 3]))
    for row, length in enumerate(result.lengths.tolist()):
        ids = result.sequences[row, :length]
        logits = model(ids[None]).logits[0, :-1]
        chosen = logits.gather(1, ids[1:, None])[:, 0]
        ratios = (chosen - logits.amax(-1)).exp()[length - NEW - 1 :]
        assert float(ratios.detach().min()) >= audit - 1e-4
    assert result.stats.slim_passes > 0


def test_logprobs_are_the_full_models_in_exact_mode() -> None:
    model = random_model("llama")
    drafter = ModelDrafter(random_model("llama", num_layers=2))
    config = ViaConfig(mode="exact", max_new_tokens=NEW, max_backlog=5)
    for route in (None, ROUTE):
        result = Decoder(model, drafter, route, config).generate(_prompts([6, 11]))
        for row, length in enumerate(result.lengths.tolist()):
            ids = result.sequences[row, :length]
            expected = torch.log_softmax(model(ids[None]).logits[0], -1)[:-1]
            expected = expected.gather(1, ids[1:, None])[length - NEW - 1 :, 0]
            torch.testing.assert_close(
                result.logprobs[row], expected.detach(), atol=1e-4, rtol=1e-4
            )


def test_a_row_does_not_depend_on_its_batch() -> None:
    model = random_model("llama")
    drafter = ModelDrafter(random_model("llama", num_layers=2))
    config = ViaConfig(mode="via", max_new_tokens=NEW, max_backlog=5)
    prompts = _prompts([6, 11, 3, 17])
    decoder = Decoder(model, drafter, ROUTE, config)
    together = decoder.generate(prompts)
    for row, prompt in enumerate(prompts):
        alone = decoder.generate(prompt)
        assert alone.sequences[0, : alone.lengths[0]].tolist() == (
            together.sequences[row, : together.lengths[row]].tolist()
        )
        assert torch.equal(alone.tiers[0], together.tiers[row])
