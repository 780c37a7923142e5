# SPDX-License-Identifier: Apache-2.0
"""`diagnose`: is a third tier worth it for this model, on this machine, and what to change.

Measures the passes and what drafter and slim verifier are worth on the model's own text, puts both
into the cost model (docs/design.md, section 15) and says what follows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from via_ext.doctor.advice import advise
from via_ext.doctor.estimates import VIA, BreakEven, Estimate, Lead, break_even, estimate
from via_ext.doctor.exam import Examination
from via_ext.doctor.findings import Findings, conclude
from via_ext.doctor.runs import Check
from via_ext.route import SlimRoute


@dataclass(frozen=True)
class Diagnosis:
    """What `diagnose` found. Seconds throughout; rates in [0, 1].

    Attributes:
        facts: machine and setting: device, dtype, threads, context (tokens behind which passes were
            timed), prompts, new_tokens, num_draft_tokens, skip_ratio, shared_prefix (of the
            layers), calibrated.
        passes: timed passes: pass, tokens, seconds (median), spread, repeats.
        acceptance: P(the first j drafted tokens are the full model's choice), j = 1, 2, ...
        agreement: share of the model's own tokens that are the slim verifier's first choice.
        slim_cost: slim pass over full pass, over 1 + num_draft_tokens tokens.
        escalation_rate: steps of the `via` sample run that needed the full model.
        rejection_rate: examined drafted tokens of two tiers that are not kept.
        estimates: every way to decode.
        lead: of the fastest exact way.
        break_even: where three tiers would begin to beat two.
        verdict: sentences.
        advice: sentences, the most telling first; may be empty.
        withheld: gains that are no advice, since the times of the passes are less certain, and how
            much.
        checks: predictions against decodes; empty unless `validate`.
    """

    facts: dict[str, Any]
    passes: tuple[dict[str, Any], ...]
    acceptance: tuple[float, ...]
    agreement: float
    slim_cost: float
    escalation_rate: float
    rejection_rate: float
    estimates: tuple[Estimate, ...]
    lead: Lead
    break_even: BreakEven
    verdict: tuple[str, ...]
    advice: tuple[str, ...]
    withheld: tuple[str, ...] = ()
    checks: tuple[Check, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Every field by name; all values can be written as JSON."""
        return asdict(self)


def diagnose(
    target: Any,
    drafter: Any = None,
    route: SlimRoute | None = None,
    prompts: torch.Tensor | Sequence[torch.Tensor] | None = None,
    *,
    num_draft_tokens: int = 5,
    max_new_tokens: int = 64,
    seed: int = 0,
    validate: bool = False,
    progress: Callable[[str], None] = lambda stage: None,
) -> Diagnosis:
    """Measures and judges plain decoding, two tiers and three tiers. Greedy, one request at a time.

    Args:
        target: a supported `transformers` causal language model on the CPU.
        drafter: a model or a `Drafter` that proposes chains; None = prompt lookup.
        route: the slim verifier; None = `SlimRoute.evenly`.
        prompts: token ids, [B, T] or a list of 1-D tensors; at least 8 tokens each.
        num_draft_tokens: drafted per step where nothing better is known, at least 1.
        max_new_tokens: decoded per prompt and way.
        seed: of the resampling behind the intervals.
        validate: also decode in every way and compare with the predictions.
        progress: called with a few words as each stage begins.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: no or too short prompts, no room in the context, another model's route, a
            model that is not supported, a drafter that proposes trees or is the slim verifier, or
            too little new text because the model ends it.
    """
    exam = Examination(target, drafter, route, prompts, num_draft_tokens, max_new_tokens, progress)
    evidence = exam.collect()
    progress("solving the cost model")
    estimates, lead = estimate(evidence, seed)
    limits = break_even(evidence)
    times, tokens = evidence.times(), evidence.tokens(evidence.all)
    width, total = 1 + num_draft_tokens, evidence.tally(evidence.all)
    accepted = (1.0, *tokens.accepted[:num_draft_tokens])
    findings = Findings(evidence, estimates, lead, limits, exam.route)
    advice, withheld = advise(findings)
    checks = exam.check(estimates) if validate else []
    return Diagnosis(
        facts=exam.facts(),
        passes=tuple(evidence.pass_rows()),
        acceptance=tokens.accepted,
        agreement=total.agreed / total.positions,
        slim_cost=times.at("slim", width) / times.at("full", width),
        escalation_rate=evidence.counts(VIA, evidence.all).escalation_rate,
        rejection_rate=1.0 - sum(accepted[1:]) / sum(accepted[:-1]),
        estimates=tuple(estimates),
        lead=lead,
        break_even=limits,
        verdict=tuple(conclude(findings)),
        advice=tuple(advice),
        withheld=tuple(withheld),
        checks=tuple(checks),
    )
