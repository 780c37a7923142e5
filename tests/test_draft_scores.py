# SPDX-License-Identifier: Apache-2.0
"""What a drafter says about its draft, where a chain stops, what an audit is expected to find."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.calibrations import ACCEPTANCE, BONUS, DRAFT, SLIM
from tests.models import VOCAB_SIZE, random_model
from via_ext.calibration import Calibration
from via_ext.config import ViaConfig
from via_ext.drafters import DraftTokens, ModelDrafter
from via_ext.drafters.scores import Scoring, draft_scores, predicted_acceptance
from via_ext.engines.draft import Draft, split_drafts
from via_ext.engines.slim import SlimWalk
from via_ext.engines.survival import walk_survival
from via_ext.ops import empty_verification
from via_ext.reference.filters import read_row
from via_ext.reference.router import bonus_features, log_odds, node_features
from via_ext.tree import Tree

PROMPTS = torch.tensor([[5, 9, 2, 30], [7, 1, 1, 8], [50, 3, 4, 4]])
KEYS, POSITION = torch.arange(3), torch.zeros(3, dtype=torch.int64)


def _propose(tree: Tree, scoring: Scoring, temperature: float = 0.0, kept: Any = None) -> Any:
    model = random_model("llama", num_layers=2)
    if kept is not None:
        model.lm_head = torch.nn.Linear(32, len(kept), bias=False)
        with torch.no_grad():
            model.lm_head.weight.copy_(model.get_input_embeddings().weight[kept])
    drafter = ModelDrafter(model, draft_to_target=kept)
    drafter.configure(ViaConfig(temperature=temperature, seed=0), VOCAB_SIZE)
    drafter.set_scoring(scoring)
    with torch.inference_mode():
        drafter.prefill(PROMPTS, None)
        return model, drafter.propose(tree, KEYS, POSITION), drafter


def _expected(model: Any, prefix: list[int], column: int) -> list[float]:
    with torch.no_grad():
        logprobs = model(torch.tensor([prefix])).logits[0, -1].log_softmax(-1)
    best = logprobs.topk(2).values
    return [float(logprobs[column]), float(best[0] - best[1])]


@pytest.mark.parametrize("tree", [Tree.chain(3), Tree.from_widths([2, 2])], ids=["chain", "tree"])
@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_scores_are_those_of_the_models_own_rows(tree: Tree, temperature: float) -> None:
    """At temperature 1, whatever the draft was drawn at."""
    model, proposal, _ = _propose(tree, Scoring(scores=True), temperature)
    for row, tokens in enumerate(proposal.token_ids.tolist()):
        for node, token in enumerate(tokens):
            path = [n for n in range(node) if tree.ancestors[node] >> n & 1]
            prefix = PROMPTS[row].tolist() + [tokens[n] for n in path]
            found = proposal.scores[row, node].tolist()
            assert found == pytest.approx(_expected(model, prefix, token), abs=1e-3)
    assert _propose(tree, Scoring(), temperature)[1].scores is None


def test_scores_of_a_reduced_vocabulary_are_of_the_drafted_column() -> None:
    kept = torch.arange(5, 69)
    model, proposal, _ = _propose(Tree.chain(1), Scoring(scores=True), kept=kept)
    for row, (token,) in enumerate(proposal.token_ids.tolist()):
        wanted = _expected(model, PROMPTS[row].tolist(), token - 5)
        assert proposal.scores[row, 0].tolist() == pytest.approx(wanted, abs=1e-3)


def test_a_single_column_has_an_unlimited_margin() -> None:
    scores = draft_scores(torch.zeros(1, 1), torch.zeros(1, 1, dtype=torch.int64))
    assert scores.tolist() == [[[0.0, float("inf")]]]


@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_a_chain_ends_behind_the_node_that_is_too_doubtful(temperature: float) -> None:
    weights = (2.5, 0.6, 2.0, -0.1)  # the three rows stop at different lengths
    tree, stop = Tree.chain(5), Scoring(True, weights, 0.55)
    _, whole, _ = _propose(tree, Scoring(scores=True), temperature)
    _, cut, drafter = _propose(tree, stop, temperature)
    depths = torch.arange(1, 6)
    products = predicted_acceptance(weights, whole.scores, depths).cumprod(-1)
    counts = (1 + (products >= 0.55).sum(-1)).clamp(max=5)
    assert len(set(counts.tolist())) > 1 and cut.num_nodes.tolist() == counts.tolist()
    assert drafter.passes == counts.tolist()
    for row, count in enumerate(counts.tolist()):
        kept, rest = cut.token_ids[row, :count], cut.token_ids[row, count:]
        assert kept.tolist() == whole.token_ids[row, :count].tolist()
        assert set(rest.tolist()) <= {-1}
        torch.testing.assert_close(cut.scores[row, :count], whole.scores[row, :count])
        if temperature:
            torch.testing.assert_close(cut.probs[row, :count], whole.probs[row, :count])


def test_odd_scores_are_cut() -> None:
    odd = torch.tensor([[-torch.inf, torch.inf], [torch.nan, torch.nan], [-20.0, 20.0]])
    found = predicted_acceptance((0.1, 0.2, 0.3, 0.0), odd, 1)
    odds = torch.tensor([0.1 - 4.0 + 6.0, 0.1 - 4.0, 0.1 - 4.0 + 6.0], dtype=torch.float64)
    torch.testing.assert_close(found, odds.sigmoid())


def test_scores_of_another_shape_are_refused() -> None:
    proposal = DraftTokens(torch.zeros(1, 2, dtype=torch.int64), scores=torch.zeros(1, 2))
    with pytest.raises(ValueError, match=r"scores must have shape \[1, 2, 2\], got \[1, 2\]"):
        split_drafts(proposal, Tree.chain(2), [2], 2)


@pytest.mark.parametrize("own", ["candidate", "leaf", "none"])
def test_survival_is_the_product_of_what_the_router_sees(own: str) -> None:
    """The same features as the specification of `ops.verify`."""
    generator = torch.Generator().manual_seed(3)
    tree = Tree.from_parents([-1, -1, 1, 1, 3])
    tokens = [4, 7, 2, 9, -1 if own == "leaf" else 1]
    scores = torch.rand(5, 2, generator=generator) * torch.tensor([-3.0, 2.0])
    logits = 3 * torch.randn(6, 12, generator=generator)
    path = [1, 3]
    decided = [7, 9] + ([] if own == "none" else [11])
    state = empty_verification(1, 5)
    walk = SlimWalk(path, decided, [], False, False, state, logits[None], logits[None])
    found = walk_survival(
        Calibration(DRAFT, SLIM, BONUS, ACCEPTANCE, ()),
        Draft(tokens, tree, None, None, scores[None]),
        walk,
        0.8,
    )
    rows = [read_row(logits[row]) for row in (0, 2, 4)]
    odds = [
        log_odds(list(DRAFT), node_features(rows[0], 0.8, 7, 1, scores[1].tolist())),
        log_odds(list(DRAFT), node_features(rows[1], 0.8, 9, 2, scores[3].tolist())),
    ]
    if own == "candidate":
        odds.append(log_odds(list(SLIM), node_features(rows[2], 0.8, 1, 3, scores[4].tolist())))
    elif own == "leaf":
        odds.append(log_odds(list(BONUS), bonus_features(rows[2], 0.8, 3)))
    wanted = torch.tensor(odds, dtype=torch.float64).neg().sigmoid().prod()
    assert found == pytest.approx(float(wanted), rel=1e-5)
