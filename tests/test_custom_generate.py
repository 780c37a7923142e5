# SPDX-License-Identifier: Apache-2.0
"""Greedy exact decoding through `custom_generate` equals plain generate, whatever processes it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.generate_cases import (
    ROUTE,
    ROUTES,
    SHAPES,
    LengthCriterion,
    Recorder,
    pair,
    plain,
    prompt,
    through,
)
from tests.models import VOCAB_SIZE
from via_ext.config import ViaConfig
from via_ext.drafters import PromptLookupDrafter

NEW = 20


def _config(shape: str = "chain", backlog: int = 5, **changes: Any) -> ViaConfig:
    return ViaConfig(mode="exact", tree=SHAPES[shape], max_backlog=backlog, **changes)


PROCESSORS = {
    "none": {},
    "repetition": {"repetition_penalty": 1.4},
    "ngrams": {"no_repeat_ngram_size": 2},
    "bad words": {"bad_words_ids": [[5], [7, 9], [1]]},
    "bias": {"sequence_bias": [[[3], 2.0], [[11, 12], -4.0]]},
    "prefix": {"prefix_allowed_tokens_fn": lambda row, ids: range(int(ids[-1]) % 5, VOCAB_SIZE, 5)},
    "forced eos": {"forced_eos_token_id": 3, "eos_token_id": 3},
    "decay": {"exponential_decay_length_penalty": (4, 1.3), "eos_token_id": 3},
    "min length": {"min_length": 15, "eos_token_id": list(range(0, VOCAB_SIZE, 4))},
    "min new": {"min_new_tokens": 8, "eos_token_id": list(range(0, VOCAB_SIZE, 4))},
    "suppress": {"suppress_tokens": [2, 4], "begin_suppress_tokens": [30, 31]},
    "encoder": {"encoder_repetition_penalty": 1.3, "encoder_no_repeat_ngram_size": 2},
}


@pytest.mark.parametrize(
    ("shape", "route"), [("chain", "two-tier"), ("tree", "slim")], ids=["chain", "slim tree"]
)
@pytest.mark.parametrize("name", PROCESSORS)
def test_processors_equal_plain_generate(name: str, shape: str, route: str) -> None:
    model, drafter = pair()
    options = PROCESSORS[name]
    expected = plain(model, prompt(), **options)
    got = through(model, prompt(), drafter, route=ROUTES[route], config=_config(shape), **options)
    assert got.tolist() == expected.tolist()


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("name", ["repetition", "prefix", "encoder", "min new", "forced eos"])
def test_left_padded_batches(name: str, route: str) -> None:
    """Padding is part of the prefix that processors see, and rows end where they end alone."""
    model, drafter = pair()
    ids = prompt(9, rows=3)
    mask = torch.ones_like(ids)
    for row, padding in enumerate((0, 4, 2)):
        ids[row, :padding], mask[row, :padding] = 0, 0
    options = PROCESSORS[name] | {"attention_mask": mask}
    if name == "prefix":
        options["prefix_allowed_tokens_fn"] = lambda row, sent: range(row, VOCAB_SIZE, 3)
    expected = plain(model, ids, **dict(options))
    got = through(model, ids, drafter, route=ROUTES[route], config=_config(), **dict(options))
    assert got.tolist() == expected.tolist()


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_stateful_processor_gets_the_calls_of_plain_generate(shape: str, route: str) -> None:
    """Once per decided position, in order: never on a rejected prefix, never twice."""
    model, drafter = pair()
    ours, theirs = Recorder(), Recorder()
    expected = plain(model, prompt(), logits_processor=[theirs])
    got = through(
        model,
        prompt(),
        drafter,
        route=ROUTES[route],
        config=_config(shape),
        logits_processor=[ours],
    )
    assert got.tolist() == expected.tolist()
    assert ours.prefixes == theirs.prefixes
    assert ours.prefixes == [got[0, :n].tolist() for n in range(9, 29)]


CONFIGS = {
    "via": ViaConfig(seed=1),
    "audit": ViaConfig(audit_threshold=0.3, max_backlog=4, seed=1),
    "exact": ViaConfig(mode="exact", max_backlog=4, seed=1),
}


@pytest.mark.parametrize("sampling", [False, True], ids=["greedy", "sampling"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("config", CONFIGS)
def test_a_stateful_processor_is_called_once_per_token(
    config: str, shape: str, sampling: bool
) -> None:
    """Tokens may differ from plain generate's here; the calls follow the tokens all the same."""
    model, drafter = pair()
    ours = Recorder()
    got = through(
        model,
        prompt(),
        drafter,
        route=ROUTE,
        config=replace(CONFIGS[config], tree=SHAPES[shape]),
        do_sample=sampling,
        logits_processor=[ours],
    )
    assert ours.prefixes == [got[0, :n].tolist() for n in range(9, 29)]


