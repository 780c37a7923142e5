# SPDX-License-Identifier: Apache-2.0
"""What `search_route` refuses, and says so before any pass."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

import via_ext
from tests.models import random_model
from tests.test_search import LAYERS, LEAST, search, text_of_tests
from via_ext.route import SlimRoute
from via_ext.search import SublayerCosts

THREE = SublayerCosts((1.0,) * 3, (1.0,) * 3, 1.0, "seconds")
BELOW = SublayerCosts((1.0,) * 6, (*(1.0,) * 5, -1.0), 1.0, "seconds")
NOTHING = SublayerCosts((0.0,) * 6, (0.0,) * 6, 0.0, "seconds")


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        (
            {"skip_ratio": 0.9},
            ValueError,
            r"skip 1 to 8 of 12 sublayers \(layers 0..0 and the last",
        ),
        ({"skip_ratio": 0.01}, ValueError, r"got 0.01 \(0 sublayers\)"),
        (
            {"skip_ratio": None},
            ValueError,
            "skip_ratio must be a number unless objective is latency",
        ),
        ({"skip_ratio": "x"}, TypeError, "skip_ratio must be a number"),
        ({"skip_ratio": 1.0}, ValueError, r"skip_ratio must be in \(0, 1\)"),
        ({"min_shared_prefix": 5}, ValueError, "min_shared_prefix must leave a layer"),
        ({"min_shared_prefix": 6}, ValueError, r"min_shared_prefix must be in \[0, 6\), got 6"),
        ({"min_shared_prefix": 1.0}, TypeError, "min_shared_prefix must be an int"),
        ({"objective": "speed"}, ValueError, "objective must be one of divergence, missing_mass"),
        ({"proposals": "grid"}, ValueError, "proposals must be one of swaps, bayes, got grid"),
        ({"alpha": 1.0}, ValueError, r"alpha must be in \[0, 1\), got 1.0"),
        ({"beta": 0.0}, ValueError, r"beta must be in \(0, 1\], got 0.0"),
        ({"trials": 9}, ValueError, r"trials must be at least 10 \(8 sublayers alone"),
        ({"trials": 20.0}, TypeError, "trials must be an int"),
        ({"patience": 0}, ValueError, "patience must be at least 1, got 0"),
        ({"max_backlog": 12}, ValueError, "hold one of max_backlog [+] 1 = 13 tokens.*got 12"),
        ({"initial": SlimRoute.full(4)}, ValueError, "initial must have 6 layers, got 4"),
        ({"initial": SlimRoute.full(6)}, ValueError, "initial must skip 5 sublayers, got 0"),
        ({"initial": SlimRoute.prefix(6, 3)}, ValueError, "initial must keep layers 0..0 and the"),
        ({"initial": "x"}, TypeError, "initial must be a SlimRoute or None, got 'x'"),
        ({"seed": "x"}, TypeError, "seed must be an int, got 'x'"),
        ({"max_backlog": 4.0}, TypeError, "max_backlog must be an int, got 4.0"),
        ({"alpha": "x"}, TypeError, "alpha must be a number, got 'x'"),
        ({"beta": None}, TypeError, "beta must be a number, got None"),
        ({"draft_cost": "x"}, TypeError, "draft_cost must be a number or None, got 'x'"),
        ({"costs": 3}, TypeError, "costs must be SublayerCosts or None, got 3"),
        ({"drafter": 3}, TypeError, "drafter must be a transformers model"),
        ({"objective": None}, TypeError, "objective must be a string, got None"),
        ({"proposals": 1}, TypeError, "proposals must be a string, got 1"),
        ({"patience": 1.5}, TypeError, "patience must be an int or None, got 1.5"),
        ({"seed": True}, TypeError, "seed must be an int, got True"),
        ({"seed": -1}, ValueError, r"seed must be in \[0, 2\*\*32\), got -1"),
        ({"seed": 2**32}, ValueError, r"seed must be in \[0, 2\*\*32\), got 4294967296"),
        ({"max_backlog": -1}, ValueError, "max_backlog must be at least 0, got -1"),
        ({"draft_length": "x"}, TypeError, "draft_length must be an int, got 'x'"),
        ({"draft_length": 0}, ValueError, "draft_length must be at least 1, got 0"),
        ({"draft_cost": -0.1}, ValueError, "draft_cost must be finite and at least 0, got -0.1"),
        ({"draft_cost": math.nan}, ValueError, "draft_cost must be finite and .*, got nan"),
        ({"costs": THREE}, ValueError, "costs must have 6 attention and MLP .*, got 3 and 3"),
        ({"costs": BELOW}, ValueError, "costs must be finite, none below 0 and not all 0, got"),
        ({"costs": NOTHING}, ValueError, "costs must be finite, none below 0 and not all 0"),
        ({"study": 3}, TypeError, "study must be a path or None, got 3"),
        ({"study": True}, TypeError, "study must be a path or None, got True"),
        ({"study": b"x"}, TypeError, "study must be a path or None, got b'x'"),
        ({"progress": "x"}, TypeError, "progress must be callable or None, got 'x'"),
        ({"skip_ratio": math.nan}, ValueError, r"skip_ratio must be in \(0, 1\), got nan"),
    ],
)
def test_bad_arguments(
    options: Any, error: type, text: str, monkeypatch: Any, tmp_path: Path
) -> None:
    """Before any pass, and before the study is made."""
    monkeypatch.setattr("via_ext.scoring.LayerPass", None)
    study = tmp_path / "trials.jsonl"
    with pytest.raises(error, match=text) as caught:
        search(**({"study": study} | options))
    assert not study.exists()
    if "drafter" not in options:
        assert str(caught.value).startswith("search_route: ")


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        (3, TypeError, "sequences must be token ids or a list of them, got int"),
        ("abc", TypeError, "sequences must be token ids or a list of them, got str"),
        ([], ValueError, "sequences must hold at least one sequence, got none"),
        ([[1] * 40, "x"], TypeError, r"sequences\[1\] must be token ids, got 'x'"),
        ([["a", "b"]], TypeError, r"sequences\[0\] must be token ids, got \['a', 'b'\]"),
        ([[1.5] * 40], TypeError, r"sequences\[0\] must be int32 or int64, got torch.float32"),
        (torch.zeros(40, dtype=torch.int64), ValueError, r"sequences\[0\] must have rank 1, got 0"),
        ([[1] * 40, []], ValueError, r"sequences\[1\] must hold at least one token, got none"),
        ([[96] * 40], ValueError, r"sequences\[0\] must hold ids in \[0, 96\), got 96"),
    ],
)
def test_bad_text(text: Any, error: type, said: str) -> None:
    with pytest.raises(error, match=f"search_route: {said}"):
        via_ext.search_route(random_model("llama", num_layers=LAYERS), text, max_backlog=4)


def test_bad_models(monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers

    other = transformers.GPTNeoXConfig(num_hidden_layers=2, hidden_size=8, num_attention_heads=1)
    with pytest.raises(ValueError, match=r"must be of one of the families .* got gpt_neox"):
        via_ext.search_route(transformers.GPTNeoXForCausalLM(other), [[1] * 40])
    small = random_model("llama", vocab_size=50)
    with pytest.raises(ValueError, match="drafter must have the target's vocabulary of 96 ids"):
        search(drafter=small)
    broken = random_model("llama", num_layers=LAYERS, seed=2)
    with torch.no_grad():
        broken.model.norm.weight.fill_(float("nan"))
    with pytest.raises(ValueError, match="target must give numbers, got NaN"):
        via_ext.search_route(broken, text_of_tests(), max_backlog=4)
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    with pytest.raises(ImportError, match=r'pip install "via_ext\[search\]"'):
        search(proposals="bayes")


def test_studies_of_other_searches_are_refused(tmp_path: Path) -> None:
    study = tmp_path / "trials.jsonl"
    search(study=study, trials=LEAST)
    for options, text in (
        ({"seed": 1}, "study must be of a search with seed = 1, got 0"),
        ({"skip_ratio": 0.3}, "with skipped = 4, got 5"),
        ({"objective": "latency"}, "with objective = latency, got divergence"),
    ):
        with pytest.raises(ValueError, match=text):
            search(study=study, trials=LEAST, **options)
    lines = study.read_text().splitlines()
    lines[2] = json.dumps(json.loads(lines[2]) | {"skips": [7]})
    study.write_text("\n".join(lines) + "\n")
    with pytest.raises(ValueError, match=r"with sensitivity \[0\] as number 1, got sensitivity"):
        search(study=study, trials=LEAST)
    for text in ("no study", "no study\n", '{"format": "other"}\n', "[]\n"):
        study.write_text(text)
        with pytest.raises(ValueError, match="study must be a route search's, got"):
            search(study=study, trials=LEAST)
        assert study.read_text() == text
    with pytest.raises(OSError):
        search(study=tmp_path / "missing" / "trials.jsonl", trials=LEAST)
