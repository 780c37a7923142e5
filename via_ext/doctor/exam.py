# SPDX-License-Identifier: Apache-2.0
"""The measuring part of `diagnose`: from a model and prompts to an `Evidence`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from via_ext.config import ViaConfig
from via_ext.decode import Decoder
from via_ext.doctor.estimates import CALIBRATED, PLAIN, STEPWISE, TWO, VIA, Estimate
from via_ext.doctor.evidence import GIVEN, Evidence
from via_ext.doctor.figures import Counts, Times
from via_ext.doctor.model import MAX_BACKLOG
from via_ext.doctor.parts import (
    MAX_DRAFT,
    MIN_PROMPT,
    check_parts,
    check_prompts,
    connected_drafters,
    rejected,
    tried_routes,
)
from via_ext.doctor.passes import drafter_cases, engine_cases, time_cases
from via_ext.doctor.runs import (
    Check,
    agreed_tokens,
    check_predictions,
    host_seconds,
    sample_run,
)
from via_ext.doctor.text import Text, propose_along, slim_choices, tally
from via_ext.drafters import Drafter, PromptLookupDrafter
from via_ext.engines.torch import TorchEngine
from via_ext.route import SlimRoute

MIN_NEW = 16


class Examination:
    """One call of `diagnose`; see there for the arguments.

    Attributes:
        prompts: token ids, [T] each.
        route: the slim verifier's.
    """

    def __init__(
        self,
        target: Any,
        drafter: Any,
        route: SlimRoute | None,
        prompts: torch.Tensor | Sequence[torch.Tensor] | None,
        num_draft_tokens: int,
        max_new_tokens: int,
        progress: Callable[[str], None],
    ) -> None:
        """Checks everything before any work."""
        check_parts(target, drafter, route, num_draft_tokens)
        self._config = ViaConfig(
            mode="exact", num_draft_tokens=num_draft_tokens, max_new_tokens=max_new_tokens, seed=0
        )
        self.prompts = check_prompts(prompts, target.config, max_new_tokens)
        self.route = route or SlimRoute.evenly(target.config.num_hidden_layers)
        self._target, self._draft, self._progress = target, num_draft_tokens, progress
        self._depth = min(max(8, num_draft_tokens), MAX_DRAFT)
        self._drafter = PromptLookupDrafter() if drafter is None else drafter
        self._texts: list[Text] = []
        self._context: list[int] = []

    def collect(self) -> Evidence:
        """Decodes, scores and times; see `diagnose` for the errors."""
        self._progress("writing the model's own text")
        two = [sample_run(self._decoder(), prompt) for prompt in self.prompts]
        self._texts = [
            Text(run.tokens, len(prompt)) for run, prompt in zip(two, self.prompts, strict=True)
        ]
        new = sum(len(text.new) for text in self._texts)
        if new < MIN_NEW:
            rule = f"be continued by at least {MIN_NEW} tokens in all before the model ends them"
            raise rejected("prompts", rule, new)
        plain = sample_run(self._decoder(drafts=False), self.prompts[0])
        runs, slim_host = self._slim_runs()
        host = {"plain": host_seconds([plain]), "two": host_seconds(two), "slim": slim_host}
        drafters = connected_drafters(self._target, self._drafter, self._config)
        routes = tried_routes(self.route)
        evidence = Evidence(
            draft=self._draft, tallies=self._tallies(drafters, routes), runs=runs, host=host
        )
        self._progress("timing the passes")
        self._time(evidence, drafters, routes)
        return evidence

    def _decoder(self, drafts: bool = True, slim: bool = False, **changes: Any) -> Decoder:
        """A decoder of the target; settings are those of two tiers but for `changes`."""
        parts = (self._drafter if drafts else None, self.route if slim else None)
        return Decoder(self._target, *parts, replace(self._config, **changes))

    def _slim_settings(self) -> dict[str, dict[str, Any]]:
        """Settings of the sample runs with a slim verifier, by name."""
        found: dict[str, dict[str, Any]] = {VIA: {"mode": "via"}}
        calibration = self.route.calibration
        for setting in () if calibration is None else calibration.settings:
            if setting.agreement == 1.0:
                found[CALIBRATED] = {"agreement": 1.0}
            else:
                name = f"{VIA}, agreement {setting.agreement:g}"
                found[name] = {"mode": "via", "agreement": setting.agreement}
        return found

    def _slim_runs(self) -> tuple[dict[str, list[Counts]], float]:
        """Counts per name and prompt; seconds of a step outside the passes."""
        found: dict[str, list[Counts]] = {}
        done = []
        for name, settings in self._slim_settings().items():
            self._progress(f"decoding: {name}")
            decoder = self._decoder(slim=True, **settings)
            found[name] = []
            for prompt in self.prompts:
                run = sample_run(decoder, prompt)
                new = run.counts.tokens
                agreed = agreed_tokens(self._target, run.tokens, new) if name != CALIBRATED else new
                found[name].append(replace(run.counts, agreed=agreed))
                done.append(run)
        return found, host_seconds(done)

    def _tallies(
        self, drafters: dict[str, Drafter], routes: dict[str, SlimRoute]
    ) -> dict[tuple[str, str], list[Any]]:
        self._progress("asking the drafter at every position")
        drafted = {
            name: propose_along(drafter, self._texts, self._depth)
            for name, drafter in drafters.items()
        }
        found: dict[tuple[str, str], list[Any]] = {}
        for route_name, route in routes.items():
            self._progress(f"asking the slim verifier: {route_name}")
            engine = TorchEngine(self._target, route)
            chosen = [slim_choices(engine, text) for text in self._texts]
            for name, proposals in drafted.items():
                found[name, route_name] = [
                    tally(text.new, chains, self._depth, slim)
                    for text, chains, slim in zip(self._texts, proposals, chosen, strict=True)
                ]
        return found

    def _time(
        self, evidence: Evidence, drafters: dict[str, Drafter], routes: dict[str, SlimRoute]
    ) -> None:
        limit = self._target.config.max_position_embeddings - 1 - self._depth - MAX_BACKLOG
        text = sorted(self._texts, key=lambda text: len(text.tokens))[len(self._texts) // 2]
        self._context = text.tokens[: max(MIN_PROMPT, limit)]
        shape = (self._context, self._depth, self._draft)
        groups = {"full": engine_cases(TorchEngine(self._target, None), *shape, MAX_BACKLOG)}
        for name, drafter in drafters.items():
            groups[f"drafter {name}"] = drafter_cases(drafter, *shape)
        for name, route in routes.items():
            engine = TorchEngine(self._target, route)
            groups[f"route {name}"] = engine_cases(engine, *shape, MAX_BACKLOG)
        found, evidence.attempts = time_cases(groups)
        evidence.full = found["full"]
        evidence.drafters = {name: found[f"drafter {name}"] for name in drafters}
        evidence.routes = {name: found[f"route {name}"] for name in routes}
        if not hasattr(drafters[GIVEN], "forward_seconds"):
            # Its time is in the steps' host time already, and would count twice.
            drafting = Times(evidence.drafters[GIVEN].curves(), {}).at("draft", self._draft)
            for kind in ("two", "slim"):
                evidence.host[kind] = max(0.0, evidence.host[kind] - drafting)

    def check(self, estimates: Sequence[Estimate]) -> list[Check]:
        """Decodes in every way that was estimated and can be run, and compares."""
        self._progress("comparing with decodes")
        by_name = {way.name: way for way in estimates}
        two, steps = by_name[TWO], by_name[STEPWISE]
        backlog = max(1, round(steps.backlog))
        settings: dict[str, dict[str, Any]] = {
            PLAIN: {"drafts": False},
            TWO: {"num_draft_tokens": two.draft},
            STEPWISE: {"slim": True, "num_draft_tokens": steps.draft, "max_backlog": backlog},
        }
        settings |= {name: {"slim": True} | own for name, own in self._slim_settings().items()}
        decoders = {name: (self._decoder(**own), _words(own)) for name, own in settings.items()}
        seconds = {way.name: way.seconds for way in estimates}
        return check_predictions(decoders, seconds, self.prompts)

    def facts(self) -> dict[str, Any]:
        """Machine and setting."""
        parameter = next(self._target.parameters())
        return {
            "device": str(parameter.device),
            "dtype": str(parameter.dtype).removeprefix("torch."),
            "threads": torch.get_num_threads(),
            "context": len(self._context),
            "prompts": len(self.prompts),
            "new_tokens": sum(len(text.new) for text in self._texts),
            "num_draft_tokens": self._draft,
            "skip_ratio": self.route.skip_ratio,
            "shared_prefix": self.route.shared_prefix / self.route.num_layers,
            "calibrated": self.route.calibration is not None,
        }


def _words(settings: dict[str, Any]) -> str:
    shown = {key: value for key, value in settings.items() if key not in ("drafts", "slim", "mode")}
    return ", ".join(f"{key}={value}" for key, value in shown.items()) or "defaults"
