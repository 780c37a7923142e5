# SPDX-License-Identifier: Apache-2.0
"""`diagnose` on small models whose acceptance and agreement are known, and its errors."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

pytest.importorskip("transformers")

from tests.models import VOCAB_SIZE, greedy, random_model
from via_ext.doctor import Diagnosis, diagnose
from via_ext.doctor.estimates import LOOKUP, PLAIN, STEPWISE, THREE, TWO, VIA
from via_ext.doctor.text import Text, propose_along, slim_choices
from via_ext.drafters import ModelDrafter, PromptLookupDrafter, SlimDrafter
from via_ext.engines.torch import TorchEngine
from via_ext.route import SlimRoute

ROUTE = SlimRoute((True, False, True, True), (True, True, False, True))
FEW = {"WARM_UP": 1, "MIN_REPEATS": 2, "MAX_REPEATS": 3, "ATTEMPTS": 1}


@pytest.fixture(autouse=True)
def few_repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in FEW.items():
        monkeypatch.setattr(f"via_ext.doctor.passes.{name}", value)


def prompts(*lengths: int) -> list[torch.Tensor]:
    return [torch.randint(0, VOCAB_SIZE, (length,)) for length in lengths]


def hollow_model() -> Any:
    """A model in which the sublayers that ROUTE skips add nothing: slim and full are the same."""
    model = random_model("llama")
    with torch.no_grad():
        model.model.layers[1].self_attn.o_proj.weight.zero_()
        model.model.layers[2].mlp.down_proj.weight.zero_()
    return model


def text_of(model: Any, prompt: torch.Tensor, new: int) -> Text:
    return Text(greedy(model, prompt.tolist(), new), len(prompt))


@pytest.fixture(scope="module")
def perfect() -> Diagnosis:
    """The target drafts for itself, and its slim verifier is the same model."""
    model = hollow_model()
    patch = pytest.MonkeyPatch()
    with patch.context() as context:
        for name, value in FEW.items():
            context.setattr(f"via_ext.doctor.passes.{name}", value)
        generator = torch.Generator().manual_seed(3)
        ids = [torch.randint(0, VOCAB_SIZE, (n,), generator=generator) for n in (10, 17)]
        return diagnose(model, model, ROUTE, ids, max_new_tokens=16, validate=True)


def test_a_perfect_pair_is_found_perfect(perfect: Diagnosis) -> None:
    assert perfect.acceptance == (1.0,) * 8
    assert perfect.agreement == 1.0 and perfect.rejection_rate == 0.0
    ways = {way.name: way for way in perfect.estimates}
    assert set(ways) == {PLAIN, TWO, LOOKUP, THREE, STEPWISE, VIA}
    assert ways[VIA].agreement == 1.0 and perfect.escalation_rate == 0.0
    assert ways[PLAIN].speedup == 1.0
    assert perfect.slim_cost > 0.0


def test_everything_is_reported(perfect: Diagnosis) -> None:
    data = json.loads(json.dumps(perfect.to_dict()))
    kinds = {(row["pass"], row["tokens"]) for row in data["passes"]}
    assert {("full", 1), ("full", 6), ("slim", 6), ("tail", 6), ("draft", 5)} <= kinds
    assert all(row["seconds"] > 0.0 and row["repeats"] >= 2 for row in data["passes"])
    assert data["facts"]["prompts"] == 2 and data["facts"]["new_tokens"] == 32
    assert data["facts"]["skip_ratio"] == 0.25 and data["facts"]["shared_prefix"] == 0.25
    assert data["lead"]["first"] in data["verdict"][0]
    assert len(data["verdict"]) >= 3


def test_predictions_are_compared_with_decodes(perfect: Diagnosis) -> None:
    ways = {way.name: way for way in perfect.estimates}
    assert {PLAIN} <= {check.name for check in perfect.checks} <= {PLAIN, TWO, STEPWISE, VIA}
    for check in perfect.checks:
        assert check.predicted == pytest.approx(1.0 / ways[check.name].seconds)
        assert check.error == pytest.approx(check.predicted / check.measured - 1.0)


def test_acceptance_is_that_of_the_drafts_along_the_text() -> None:
    """A small drafter: counted by hand from its own greedy continuations."""
    model, small = random_model("llama"), random_model("llama", 1, seed=0)
    texts = [text_of(model, prompt, 6) for prompt in prompts(9, 12)]
    found = propose_along(ModelDrafter(small), texts, 3)
    for text, chains in zip(texts, found, strict=True):
        assert len(chains) == len(text.new)
        for place, chain in enumerate(chains):
            before = text.tokens[: text.prompt_length + place]
            assert chain == greedy(small, before, 3)[len(before) :]


def test_slim_choices_of_an_equal_slim_verifier_are_the_text() -> None:
    model = hollow_model()
    text = text_of(model, prompts(9)[0], 30)
    assert slim_choices(TorchEngine(model, ROUTE), text) == text.new


def test_slim_choices_of_the_first_token_are_the_slim_view_s_over_full_keys() -> None:
    """Short of one block the choices follow from single steps of the engine's slim pass."""
    model = random_model("llama")
    text = text_of(model, prompts(9)[0], 1)
    engine = TorchEngine(model, ROUTE)
    from via_ext.engines.torch import feed
    from via_ext.models.arena import KVArena
    from via_ext.models.passes import chain_block

    arena = KVArena(model, 1, 12)
    with torch.inference_mode():
        feed(engine.full, arena, [0], [text.tokens[:8]])
        ids = torch.tensor([text.tokens[8:9]])
        assert engine.slim is not None
        logits = engine.slim(arena, chain_block([0], [8], 1), token_ids=ids, num_logits=1)
    assert logits is not None
    assert slim_choices(engine, text) == [int(logits.argmax())]


