# SPDX-License-Identifier: Apache-2.0
"""The learning part of `calibrate`: text, traces, models, and one refit."""

from __future__ import annotations

import hashlib
import time
from dataclasses import replace
from typing import Any

import torch

from via_ext.calibration.decode import Trials
from via_ext.calibration.fit import FitQuality
from via_ext.calibration.models import Models, fit_models, judge_models, mean_log_loss
from via_ext.calibration.stored import Calibration, Setting
from via_ext.calibration.trace import Trace, trace_texts
from via_ext.config import ViaConfig
from via_ext.drafters import ModelDrafter
from via_ext.fingerprint import fingerprint
from via_ext.route import SlimRoute

#: Fewer generated tokens to fit on say too little about eight weights.
MIN_TOKENS = 200


class Learner:
    """Makes traces and fits models.

    Args:
        target: the full model.
        drafter: its drafter.
        route: the slim verifier; full = none.
        trials: decodes for real.
        fit: prompts to fit on.
        held: prompts to measure on.
        config: gives nodes and backlog.
    """

    def __init__(
        self,
        target: Any,
        drafter: ModelDrafter,
        route: SlimRoute,
        trials: Trials,
        fit: list[torch.Tensor],
        held: list[torch.Tensor],
        config: ViaConfig,
    ) -> None:
        """Keeps the arguments."""
        self._target, self._drafter, self._route, self._trials = target, drafter, route, trials
        self._fit, self._held, self._config = fit, held, config
        self._nodes = config.num_draft_tokens

    def own_text(self) -> tuple[Trace, Trace]:
        """Traces of the target's greedy text, on both sets of prompts."""
        nothing = Calibration((0.0,) * 8, (0.0,) * 8, (0.0,) * 8, (0.0,) * 4, ())
        sequences = self._trials.measure(nothing, None, self._fit).sequences
        tokens = sum(map(len, sequences)) - sum(map(len, self._fit))
        if tokens < MIN_TOKENS:
            rule = f"let the target write at least {MIN_TOKENS} tokens to fit on"
            more = "give more of them, or a larger max_new_tokens"
            raise ValueError(f"calibrate: prompts must {rule}, got {tokens}: {more}")
        other = self._trials.measure(nothing, None, self._held).sequences
        return self._trace(sequences, self._fit), self._trace(other, self._held)

    def _trace(self, sequences: list[torch.Tensor], prompts: list[torch.Tensor]) -> Trace:
        backlog = self._config.max_backlog
        lengths = [len(prompt) for prompt in prompts]
        parts = self._target, self._drafter, self._route
        return trace_texts(*parts, sequences, lengths, backlog)

    def refit(
        self, models: Models, trace: Trace, setting: Setting, agreement: float
    ) -> tuple[Models, Trace, bool]:
        """Models refitted on text emitted under a setting, if that predicts such text better.

        Half of the texts are fitted on, the other half decides.
        """
        calibration = Calibration(*models, ())
        setting = replace(setting, agreement=agreement)
        sequences = self._trials.measure(calibration, setting, self._fit).sequences
        lossy = self._trace(sequences, self._fit)
        count = len(lossy.lengths)
        known, unseen = lossy.select(range(0, count, 2)), lossy.select(range(1, count, 2))
        tried = fit_models(trace.select(range(0, count, 2)) + known, self._nodes, True)
        before = fit_models(trace.select(range(0, count, 2)), self._nodes, True)
        losses = [
            mean_log_loss(list(judge_models(each, unseen, self._nodes, True).values()))
            for each in (before, tried)
        ]
        if losses[1] >= losses[0]:
            return models, trace, False
        both = trace + lossy
        return fit_models(both, self._nodes, True), both, True

    def facts(
        self, tokens: int, refitted: bool | None, quality: dict[str, FitQuality]
    ) -> dict[str, Any]:
        """For the route file."""
        digest = hashlib.sha256()
        for prompt in (*self._fit, *self._held):
            digest.update(str(prompt.tolist()).encode())
        return {
            "tokens": tokens,
            "prompts": [len(self._fit), len(self._held)],
            "text": f"sha256:{digest.hexdigest()[:32]}",
            "drafter": fingerprint(self._drafter.model),
            "date": time.strftime("%Y-%m-%d"),
            "num_draft_tokens": self._nodes,
            "max_backlog": self._config.max_backlog,
            "refitted": refitted,
            "auc": {name: found.auc for name, found in quality.items()},
        }
