# SPDX-License-Identifier: Apache-2.0
"""Real decoding under a candidate setting: its agreement, with an interval, and its cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from via_ext.calibration.cost import PassCosts
from via_ext.calibration.stored import Calibration, Setting
from via_ext.config import ViaConfig
from via_ext.decode import Decoder
from via_ext.route import SlimRoute
from via_ext.stats import DecodeStats
from via_ext.trace import score_text

#: Prompts decoded together.
BATCH = 16


@dataclass(frozen=True)
class Measured:
    """What a setting came to on some prompts.

    Attributes:
        agreed: [prompts] emitted tokens that are the full model's choice in their own context.
        tokens: [prompts] emitted tokens.
        cost: modelled, in full passes, of all of them.
        steps: decoding steps.
        slim_passes: slim passes.
        shares: of the slim verifier's verdicts: accept, regenerate, escalate; 0 without any.
        sequences: prompt and emitted tokens of each.
    """

    agreed: torch.Tensor
    tokens: torch.Tensor
    cost: float
    steps: int
    slim_passes: int
    shares: tuple[float, float, float]
    sequences: list[torch.Tensor]

    @property
    def agreement(self) -> float:
        """Share of emitted tokens."""
        return float(self.agreed.sum() / self.tokens.sum())

    @property
    def cost_per_token(self) -> float:
        """In full passes."""
        return self.cost / float(self.tokens.sum())

    def interval(self, z: float = 1.96) -> tuple[float, float]:
        """Confidence interval of `agreement`; see `clustered_interval`."""
        return clustered_interval(self.agreed, self.tokens, z)


def clustered_interval(agreed: torch.Tensor, tokens: torch.Tensor, z: float) -> tuple[float, float]:
    """Wilson's interval of a share whose tokens are correlated within a prompt.

    The number of tokens is divided by the design effect: the variance of the ratio estimator over
    prompts, over that of as many independent tokens; at least 1. Without any disagreement this is
    the interval of independent tokens.

    Args:
        agreed: [prompts] tokens with the property.
        tokens: [prompts] tokens, at least one in all.
        z: quantile of the normal distribution, 1.96 for 95 %.
    """
    a, n = agreed.double(), tokens.double()
    total, prompts = float(n.sum()), len(n)
    share = float(a.sum()) / total
    independent = share * (1.0 - share) / total
    effect = 1.0
    if prompts > 1 and independent > 0.0:
        clustered = float((a - share * n).square().sum()) * prompts / (prompts - 1) / total**2
        effect = max(1.0, clustered / independent)
    count = total / effect
    middle = (share + z * z / (2.0 * count)) / (1.0 + z * z / count)
    spread = share * (1.0 - share) / count + z * z / (4.0 * count * count)
    half = z * math.sqrt(spread) / (1.0 + z * z / count)
    # Rounding may leave the interval short of a share of exactly 1.
    return min(share, max(0.0, middle - half)), max(share, min(1.0, middle + half))


class Trials:
    """Decodes prompts under settings, with one target, drafter and slim route.

    Args:
        target: the full model.
        drafter: a `Drafter`.
        route: the slim verifier; a full one = two tiers.
        costs: of passes.
        config: gives lengths, nodes and backlog.
        tick: called after every batch of prompts.
    """

    def __init__(
        self,
        target: Any,
        drafter: Any,
        route: SlimRoute,
        costs: PassCosts,
        config: ViaConfig,
        tick: Callable[[], None],
    ) -> None:
        """Keeps the arguments."""
        self._target, self._drafter, self._route = target, drafter, route
        self._costs, self._config, self._tick = costs, config, tick

    def measure(
        self, calibration: Calibration, setting: Setting | None, prompts: Sequence[torch.Tensor]
    ) -> Measured:
        """Decodes every prompt ([T] int64) greedily.

        Args:
            calibration: the models.
            setting: agreement 1 decodes in mode "exact"; None = exact, two tiers, uncalibrated.
            prompts: what to continue.
        """
        route: SlimRoute | None = None
        config = replace(self._config, mode="exact")
        if setting is not None:
            known = replace(calibration, settings=(setting,))
            route = replace(self._route, calibration=known)
            mode = "exact" if setting.agreement == 1.0 else "via"
            config = replace(config, mode=mode, agreement=setting.agreement)
        decoder = Decoder(self._target, self._drafter, route, config)
        sequences: list[torch.Tensor] = []
        found: list[DecodeStats] = []
        for first in range(0, len(prompts), BATCH):
            result = decoder.generate(list(prompts[first : first + BATCH]))
            rows = zip(result.sequences, result.lengths.tolist(), strict=True)
            sequences += [row[:length] for row, length in rows]
            found.append(result.stats)
            self._tick()
        scores = score_text(self._target, sequences, [len(prompt) for prompt in prompts])
        return Measured(
            torch.tensor([int(score.agrees.sum()) for score in scores]),
            torch.tensor([len(score.agrees) for score in scores]),
            sum(map(self._costs.of, found)),
            sum(stats.steps for stats in found),
            sum(stats.slim_passes for stats in found),
            _shares(found),
            sequences,
        )


def _shares(found: Sequence[DecodeStats]) -> tuple[float, float, float]:
    """Shares of the slim verifier's verdicts over several runs, each weighted by its passes."""
    passes = sum(stats.slim_passes for stats in found)
    if passes == 0:
        return 0.0, 0.0, 0.0

    def mean(name: str) -> float:
        return float(sum(getattr(s, name) * s.slim_passes for s in found) / passes)

    return mean("accept_rate"), mean("regenerate_rate"), mean("escalate_rate")