def test_rows_of_a_batch_have_processors_of_their_own() -> None:
    model, drafter = pair()
    ids = prompt(7, rows=3)
    together = through(model, ids, drafter, route=ROUTE, logits_processor=[Recorder()])
    for row in range(3):
        alone = plain(model, ids[row : row + 1], logits_processor=[Recorder()])
        assert together[row].tolist() == alone[0].tolist()


def test_a_processor_may_offer_one_for_each_row() -> None:
    class Favours:
        def __init__(self, token: int) -> None:
            self.token = token

        def for_row(self, row: int) -> Favours:
            return Favours(row + 1)

        def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            scores[:, self.token] += 1e4
            return scores

    model, drafter = pair()
    got = through(model, prompt(5, rows=2), drafter, logits_processor=[Favours(0)])
    assert got[:, 5:].tolist() == [[1] * NEW, [2] * NEW]


def test_a_processor_that_cannot_be_copied_is_named() -> None:
    class Locked(Recorder):
        def __deepcopy__(self, memo: Any) -> Any:
            raise RuntimeError("holds a lock")

    model, drafter = pair()
    expected = plain(model, prompt(), logits_processor=[Recorder()])
    got = through(model, prompt(), drafter, logits_processor=[Locked()])
    assert got.tolist() == expected.tolist()  # two tiers need no copy
    with pytest.raises(TypeError, match=r"must be copyable .* got Locked \(holds a lock\)"):
        through(model, prompt(), drafter, route=ROUTE, logits_processor=[Locked()])


@pytest.mark.parametrize("processed", [False, True], ids=["fused", "processed"])
@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("length", [10, 13, 17])
def test_criteria_see_every_token(length: int, route: str, processed: bool) -> None:
    model, drafter = pair()
    options = {"repetition_penalty": 1.4} if processed else {}
    theirs, ours = LengthCriterion(length), LengthCriterion(length)
    expected = plain(model, prompt(), stopping_criteria=[theirs], **options)
    for config in (_config(), ViaConfig(), ViaConfig(audit_threshold=1.0, max_backlog=6)):
        ours = LengthCriterion(length)
        got = through(
            model,
            prompt(),
            drafter,
            route=ROUTES[route],
            config=config,
            stopping_criteria=[ours],
            return_dict_in_generate=True,
            **options,
        )
        assert got.sequences.shape == (1, length)
        assert ours.prefixes == [got.sequences[0, :n].tolist() for n in range(10, length + 1)]
        assert got.via_tiers.shape == (1, length - 9) and (got.via_tiers != 255).all()
        if config.mode == "exact":
            assert got.sequences.tolist() == expected.tolist()
            assert ours.prefixes == theirs.prefixes


@pytest.mark.parametrize("drafter", [None, PromptLookupDrafter()], ids=["none", "lookup"])
@pytest.mark.parametrize("route", ROUTES)
def test_other_drafters(route: str, drafter: Any) -> None:
    model, _ = pair()
    expected = plain(model, prompt(), repetition_penalty=1.2)
    got = through(model, prompt(), drafter, route=ROUTES[route], repetition_penalty=1.2)
    assert got.tolist() == expected.tolist()


@pytest.mark.parametrize("family", ["qwen2", "mistral"])
def test_windows(family: str) -> None:
    model, drafter = pair(family)
    expected = plain(model, prompt(14), no_repeat_ngram_size=3)
    got = through(model, prompt(14), drafter, route=ROUTE, no_repeat_ngram_size=3)
    assert got.tolist() == expected.tolist()
