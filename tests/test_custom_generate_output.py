# SPDX-License-Identifier: Apache-2.0
"""`custom_generate`: its output object, and what it refuses by name."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch

from tests.generate_cases import ROUTE, Recorder, pair, plain, prompt, through
from tests.models import random_model
from via_ext.config import ViaConfig
from via_ext.custom import custom_generate
from via_ext.stats import DecodeStats

AUDITED = ViaConfig(audit_threshold=1.0, max_backlog=4)


@pytest.mark.parametrize("config", [None, AUDITED], ids=["exact", "audit"])
@pytest.mark.parametrize("options", [{}, {"repetition_penalty": 1.4}], ids=["none", "penalty"])
def test_scores_and_logits_are_the_full_models(options: dict[str, Any], config: Any) -> None:
    """Also of tokens that the slim verifier proposed: every position was judged by the target."""
    model, drafter = pair()
    asked = options | {
        "return_dict_in_generate": True,
        "output_scores": True,
        "output_logits": True,
    }
    expected = plain(model, prompt(), **asked)
    chosen = {} if config is None else {"config": config}
    got = through(model, prompt(), drafter, route=ROUTE, **asked, **chosen)
    assert isinstance(got, type(expected)) and got.past_key_values is None
    assert isinstance(got.via_stats, DecodeStats) and got.via_stats.tokens == 20
    if config is None:
        assert got.sequences.tolist() == expected.sequences.tolist()
        for name in ("scores", "logits"):
            ours, theirs = torch.stack(got[name]), torch.stack(expected[name])
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    picked = torch.stack(got.scores)[:, 0].argmax(-1)
    assert picked.tolist() == got.sequences[0, 9:].tolist()
    torch.testing.assert_close(
        torch.stack(got.scores)[:, 0].log_softmax(-1).amax(-1),
        got.via_logprobs[0],
        rtol=1e-4,
        atol=1e-4,
    )


def test_rows_that_ended_are_padded() -> None:
    model, drafter = pair()
    ids = prompt(9, rows=2)
    eos = int(plain(model, ids)[0, 12])
    asked = {"return_dict_in_generate": True, "output_scores": True, "eos_token_id": eos}
    expected = plain(model, ids, **asked)
    got = through(model, ids, drafter, **asked)
    assert got.sequences.tolist() == expected.sequences.tolist()
    assert len(got.scores) == len(expected.scores)
    done = (got.via_tiers[0] != 255).sum()
    assert got.scores[done - 1][0].any() and not got.scores[done][0].any()


def test_scores_reach_the_criteria() -> None:
    counts: list[int] = []

    def watch(input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        counts.append(len(scores))
        return torch.tensor([False])

    model, drafter = pair()
    asked = {"return_dict_in_generate": True, "output_scores": True}
    through(model, prompt(), drafter, route=ROUTE, stopping_criteria=[watch], **asked)
    assert counts == list(range(1, 21))


def test_the_lossy_mode_has_no_scores() -> None:
    model, drafter = pair()
    asked = {"return_dict_in_generate": True, "config": ViaConfig()}
    got = through(model, prompt(), drafter, route=ROUTE, **asked)
    assert got.scores is None and got.via_stats.slim_passes > 0
    for name in ("scores", "logits"):
        with pytest.raises(ValueError, match=f"output_{name} must be False in mode 'via'"):
            through(model, prompt(), drafter, route=ROUTE, **asked, **{f"output_{name}": True})


REFUSED = {
    "num_beams": (2, "num_beams must be None or 1, got 2"),
    "penalty_alpha": (0.6, "penalty_alpha must be None or 0.0, got 0.6"),
    "dola_layers": ("high", "dola_layers must be None, got high"),
    "guidance_scale": (2.0, "guidance_scale must be None or 1.0, got 2.0"),
    "prompt_lookup_num_tokens": (3, "PromptLookupDrafter"),
    "assistant_early_exit": (2, "assistant_early_exit must be None; give a drafter, got 2"),
    "output_attentions": (True, "output_attentions must be None or False, got True"),
    "output_hidden_states": (True, "output_hidden_states must be None or False"),
    "synced_gpus": (True, None),  # transformers keeps it from a callable: nothing to refuse
    "inputs_embeds": (torch.zeros(1, 9, 32), "inputs_embeds must be None, got Tensor"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_honoured_is_named(name: str) -> None:
    model, drafter = pair()
    value, text = REFUSED[name]
    options: dict[str, Any] = {name: value}
    if name in ("output_attentions", "output_hidden_states"):
        options["return_dict_in_generate"] = True
        if name == "output_attentions":
            model = random_model("llama", attn_implementation="eager")
    if text is None:
        assert through(model, prompt(), drafter, **options).shape == (1, 29)
        return
    if name == "penalty_alpha":
        options["top_k"] = 4
    with pytest.raises(
        ValueError, match=f"custom_generate: {'.*' if 'Lookup' in text else ''}{text}"
    ):
        through(model, prompt(), drafter, **options)


def test_other_refusals() -> None:
    from transformers import DynamicCache

    model, drafter = pair()
    call = dict(model=model, ids=prompt(), drafter=drafter)
    cache = DynamicCache(config=model.config)
    model(prompt()[:, :4], past_key_values=cache)
    with pytest.raises(ValueError, match="past_key_values must be None, got DynamicCache"):
        through(**call, past_key_values=cache)
    ids, mask = prompt(9, rows=2), torch.ones(2, 9, dtype=torch.int64)
    mask[1, 7:] = 0
    with pytest.raises(ValueError, match="attention_mask must pad on the left"):
        through(model, ids, drafter, attention_mask=mask)
    embeddings = model.get_input_embeddings()(ids)
    with pytest.raises(ValueError, match="inputs_embeds must be None, got Tensor"):
        model.generate(
            inputs_embeds=embeddings,
            attention_mask=torch.ones_like(ids),
            custom_generate=custom_generate,
            drafter=drafter,
        )
    with pytest.raises(ValueError, match="position_ids must count the prompt's tokens from 0"):
        through(**call, position_ids=torch.arange(3, 12)[None])
    with pytest.raises(ValueError, match=r"config.temperature must be left at its default"):
        through(**call, config=ViaConfig(temperature=0.5))
    with pytest.raises(ValueError, match=r"config.max_new_tokens must be left .* got 7"):
        through(**call, config=ViaConfig(max_new_tokens=7))
    with pytest.raises(TypeError, match="config must be a ViaConfig, got dict"):
        through(**call, config={})
    with pytest.raises(ValueError, match="custom_generate: drafter must be given"):
        plain(model, prompt(), custom_generate=custom_generate, assistant_model=drafter)
    with pytest.raises(ValueError, match="synced_gpus must be None, got bool"):
        method = partial(custom_generate, synced_gpus=True, drafter=drafter)
        plain(model, prompt(), custom_generate=method)
    with pytest.raises(ValueError, match="cache_implementation must be"):
        through(**call, cache_implementation="offloaded")
    with pytest.raises(ValueError, match="draft_threshold must be None in exact sampling"):
        config = ViaConfig(mode="exact", draft_threshold=0.9)
        through(**call, config=config, do_sample=True)
    with pytest.raises(ValueError, match="num_return_sequences"):
        through(**call, num_return_sequences=2)  # transformers: greedy has one


def test_a_static_cache_is_not_needed() -> None:
    model, drafter = pair()
    got = through(model, prompt(), drafter, cache_implementation="static")
    assert got.tolist() == plain(model, prompt()).tolist()
    got = through(model, prompt(), drafter, use_cache=False)
    assert got.tolist() == plain(model, prompt()).tolist()


def test_max_length_counts_the_prompt() -> None:
    model, drafter = pair()
    got = through(model, prompt(), drafter, max_new_tokens=None, max_length=14)
    assert got.tolist() == plain(model, prompt(), max_new_tokens=None, max_length=14).tolist()
    assert got.shape == (1, 14)
    processed = through(
        model, prompt(), drafter, max_new_tokens=None, max_length=14, logits_processor=[Recorder()]
    )
    assert processed.shape == (1, 14)