def test_prompt_lookup_is_the_drafter_where_none_is_given() -> None:
    stages: list[str] = []
    model = random_model("llama")
    ids = torch.stack(prompts(12, 12))
    found = diagnose(model, prompts=ids, max_new_tokens=10, progress=stages.append)
    names = [way.name for way in found.estimates]
    assert TWO in names and LOOKUP not in names
    assert found.checks == () and found.facts["calibrated"] is False
    assert "timing the passes" in stages and len(stages) == len(set(stages))


@pytest.mark.parametrize(
    ("changes", "kind", "text"),
    [
        ({"prompts": None}, ValueError, "prompts must hold at least one prompt, got none"),
        ({"prompts": []}, ValueError, "prompts must hold at least one prompt, got none"),
        ({"prompts": [torch.arange(5)]}, ValueError, r"prompts\[0\] must hold at least 8 tokens"),
        ({"prompts": [torch.arange(250) % 90]}, ValueError, "leave room for max_new_tokens"),
        ({"route": "evenly"}, TypeError, "route must be a SlimRoute, got str"),
        ({"route": SlimRoute.full(4)}, ValueError, "route must skip a sublayer"),
        ({"route": SlimRoute.evenly(6)}, ValueError, "route must have 4 layers, got 6"),
        ({"drafter": SlimDrafter()}, ValueError, "drafter must not draft with the route"),
        ({"num_draft_tokens": 0}, ValueError, r"num_draft_tokens must be in \[1, 95\], got 0"),
        ({"num_draft_tokens": 2.0}, TypeError, "num_draft_tokens must be an int"),
        ({"max_new_tokens": 0}, ValueError, "max_new_tokens must be at least 1"),
    ],
)
def test_bad_arguments_are_refused_before_any_work(
    changes: dict[str, Any], kind: type[Exception], text: str
) -> None:
    stages: list[str] = []
    arguments: dict[str, Any] = {"prompts": prompts(12), "progress": stages.append} | changes
    with pytest.raises(kind, match=text):
        diagnose(random_model("llama"), **arguments)
    assert stages == []


def test_the_route_of_another_model_is_refused(tmp_path: Any) -> None:
    path = tmp_path / "route.json"
    ROUTE.save(path, random_model("llama", seed=1))
    with pytest.raises(ValueError, match="route must be of this model"):
        diagnose(random_model("llama"), None, SlimRoute.load(path), prompts(12))


def test_texts_that_end_at_once_are_refused() -> None:
    model = random_model("llama")
    ids = prompts(12)
    model.generation_config.eos_token_id = text_of(model, ids[0], 1).new[0]
    with pytest.raises(ValueError, match="be continued by at least 16 tokens in all"):
        diagnose(model, PromptLookupDrafter(), ROUTE, ids)
