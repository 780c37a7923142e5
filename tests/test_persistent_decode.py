# SPDX-License-Identifier: Apache-2.0
"""Decoding by the persistent engine, its kernel in the simulation: the torch engine's tokens.

The two engines round at different places, so a decision between near-equal logits may differ: the
first difference of a row must be one, and nearly all rows must have none.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.persistent_cases import ROUTE, available, decoder, margin, simulate, toy_pair
from tests.test_device_session import Shrinking
from via_ext import SlimRoute, Tree, ViaConfig
from via_ext.drafters import ModelDrafter, PromptLookupDrafter

pytestmark = pytest.mark.skipif(not available, reason="needs the simulated module (make simt)")

PROMPTS = ([3, 5, 7], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11], [20])
SHAPES: dict[str, dict[str, Any]] = {
    "chain": {"num_draft_tokens": 3},
    "tree": {"tree": Tree.from_widths([3, 2, 1])},
}
MODES: dict[str, dict[str, Any]] = {
    "exact": {"mode": "exact"},
    "via": {"mode": "via"},
    "audit": {"mode": "via", "audit_threshold": 0.5},
}
# Logits have standard deviations of 1 to 5; rounding moves them by about 0.05.
MARGIN = 0.2


@pytest.fixture(autouse=True)
def _simulated(monkeypatch: pytest.MonkeyPatch) -> None:
    simulate(monkeypatch)


def run_both(
    pair: tuple[Any, Any],
    config: ViaConfig,
    route: SlimRoute | None = None,
    make_drafter: Any = None,
    prompts: Any = PROMPTS,
) -> tuple[Any, Any]:
    """Results of the torch engine and of the persistent one, with equal seeds."""
    target, draft_model = pair
    results = []
    for engine in ("torch", "persistent"):
        drafter = make_drafter() if make_drafter else ModelDrafter(draft_model)
        made = decoder(target, drafter, route, config, engine)
        results.append(made.generate([torch.tensor(prompt) for prompt in prompts]))
    return results[0], results[1]


def differences(expected: Any, found: Any) -> list[int]:
    """Per row, the first token that differs, -1 where none does."""
    rows = []
    for row in range(len(expected.lengths)):
        unequal = (expected.sequences[row] != found.sequences[row]).nonzero()
        rows.append(int(unequal[0]) if len(unequal) else -1)
    return rows


def check_near(target: Any, expected: Any, found: Any, most: int = 1) -> None:
    """At most `most` rows differ, and first where the two best logits of who decided are close."""
    first = differences(expected, found)
    assert sum(position >= 0 for position in first) <= most, first
    for row, position in enumerate(first):
        if position >= 0:
            # The slim verifier's own tokens have tier 1.
            new = int((found.tiers[row] != 255).sum())
            tier = int(found.tiers[row, position - (int(found.lengths[row]) - new)])
            before = expected.sequences[row, :position]
            assert margin(target, before, slim=tier == 1) < MARGIN
    if max(first) < 0:
        assert torch.equal(expected.tiers, found.tiers)
        torch.testing.assert_close(found.logprobs, expected.logprobs, atol=0.1, rtol=0.05)
    assert torch.equal(expected.status, found.status)


@pytest.mark.parametrize("family", ["llama", "qwen3"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("mode", MODES)
def test_three_tiers_give_the_torch_engines_tokens(mode: str, shape: str, family: str) -> None:
    # A short backlog is full often, and audits roll back.
    config = ViaConfig(max_new_tokens=10, max_backlog=4, seed=1, **MODES[mode], **SHAPES[shape])
    pair = toy_pair(family)
    expected, found = run_both(pair, config, ROUTE)
    check_near(pair[0], expected, found)
    stats = found.stats
    assert stats.slim_passes > 0 and stats.full_passes > 0 and stats.accepted > 0
    if max(differences(expected, found)) < 0:
        left_out = ("draft_passes", "accepted_by_position", "overshoot_mean", "overshoot_p99")
        counted = [result.stats.to_dict() for result in (expected, found)]
        for name in set(counted[0]) - set(left_out):
            assert counted[0][name] == counted[1][name], name


@pytest.mark.parametrize("family", ["mistral", "qwen2"])
def test_windows_biases_and_untied_heads(family: str) -> None:
    changes = {"mistral": {"sliding_window": 8}, "qwen2": {}}[family]
    pair = toy_pair(family, tie_word_embeddings=False, vocab_size=301, **changes)
    config = ViaConfig(mode="exact", max_new_tokens=8, **SHAPES["tree"])
    check_near(pair[0], *run_both(pair, config))


@pytest.mark.parametrize("shape", SHAPES)
def test_two_tiers_and_no_draft(shape: str) -> None:
    pair = toy_pair("qwen3")
    config = ViaConfig(mode="exact", max_new_tokens=8, **SHAPES[shape])
    check_near(pair[0], *run_both(pair, config))
    config = ViaConfig(mode="exact", max_new_tokens=4, num_draft_tokens=0)
    check_near(pair[0], *run_both(pair, config, prompts=PROMPTS[:1]))


@pytest.mark.parametrize("thresholds", [(1.5, 1.5), (0.1, 0.0)], ids=["always", "never"])
def test_forced_escalations_and_backlogs_that_fill(thresholds: tuple[float, float]) -> None:
    accept, escalate = thresholds
    config = ViaConfig(
        accept_threshold=accept, escalate_threshold=escalate, max_backlog=4, max_new_tokens=12,
        num_draft_tokens=3,
    )  # fmt: skip
    pair = toy_pair()
    expected, found = run_both(pair, config, ROUTE)
    check_near(pair[0], expected, found)
    if accept > 1.0:
        assert found.stats.escalate_rate == 1.0
    else:
        assert found.stats.escalate_rate == 0.0 and found.stats.full_passes > 0
        assert found.stats.resumed_passes < found.stats.full_passes


def test_audits_roll_back_and_end_of_sequence_ends_rows_inside_the_tree() -> None:
    pair = toy_pair()
    settings: dict[str, Any] = {"mode": "exact", "max_new_tokens": 10, "max_backlog": 8}
    settings |= SHAPES["tree"]
    whole = decoder(pair[0], None, None, ViaConfig(**settings | {"tree": None}), "torch")
    result = whole.generate([torch.tensor(prompt) for prompt in PROMPTS])
    # A token in the middle of each row.
    eos = {int(row[len(prompt) + 4]) for row, prompt in zip(result.sequences, PROMPTS, strict=True)}
    config = ViaConfig(eos_token_id=tuple(eos), min_new_tokens=2, **settings)
    expected, found = run_both(pair, config, ROUTE)
    check_near(pair[0], expected, found)
    ends = zip(found.lengths.tolist(), PROMPTS, strict=True)
    assert sum(length < len(prompt) + 10 for length, prompt in ends) >= 2
    stats = found.stats
    assert stats.steps - stats.slim_passes + stats.resumed_passes == stats.full_passes


def test_the_widest_pass_and_four_rows() -> None:
    pair = toy_pair()
    config = ViaConfig(mode="via", max_new_tokens=8, tree=Tree.from_widths([4, 2]))
    # The backlog is cut to three tokens fewer than the rows of a pass leave.
    check_near(pair[0], *run_both(pair, config, None, None, [*PROMPTS, [9, 9]]))
    config = ViaConfig(mode="via", max_new_tokens=6, num_draft_tokens=5, max_backlog=100)
    check_near(pair[0], *run_both(pair, config, ROUTE, None, PROMPTS[:1]))


def test_drafters_of_the_host() -> None:
    pair = toy_pair()
    repeated = ([1, 2, 3, 4, 1, 2, 3, 4, 1, 2], [5, 6, 5, 6, 5])
    config = ViaConfig(max_new_tokens=8, max_backlog=4, num_draft_tokens=4)
    for make in (PromptLookupDrafter, Shrinking):
        check_near(pair[0], *run_both(pair, config, ROUTE, make, repeated))
