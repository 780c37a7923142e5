# SPDX-License-Identifier: Apache-2.0
"""The oracle router: the fewest costs with which the full model's own tokens can be had.

Simulated in lock-step: the drafter, the slim verifier at every backlog and the full model are all
computed along the full model's greedy text, and only the passes of the cheapest plan are charged.
The plan knows the text: it drafts no token that is wrong, asks the slim verifier only where that is
right, and audits nothing. No router that has to find out can cost less with the same drafter; how
much of the gap can be closed is another question.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from via_ext.engines.draft import EMPTY, Draft
from via_ext.engines.request import Request
from via_ext.engines.torch import TorchEngine, Verifier
from via_ext.evaluation.costs import PassCosts, Passes
from via_ext.route import SlimRoute
from via_ext.tree import Tree

#: Longest draft that the plan may ask for.
MAX_DRAFT = 16


class Plan(NamedTuple):
    """The cheapest way through a text.

    Attributes:
        cost: in full passes.
        passes: charged.
        steps: of the plan.
        drafted: draft tokens, all of them right.
        own: tokens of the slim verifier's own (regenerated, or behind the draft).
        by_slim: draft tokens that the slim verifier accepted.
        by_full: tokens that the full model decided.
        lengths: draft tokens of each step.
    """

    cost: float
    passes: Passes
    steps: int
    drafted: int
    own: int
    by_slim: int
    by_full: int
    lengths: list[int]


class _Step(NamedTuple):
    """How a state was reached: the one before, the draft's length, and who verified it."""

    before: tuple[int, int]
    length: int
    slim: bool


@torch.inference_mode()
def right_drafts(drafter: Any, tokens: torch.Tensor, prompt: int) -> list[bool]:
    """Per generated token: the drafter's first choice after the text before it is that token."""
    ids = tokens.to(next(drafter.parameters()).device)
    count = len(tokens) - prompt
    if count == 0:
        return []
    logits = drafter(ids[None, :-1], use_cache=False, logits_to_keep=count).logits[0]
    right: list[bool] = (logits.argmax(-1) == ids[prompt:]).tolist()
    return right


@torch.inference_mode()
def right_slim(
    target: Any, route: SlimRoute, tokens: torch.Tensor, prompt: int, max_backlog: int
) -> list[list[bool]]:
    """Where the slim verifier's first choice is the text's token, for every backlog.

    Args:
        target: the full model.
        route: the slim verifier.
        tokens: [T] prompt and the full model's greedy text.
        prompt: tokens of the prompt.
        max_backlog: tokens without full-model KV, >= 1.

    Returns:
        Entry [i][j]: with full-model KV up to and without the token before generated token i, the
        slim verifier is right about generated token i + j; j < max_backlog, as far as the text
        goes.
    """
    text = tokens.tolist()
    verifier = Verifier(TorchEngine(target, route), 1, len(text) + max_backlog, 1, max_backlog)
    request = Request(0, 0, prompt, text[:prompt], prompt - 1, prompt)
    verifier.prefill([request])
    right = []
    for index in range(len(text) - prompt):
        ahead = text[prompt + index : prompt + index + max_backlog]
        chain = Draft(ahead[:-1], Tree.chain(len(ahead) - 1), None)
        logits = verifier.slim_logits([request], [chain])[0][0]
        right.append((logits.argmax(-1).cpu() == torch.tensor(ahead)).tolist())
        # The full model's keys and values take the place of the slim verifier's.
        verifier.full_logits([request], [EMPTY], [False], False)
        request.append(ahead[:1], [2], [0.0])
        request.frontier = request.root
    return right


def cheapest_plan(
    drafts: list[bool], slim: list[list[bool]] | None, costs: PassCosts, max_draft: int = MAX_DRAFT
) -> Plan:
    """Shortest path over the states (tokens decided, backlog).

    Args:
        drafts: see `right_drafts`.
        slim: see `right_slim`; None = two tiers.
        costs: of the passes.
        max_draft: longest draft.
    """
    count = len(drafts)
    best: list[dict[int, tuple[float, _Step | None]]] = [{} for _ in range(count + 1)]
    best[0][0] = (0.0, None)
    for done in range(count):
        matches = 0
        while done + matches < count and matches < max_draft and drafts[done + matches]:
            matches += 1
        # Every verifier adds a token of its own behind the draft.
        lengths = range(min(matches, count - done - 1) + 1)
        for backlog, (cost, _) in best[done].items():
            for length in lengths:
                drafting, after = cost + length * costs.draft, done + length + 1
                step = _Step((done, backlog), length, False)
                _offer(best[after], 0, drafting + 1.0, step)
                if slim is None:
                    continue
                rights = slim[done - backlog]
                if backlog + length < len(rights) and rights[backlog + length]:
                    found = drafting + costs.slim
                    _offer(best[after], backlog + length + 1, found, step._replace(slim=True))
    return _read_back(best)


def _offer(
    states: dict[int, tuple[float, _Step | None]], backlog: int, cost: float, step: _Step
) -> None:
    if backlog not in states or cost < states[backlog][0]:
        states[backlog] = (cost, step)


def _read_back(best: list[dict[int, tuple[float, _Step | None]]]) -> Plan:
    backlog = min(best[-1], key=lambda key: best[-1][key][0])
    cost, step = best[-1][backlog]
    steps: list[_Step] = []
    while step is not None:
        steps.append(step)
        done, backlog = step.before
        step = best[done][backlog][1]
    steps.reverse()
    slim = [step.length for step in steps if step.slim]
    full = [step.length for step in steps if not step.slim]
    drafted = sum(slim) + sum(full)
    passes = Passes(len(full), 0, len(slim), drafted)
    by_full = sum(full) + len(full)
    lengths = [step.length for step in steps]
    return Plan(cost, passes, len(steps), drafted, len(slim), sum(slim), by_full, lengths)
