# SPDX-License-Identifier: Apache-2.0
"""Scores of text and traces, against naive loops over single positions."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers")

from tests.models import greedy, random_model
from via_ext.calibration.models import STOPS, step_rows
from via_ext.calibration.trace import Trace, trace_texts
from via_ext.drafters import ModelDrafter
from via_ext.models.assistant import slim_view
from via_ext.route import SlimRoute
from via_ext.router import FEATURES
from via_ext.trace import score_text


@pytest.fixture(scope="module")
def models() -> tuple:
    target = random_model("llama", num_layers=4, seed=1)
    drafter = random_model("llama", num_layers=1, seed=1)
    route = SlimRoute((True, True, False, True), (True, False, True, True))
    texts = [torch.tensor(greedy(target, [3, 14, 15, 9], 20)), torch.arange(5, 22)]
    return target, drafter, route, texts


@torch.inference_mode()
def last_logits(model: object, tokens: torch.Tensor) -> torch.Tensor:
    return model(tokens[None], use_cache=False).logits[0, -1]


def test_score_text_is_the_model_in_each_context(models) -> None:
    target, _, _, texts = models
    scores = score_text(target, texts, [4, 1])
    assert scores[0].agrees.all()  # the target's own greedy text
    assert not scores[1].agrees.all()
    for text, prompt, score in zip(texts, (4, 1), scores, strict=True):
        assert len(score.agrees) == len(score.logprobs) == len(text) - prompt
        for i in range(prompt, len(text)):
            logits = last_logits(target, text[:i])
            assert bool(score.agrees[i - prompt]) == (int(logits.argmax()) == int(text[i]))
            expected = torch.log_softmax(logits, -1)[text[i]]
            assert float(score.logprobs[i - prompt]) == pytest.approx(float(expected), abs=1e-4)


def test_score_text_of_a_bare_prompt_and_of_bad_lengths(models) -> None:
    target, _, _, texts = models
    (score,) = score_text(target, texts[:1], [len(texts[0])])
    assert score.agrees.shape == score.logprobs.shape == (0,)
    for lengths, said in (([0], r"prompt_lengths\[0\] must be in \[1, 24\], got 0"), ([], "got 0")):
        with pytest.raises(ValueError, match=said):
            score_text(target, texts[:1], lengths)


def test_trace_equals_a_loop(models) -> None:
    """Every column of a trace, position by position."""
    target, drafter, _, texts = models
    # Only the last MLP is skipped, after the last keys: slim and full contexts hold the same KV.
    route = SlimRoute((True, True, True, True), (True, True, True, False))
    trace = trace_texts(target, ModelDrafter(drafter), route, texts, [4, 1])
    slim = slim_view(target, route)
    row = 0
    for text, prompt in zip(texts, (4, 1), strict=True):
        for i in range(prompt, len(text)):
            q, s, p = (last_logits(model, text[:i]) for model in (target, slim, drafter))
            first = int(p.argmax())
            probs = torch.log_softmax(s, -1)
            top, own = probs.topk(2).values, torch.log_softmax(p, -1)
            expected = {
                "log_ratio": probs[first] - top[0],
                "log_max": top[0],
                "margin": top[0] - top[1],
                "log_draft": own[first],
                "draft_margin": own.topk(2).values[0] - own.topk(2).values[1],
                "depth": 0.0,
                "same": float(first == int(s.argmax())),
            }
            values = torch.tensor([float(expected[name]) for name in FEATURES]).clamp(-20, 20)
            torch.testing.assert_close(trace.features[row], values, atol=1e-3, rtol=1e-4)
            assert bool(trace.draft_right[row]) == (first == int(q.argmax()))
            assert bool(trace.slim_right[row]) == (int(s.argmax()) == int(q.argmax()))
            assert bool(trace.draft_follows[row]) == (first == int(text[i]))
            ratio = (q[first] - q.max()).exp()
            assert float(trace.full_ratio[row]) == pytest.approx(float(ratio), abs=1e-4)
            row += 1
    assert row == len(trace) == int(trace.lengths.sum())


def test_two_tier_trace_has_no_slim_features(models, tmp_path: Path) -> None:
    target, drafter, route, texts = models
    with_slim = trace_texts(target, ModelDrafter(drafter), route, texts, [4, 1])
    without = trace_texts(target, ModelDrafter(drafter), None, texts, [4, 1])
    assert without.slim_right.all() and not without.features[:, [0, 1, 2, 6]].any()
    torch.testing.assert_close(without.features[:, 3:5], with_slim.features[:, 3:5])
    with_slim.save(tmp_path / "trace.pt")
    again = Trace.load(tmp_path / "trace.pt")
    for name in ("lengths", "features", "draft_right", "slim_right", "draft_follows", "full_ratio"):
        assert torch.equal(getattr(again, name), getattr(with_slim, name)), name
    swapped = again.select([1, 0])
    assert swapped.lengths.tolist() == [16, 20]
    assert torch.equal((swapped.select([1]) + swapped.select([0])).features, again.features)


def make_trace(follows: list[bool]) -> Trace:
    count = len(follows)
    features = torch.zeros(count, len(FEATURES))
    flags = torch.tensor(follows)
    return Trace(torch.tensor([count]), features, flags, flags, flags, torch.ones(count))


def test_steps_of_a_trace() -> None:
    """Depths restart after a wrong draft, after a full chain's bonus row, and after a stop."""
    trace = make_trace([True, True, False, True, True, True, True])
    rows = step_rows(trace, 3, None, STOPS[0])
    assert rows.depth.tolist() == [1, 2, 3, 1, 2, 3, 4]
    assert rows.bonus.tolist() == [False] * 6 + [True]
    # Every token has acceptance 1/2: the second node's product falls below .3, it is the last.
    rows = step_rows(trace, 3, (0.0, 0.0, 0.0, 0.0), 0.3)
    assert rows.depth.tolist() == [1, 2, 3, 1, 2, 3, 1]
    assert rows.bonus.tolist() == [False, False, True, False, False, True, False]
