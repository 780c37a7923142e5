# SPDX-License-Identifier: Apache-2.0
"""`evaluate`: methods side by side on the same prompts, in one run."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from via_ext.evaluation.checks import check_int, check_subject, check_tasks
from via_ext.evaluation.costs import pass_costs
from via_ext.evaluation.machine import machine_facts
from via_ext.evaluation.methods import PLAIN, Method, Subject, choose
from via_ext.evaluation.run import EvaluationRun, Progress
from via_ext.evaluation.store import open_store
from via_ext.evaluation.tasks import TaskPrompt
from via_ext.fingerprint import fingerprint
from via_ext.route import SlimRoute


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` measured.

    Attributes:
        data: everything, as in results.json: `settings`, `facts`, `problems`, `baseline` (key of
            the method that ratios are taken over), `complete` (False if the run was stopped),
            `methods` by key (each with `status` "done" or "skipped", `reason`, `sets`, `tasks`
            and `summary`) and `repeats`.
        folder: where the files lie, None if none were written.
        files: names of the files in it.
    """

    data: dict[str, Any]
    folder: Path | None
    files: tuple[str, ...] = ()

    def summary(self, key: str) -> dict[str, Any]:
        """Means and standard errors of one method over the prompt sets.

        Raises:
            KeyError: it did not run.
        """
        found: dict[str, Any] = self.data["methods"][key]["summary"]
        return found


def evaluate(
    target: Any,
    drafter: Any,
    route: SlimRoute | None,
    tasks: Sequence[TaskPrompt],
    *,
    two_tier: SlimRoute | None = None,
    methods: Sequence[str | Method] | None = None,
    max_new_tokens: int = 96,
    repeats: int = 3,
    seed: int = 0,
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    plots: bool = True,
    problems: Sequence[str] = (),
    progress: Progress = lambda stage, done, total: None,
) -> Evaluation:
    """Runs several ways to decode on the same prompts, greedy, one prompt at a time.

    Every method first decodes all prompts once, counted and scored by the full model; then the
    timed repeats follow, in which the methods take turns prompt by prompt. Times are of whole
    calls, the reading of the prompt included. results.json is written after every method and every
    repeat; what is done stays there when the run is interrupted.

    Args:
        target: the full model.
        drafter: a `transformers` model that drafts for it.
        route: the slim verifier, with or without a calibration; None leaves three tiers out.
        tasks: prompts, see `TaskPrompt`.
        two_tier: `SlimRoute.full` with a calibration of the two tiers; None leaves those methods
            out.
        methods: keys of `METHODS` or methods; None = all. Plain greedy always runs.
        max_new_tokens: per prompt; the model's end of sequence ends it earlier.
        repeats: timed runs of every method on every prompt, >= 0.
        seed: of the random streams, in [0, 2**63).
        out: folder for results.json, results.csv, report.md and plots; None = no files.
        resume: go on with an interrupted run in `out`, skipping what is done there.
        plots: draw them (needs matplotlib).
        problems: texts to carry into the report, such as prompts that could not be read.
        progress: called with a stage's name, the runs done and the runs in all.

    Returns:
        Measures, summaries and where the files are.

    Raises:
        TypeError: a wrong type.
        ValueError: no prompts, ids outside the vocabulary, no room for new tokens in the context,
            an unknown method, a bad number, a model that cannot be decoded, a route of another
            model, a `two_tier` that skips sublayers or has no calibration, or a folder that cannot
            be written, holds results, or cannot be resumed.
        RuntimeError: plain greedy, the reference of all ratios, failed.
        ImportError: plots are wanted and matplotlib is not installed.
    """
    for name, value, low in (("max_new_tokens", max_new_tokens, 1), ("repeats", repeats, 0)):
        check_int(name, value, low)
    check_int("seed", seed, 0)
    if seed >= 2**63:
        raise ValueError(f"evaluate: seed must be below 2**63, got {seed}")
    if not callable(progress):
        raise TypeError(f"evaluate: progress must be callable, got {type(progress).__name__}")
    chosen = choose(methods)
    subject = Subject(target, drafter, route, two_tier)
    check_subject(subject, chosen)
    check_tasks(tasks, target.config, max_new_tokens)
    if out is not None and plots:
        from via_ext.evaluation.plots import require_matplotlib

        require_matplotlib()
    device = next(target.parameters()).device
    settings = _settings(subject, tasks, max_new_tokens, seed)
    folder = None if out is None else Path(out)
    store = open_store(folder, settings, machine_facts(device), resume)
    known = store.data["problems"]
    known += [text for text in problems if text not in known]
    store.data["complete"] = False
    run = EvaluationRun(subject, tasks, store, max_new_tokens, seed, progress)
    files: tuple[str, ...] = ()
    try:
        run.count(chosen, repeats)
        run.time(repeats)
        store.data["complete"] = True
    finally:
        # Interrupted or not: what is known is summed up.
        run.summarize()
        if folder is not None and store.done(PLAIN):
            from via_ext.evaluation.report import write_files

            files = write_files(folder, store.data, plots)
    return Evaluation(store.data, folder, files)


def _settings(
    subject: Subject, tasks: Sequence[TaskPrompt], max_new_tokens: int, seed: int
) -> dict[str, Any]:
    digest = hashlib.sha256()
    for task in tasks:
        digest.update(json.dumps([task.id, task.set, task.input_ids.tolist()]).encode())
    return {
        "max_new_tokens": max_new_tokens,
        "seed": seed,
        "dtype": str(next(subject.target.parameters()).dtype).removeprefix("torch."),
        "target": fingerprint(subject.target),
        "drafter": fingerprint(subject.drafter),
        "route": _route_facts(subject.route),
        "two_tier": _route_facts(subject.two_tier),
        "pass_costs": pass_costs(subject.target, subject.drafter, subject.route)._asdict(),
        "sets": {task.set: task.task for task in tasks},
        "prompts": len(tasks),
        "prompts_sha256": digest.hexdigest(),
    }


def _route_facts(route: SlimRoute | None) -> dict[str, Any] | None:
    if route is None:
        return None
    calibration = None if route.calibration is None else route.calibration.to_dict()
    masks = {"keep_attention": route.keep_attention, "keep_mlp": route.keep_mlp}
    return {**masks, "skip_ratio": route.skip_ratio, "calibration": calibration}
