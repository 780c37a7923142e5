# SPDX-License-Identifier: Apache-2.0
"""What the caller can choose: one policy row per mode, for one decoding loop.

| mode            | slim rule | backlog nodes in a full pass      | draft nodes in a full pass |
|-----------------|-----------|-----------------------------------|----------------------------|
| exact, greedy   | greedy    | greedy                            | greedy                     |
| exact, sampling | sample    | sample, against the saved s rows  | sample, against p          |
| via             | route     | rewritten only                    | greedy or sample           |
| via with audit  | route     | route(audit_threshold, 0)         | greedy or sample           |

A calibrated run (`ViaConfig.agreement`) has the same row; its router takes the place of the
thresholds in rule "route", and in via the full model may route the draft by `full_ratio`.

Source: algorithm, section 3. With a backlog that is audited, tokens stay provisional until the full
pass: they are not streamed, and a failed audit rolls back to the first failure.
"""

from __future__ import annotations

from typing import NamedTuple

from via_ext.config import ViaConfig


class Policy(NamedTuple):
    """The row of the table that a run follows.

    Attributes:
        slim_rule: rule of `ops.verify` on slim logits.
        full_rule: rule on full logits, for draft nodes; "route" = route(full_ratio, 0).
        audit_rule: rule on full logits, for backlog nodes; None rewrites their KV without judging.
        saves_slim_rows: the audit needs the very distribution each backlog token was drawn from.
    """

    slim_rule: str
    full_rule: str
    audit_rule: str | None
    saves_slim_rows: bool

    @property
    def audits(self) -> bool:
        """True if slim-decided tokens stay provisional until the full pass."""
        return self.audit_rule is not None


def choose_policy(config: ViaConfig, full_ratio: float = 1.0) -> Policy:
    """Returns the policy row of a configuration.

    Args:
        config: the run's.
        full_ratio: of a calibrated setting of mode "via"; below 1 the full model routes the draft
            by its own ratios instead of taking its first choice only.
    """
    full_rule = "sample" if config.temperature > 0.0 else "greedy"
    if config.mode == "exact":
        return Policy(full_rule, full_rule, full_rule, full_rule == "sample")
    audit_rule = None if config.audit_threshold is None else "route"
    full_rule = "route" if full_ratio < 1.0 else full_rule
    return Policy("route", full_rule, audit_rule, False)
