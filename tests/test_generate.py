# SPDX-License-Identifier: Apache-2.0
"""`via_ext.generate`, and what transformers keeps from a custom decoding method."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch

from tests.generate_cases import (
    ROUTE,
    LengthCriterion,
    Recorder,
    Streamer,
    pair,
    plain,
    prompt,
    through,
)
from via_ext import demo
from via_ext.config import ViaConfig
from via_ext.custom import custom_generate
from via_ext.drafters import PromptLookupDrafter
from via_ext.generation import generate

EXACT = ViaConfig(mode="exact", max_backlog=5, max_new_tokens=20)


def _new(result: Any, row: int = 0) -> list[int]:
    return result.sequences[row, : result.lengths[row]].tolist()  # type: ignore[no-any-return]


@pytest.mark.parametrize("options", [{}, {"repetition_penalty": 1.3}], ids=["own", "transformers"])
@pytest.mark.parametrize("route", [None, ROUTE], ids=["two-tier", "slim"])
@pytest.mark.parametrize("early", [False, True], ids=["full length", "early eos"])
def test_streamer(early: bool, route: Any, options: dict[str, Any]) -> None:
    """The prompt once, every token once and in order, the end once."""
    model, drafter = pair()
    expected = plain(model, prompt(), **options)[0].tolist()
    new = expected[9:]
    eos = max(new[:-1], key=new.index) if early else None  # the latest to come up
    expected = plain(model, prompt(), eos_token_id=eos, **options)[0].tolist()
    assert (len(expected) < 29) == early
    config = ViaConfig(mode="exact", max_backlog=5, max_new_tokens=20, eos_token_id=eos)
    streamer = Streamer()
    options = options | ({"eos_token_id": eos} if options and early else {})
    result = generate(model, prompt(), drafter, route, config, streamer=streamer, **options)
    assert _new(result) == expected
    assert streamer.pieces[0].tolist() == prompt().tolist()
    assert streamer.tokens == expected
    assert streamer.ends == 1
    assert early or len(streamer.pieces) > 3  # as it came, not at the end


def test_transformers_gives_a_streamer_the_prompt_only() -> None:
    """The trap: a callable never sees it. Bound and passed, it gets everything."""
    model, drafter = pair()
    dropped = Streamer()
    through(model, prompt(), drafter, streamer=dropped)
    assert dropped.tokens == prompt()[0].tolist() and dropped.ends == 0
    streamer = Streamer()
    method = partial(custom_generate, streamer=streamer, drafter=drafter)
    out = plain(model, prompt(), custom_generate=method, streamer=streamer)
    assert streamer.tokens == out[0].tolist() and streamer.ends == 1


def test_text_streamer(capsys: pytest.CaptureFixture[str]) -> None:
    """transformers' own streamer prints the text of the tokens."""
    from transformers import TextStreamer

    target, drafter, tokenizer, route = demo.load()
    ids = tokenizer("def main(", return_tensors="pt")["input_ids"]
    config = ViaConfig(max_new_tokens=24)
    result = generate(target, ids, drafter, route, config, streamer=TextStreamer(tokenizer))
    assert capsys.readouterr().out.rstrip("\n") == tokenizer.decode(_new(result)).rstrip("\n")


@pytest.mark.parametrize("options", [{}, {"no_repeat_ngram_size": 6}], ids=["own", "transformers"])
def test_stop_strings_across_steps(options: dict[str, Any]) -> None:
    """The request ends with the token that completes the text, wherever steps were cut."""
    target, drafter, tokenizer, route = demo.load()
    ids = tokenizer("def main(", return_tensors="pt")["input_ids"]
    full = plain(target, ids, max_new_tokens=40, eos_token_id=None, **options)[0].tolist()
    text = tokenizer.decode(full[ids.shape[1] :])
    for start in (3, 11, 20):
        stop = text[start : start + 5]
        end = next(
            n for n in range(ids.shape[1] + 1, len(full) + 1) if stop in tokenizer.decode(full[:n])
        )
        for tiers in (None, route):
            config = ViaConfig(mode="exact", max_new_tokens=40, max_backlog=6)
            result = generate(
                *(target, ids, drafter, tiers, config),
                tokenizer=tokenizer,
                stop_strings=[stop, "never there"],
                **options,
            )
            assert _new(result) == full[:end]


