# SPDX-License-Identifier: Apache-2.0
"""What a decoding run reports: `DecodeStats`, and the `StatsRecorder` that an engine feeds."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field


@dataclass(frozen=True)
class DecodeStats:
    """Totals of one run over all requests of its batch.

    Attributes:
        tokens: emitted tokens; prompts and rolled-back tokens are not counted.
        steps: decoding steps, one per request that took part.
        slim_passes: forward passes of the slim verifier, one per request that took part.
        full_passes: the same for the full model; prefill is not counted.
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
        seed: the seed in use, drawn or given; None when nothing was drawn.
    """

    tokens: int
    steps: int
    slim_passes: int
    full_passes: int
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
    seed: int | None

    def to_dict(self) -> dict[str, int | float | None]:
        """Every field by name; all values can be written as JSON."""
        return asdict(self)

    def table(self) -> str:
        """A plain-text table of two columns, field and value, one line per field."""
        shown = {name: _show(value) for name, value in self.to_dict().items()}
        left = max(map(len, shown))
        right = max(map(len, shown.values()))
        return "\n".join(f"{name:<{left}}  {text:>{right}}" for name, text in shown.items())


def _show(value: int | float | None) -> str:
    if value is None:
        return "-"
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
        drafted: proposed nodes.
        examined: proposed nodes that got a verdict.
        accepted: verdicts "accept" of the slim verifier (tier 0).
        regenerated: verdicts "regenerate" of the slim verifier.
        escalated: verdicts "escalate" of the slim verifier.
        accepted_per_step: per step, the number of draft tokens kept by whichever verifier. An
            audit that drops tokens later lowers the entry of the step it happens in: entries
            may be negative, the sum is what counts.
        overshoot: samples of max(0, s(x) - q(x)).
    """

    tokens: int = 0
    steps: int = 0
    slim_passes: int = 0
    full_passes: int = 0
    drafted: int = 0
    examined: int = 0
    accepted: int = 0
    regenerated: int = 0
    escalated: int = 0
    accepted_per_step: list[int] = field(default_factory=list)
    overshoot: list[float] = field(default_factory=list)

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
            seed=seed,
        )


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
