# SPDX-License-Identifier: Apache-2.0
"""What a decoding run reports: `DecodeStats`, and the `StatsRecorder` that an engine feeds."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class DecodeStats:
    """Totals of one run over all requests of its batch.

    Attributes:
        tokens: emitted tokens; prompts and rolled-back tokens are not counted.
        steps: decoding steps, one per request that took part.
        slim_passes: forward passes of the slim verifier, one per request that took part.
        full_passes: the same for the full model; prefill is not counted.
        resumed_passes: the full passes among them that resumed from the hidden states of a slim
            pass over the same draft: they read the layers after the shared prefix only.
        draft_passes: forward passes of the drafter, one per request and pass; 0 where it runs none
            or does not count them.
        drafted: proposed nodes.
        examined: proposed nodes that got a verdict, along the walk (also in trees).
        accepted: proposed nodes that were kept, whichever verifier said so.
        accept_rate: share of the slim verifier's verdicts that were accept, 0 without any.
        regenerate_rate: share that were regenerate.
        escalate_rate: share that were escalate.
        rejection_rate: (examined - accepted) / examined, 0 if none was examined.
        mean_accepted: accepted / steps: draft tokens only, without the token after them.
        overshoot_mean: mean of max(0, s(x) - q(x)) over committed tokens x whose q is known;
            None if there is none. In probability units, 0 to 1.
        overshoot_p99: 99th percentile of the same (nearest rank).
        accepted_by_position: share of the examined draft tokens of depth 1, 2, ... that were kept
            in their own step, by whichever verifier; empty without any, and on CUDA.
        tier_changes: where `auto_tier` turned the slim tier off or on, as `TierChange.to_dict`.
        seed: the seed in use, drawn or given; None when nothing was drawn.
    """

    tokens: int
    steps: int
    slim_passes: int
    full_passes: int
    resumed_passes: int
    draft_passes: int
    drafted: int
    examined: int
    accepted: int
    accept_rate: float
    regenerate_rate: float
    escalate_rate: float
    rejection_rate: float
    mean_accepted: float
    overshoot_mean: float | None
    overshoot_p99: float | None
    accepted_by_position: tuple[float, ...]
    tier_changes: tuple[dict[str, int | float | bool], ...]
    seed: int | None

    def to_dict(self) -> dict[str, Any]:
        """Every field by name; all values can be written as JSON, tuples are lists."""
        fields = asdict(self).items()
        return {name: list(item) if isinstance(item, tuple) else item for name, item in fields}

    def table(self) -> str:
        """A plain-text table of two columns, field and value, one line per field."""
        shown = {name: _show(value) for name, value in self.to_dict().items()}
        left = max(map(len, shown))
        right = max(map(len, shown.values()))
        return "\n".join(f"{name:<{left}}  {text:>{right}}" for name, text in shown.items())


def _show(value: Any) -> str:
    if value is None or value == []:
        return "-"
    if isinstance(value, list):
        # Shares side by side; of changes, how many.
        shares = [f"{item:.2f}" for item in value if isinstance(item, float)]
        return ",".join(shares) or str(len(value))
    return f"{value:.4f}" if isinstance(value, float) else str(value)


@dataclass
class StatsRecorder:
    """Counters that an engine raises while it decodes: plain ints, a few nanoseconds each.

    Every counter is a total over the requests of the batch: a slim pass over three rows adds
    three to `slim_passes`.

    Attributes:
        tokens: emitted tokens.
        steps: decoding steps.
        slim_passes: slim passes.
        full_passes: full passes.
        resumed_passes: full passes that resumed from this step's slim pass.
        draft_passes: forward passes of the drafter.
        drafted: proposed nodes.
        examined: proposed nodes that got a verdict.
        accepted: verdicts "accept" of the slim verifier (tier 0).
        regenerated: verdicts "regenerate" of the slim verifier.
        escalated: verdicts "escalate" of the slim verifier.
        accepted_per_step: per step, the number of draft tokens kept by whichever verifier. An
            audit that drops tokens later lowers the entry of the step it happens in: entries
            may be negative, the sum is what counts.
        overshoot: samples of max(0, s(x) - q(x)).
        examined_by_position: examined nodes of depth 1, 2, ...
        kept_by_position: the nodes among them that were kept in their own step.
        tier_changes: of `auto_tier`.
    """

    tokens: int = 0
    steps: int = 0
    slim_passes: int = 0
    full_passes: int = 0
    resumed_passes: int = 0
    draft_passes: int = 0
    drafted: int = 0
    examined: int = 0
    accepted: int = 0
    regenerated: int = 0
    escalated: int = 0
    accepted_per_step: list[int] = field(default_factory=list)
    overshoot: list[float] = field(default_factory=list)
    examined_by_position: list[int] = field(default_factory=list)
    kept_by_position: list[int] = field(default_factory=list)
    tier_changes: list[dict[str, int | float | bool]] = field(default_factory=list)

    def count_walk(self, kept: int, examined: int) -> None:
        """Counts a walk that kept `kept` nodes below the root and examined `examined`."""
        self.examined += examined
        missing = max(0, examined - len(self.examined_by_position))
        self.examined_by_position += [0] * missing
        self.kept_by_position += [0] * missing
        for depth in range(examined):
            self.examined_by_position[depth] += 1
            self.kept_by_position[depth] += depth < kept

    def finish(self, seed: int | None = None) -> DecodeStats:
        """Turn the counters into rates.

        Args:
            seed: the seed that was used, to report.

        Returns:
            The statistics; the recorder can go on counting.
        """
        kept = sum(self.accepted_per_step)
        routed = self.accepted + self.regenerated + self.escalated
        samples = sorted(self.overshoot)
        return DecodeStats(
            tokens=self.tokens,
            steps=self.steps,
            slim_passes=self.slim_passes,
            full_passes=self.full_passes,
            resumed_passes=self.resumed_passes,
            draft_passes=self.draft_passes,
            drafted=self.drafted,
            examined=self.examined,
            accepted=kept,
            accept_rate=_ratio(self.accepted, routed),
            regenerate_rate=_ratio(self.regenerated, routed),
            escalate_rate=_ratio(self.escalated, routed),
            rejection_rate=_ratio(self.examined - kept, self.examined),
            mean_accepted=_ratio(kept, self.steps),
            overshoot_mean=math.fsum(samples) / len(samples) if samples else None,
            # Nearest rank: a value that was observed, also for few samples.
            overshoot_p99=samples[math.ceil(0.99 * len(samples)) - 1] if samples else None,
            accepted_by_position=tuple(
                map(_ratio, self.kept_by_position, self.examined_by_position)
            ),
            tier_changes=tuple(self.tier_changes),
            seed=seed,
        )


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