def test_stop_strings_need_a_tokenizer() -> None:
    model, drafter = pair()
    for options in ({}, {"repetition_penalty": 1.3}):
        with pytest.raises(ValueError, match="tokenizer must be given with stop_strings, got None"):
            generate(model, prompt(), drafter, stop_strings="a", **options)
    # The trap: transformers drops the tokenizer of a custom method and then asks for it.
    with pytest.raises(ValueError, match="could not locate a tokenizer"):
        through(model, prompt(), drafter, stop_strings="a", tokenizer=demo.load().tokenizer)


def test_assistant_model_is_a_drafter() -> None:
    model, drafter = pair()
    result = generate(model, prompt(), config=EXACT, assistant_model=drafter)
    assert result.stats.accepted > 0
    assert _new(result) == plain(model, prompt())[0].tolist()
    with pytest.raises(ValueError, match="assistant_model must be None beside a drafter"):
        generate(model, prompt(), drafter, assistant_model=drafter)


def test_beams_are_refused() -> None:
    model, drafter = pair()
    with pytest.raises(ValueError, match="num_beams must be None or 1, got 4"):
        generate(model, prompt(), drafter, num_beams=4)


def test_options_stand_above_config() -> None:
    from transformers import GenerationConfig

    model, drafter = pair()
    call = (model, prompt(), drafter, ROUTE)
    expected = plain(model, prompt(), repetition_penalty=1.3)[0].tolist()
    assert _new(generate(*call, EXACT, repetition_penalty=1.3)) == expected
    assert _new(generate(*call, EXACT, repetition_penalty=1.3, max_new_tokens=5)) == expected[:14]
    assert _new(generate(*call, EXACT, repetition_penalty=1.3, max_length=12)) == expected[:12]
    own = GenerationConfig(max_new_tokens=6, repetition_penalty=1.3, pad_token_id=0)
    plain_exact = ViaConfig(mode="exact", max_backlog=5)
    assert _new(generate(*call, plain_exact, generation_config=own)) == expected[:15]
    with pytest.raises(ValueError, match=r"config.max_new_tokens must be left .* got 20"):
        generate(*call, EXACT, generation_config=own)
    with pytest.raises(ValueError, match="custom_generate must not be given"):
        generate(*call, EXACT, custom_generate=custom_generate)
    with pytest.raises(ValueError, match="model_kwargs"):
        generate(*call, EXACT, no_such_option=1)


def test_criteria_and_processors() -> None:
    model, drafter = pair()
    criterion, recorder = LengthCriterion(17), Recorder()
    result = generate(
        *(model, prompt(), drafter, ROUTE, EXACT),
        logits_processor=[recorder],
        stopping_criteria=[criterion],
    )
    expected = plain(
        model, prompt(), logits_processor=[Recorder()], stopping_criteria=[LengthCriterion(17)]
    )
    assert _new(result) == expected[0].tolist()
    assert len(recorder.prefixes) == len(criterion.prefixes) == 8


def test_batches_of_any_padding() -> None:
    model, drafter = pair()
    prompts = [prompt(9)[0], prompt(4, seed=1)[0]]
    expected = [plain(model, row[None], repetition_penalty=1.3)[0].tolist() for row in prompts]
    right = torch.zeros(2, 9, dtype=torch.int64)
    mask = torch.zeros_like(right)
    for row, tokens in enumerate(prompts):
        right[row, : len(tokens)], mask[row, : len(tokens)] = tokens, 1
    for ids, given in ((prompts, None), (right, mask)):
        result = generate(
            *(model, ids, drafter, ROUTE, EXACT), attention_mask=given, repetition_penalty=1.3
        )
        assert [_new(result, row) for row in range(2)] == expected
    with pytest.raises(ValueError, match="streamer must have a batch of 1, got 2"):
        generate(model, prompts, drafter, streamer=Streamer(), repetition_penalty=1.3)


def test_sampling_settings_of_config_reach_transformers() -> None:
    """With a processor that changes nothing the draws are those without it."""
    model, _ = pair()
    config = ViaConfig(temperature=0.7, top_k=8, top_p=0.9, min_p=0.02, seed=4, max_new_tokens=16)
    fused = generate(model, prompt(), PromptLookupDrafter(), None, config)
    through_options = generate(
        model, prompt(), PromptLookupDrafter(), None, config, repetition_penalty=1.0
    )
    assert _new(fused) == _new(through_options)
