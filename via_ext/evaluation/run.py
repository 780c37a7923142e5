# SPDX-License-Identifier: Apache-2.0
"""The runs of an evaluation: counted ones, then timed ones in turn, then the sums."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from via_ext.evaluation.machine import peak_memory
from via_ext.evaluation.measures import add_times, measure_set, summarize
from via_ext.evaluation.methods import PLAIN, Method, Subject, baseline_of, reason_against
from via_ext.evaluation.runners import Oracle, Record, Runner, make_runner
from via_ext.evaluation.store import Store
from via_ext.evaluation.tasks import TaskPrompt
from via_ext.trace import score_text

#: An exact method that agrees less is reported as wrong; ties in argmax cost less than that.
EXACT_AGREEMENT = 0.99
Progress = Callable[[str, int, int], None]


class EvaluationRun:
    """Runs methods on prompts and keeps what is found in a store.

    Args:
        subject: models and routes.
        tasks: prompts.
        store: receives the results.
        max_new_tokens: per prompt.
        seed: of the random streams.
        progress: see `evaluate`.
    """

    def __init__(
        self,
        subject: Subject,
        tasks: Sequence[TaskPrompt],
        store: Store,
        max_new_tokens: int,
        seed: int,
        progress: Progress,
    ) -> None:
        """Nothing runs yet."""
        self._subject, self._store, self._progress = subject, store, progress
        self._new, self._seed = max_new_tokens, seed
        self._runners: dict[str, Runner] = {}
        self._sets: dict[str, list[TaskPrompt]] = {}
        for task in tasks:
            self._sets.setdefault(task.set, []).append(task)
        self._prompts = len(tasks)
        self._done = self._total = 0

    def count(self, methods: Sequence[Method], repeats: int) -> None:
        """Runs every method once over all prompts, with statistics and scores.

        Raises:
            RuntimeError: plain greedy failed, without which there are no ratios.
        """
        able = [m for m in methods if reason_against(m, self._subject) is None]
        timed = sum(method.kind != "oracle" for method in able)
        self._total = self._prompts * (len(able) + timed * repeats)
        for method in methods:
            reason = reason_against(method, self._subject)
            if reason is not None:
                self._leave_out(method, reason)
                continue
            try:
                self._count_one(method)
            except Exception as error:
                # One method that fails costs no other its results.
                self._runners.pop(method.key, None)
                text = " ".join(str(error).split())
                self._leave_out(method, f"failed: {type(error).__name__}: {text}"[:300], error)

    def _leave_out(self, method: Method, reason: str, cause: Exception | None = None) -> None:
        self._keep(method, "skipped", reason)
        if method.key == PLAIN:
            rule = "plain greedy, the reference of all ratios, must run"
            raise RuntimeError(f"evaluate: {rule}, got {reason}") from cause

    def _keep(self, method: Method, status: str, reason: str = "", **more: Any) -> None:
        entry = {**method.to_dict(), "status": status, "reason": reason, **more}
        self._store.data["methods"][method.key] = entry
        self._store.save()

    def _count_one(self, method: Method) -> None:
        runner = make_runner(method, self._subject, self._new, self._seed)
        self._runners[method.key] = runner
        if self._store.done(method.key):
            self._tick(method.label, self._prompts)
            return
        sets = {}
        with peak_memory(next(self._subject.target.parameters()).device) as peak:
            for name, prompts in self._sets.items():
                records = []
                for prompt in prompts:
                    records.append(runner.first(prompt.input_ids))
                    self._tick(method.label)
                sets[name] = self._measure(records)
        agreed = sum(row["agreement"] * row["tokens"] for row in sets.values() if row["tokens"])
        tokens = sum(row["tokens"] for row in sets.values())
        note = ""
        if method.exact and agreed < EXACT_AGREEMENT * tokens:
            note = f"wrong tokens: {tokens - round(agreed)} of {tokens} not the full model's choice"
        memory = {"bytes": peak.bytes, "kind": peak.kind}
        simulated = runner.simulated
        self._keep(method, "done", note=note, simulated=simulated, memory=memory, sets=sets)

    def _measure(self, records: Sequence[Record]) -> dict[str, Any]:
        sequences = [record.sequence for record in records]
        lengths = [len(record.sequence) - record.new for record in records]
        return measure_set(records, score_text(self._subject.target, sequences, lengths))

    def _tick(self, stage: str, runs: int = 1) -> None:
        self._done += runs
        self._progress(stage, self._done, self._total)

    def time(self, repeats: int) -> None:
        """The timed repeats: methods in turn, prompt by prompt."""
        runners = {k: r for k, r in self._runners.items() if not isinstance(r, Oracle)}
        kept = self._store.data["repeats"]
        for index in range(repeats):
            if index < len(kept) and not set(runners) - set(kept[index]):
                self._tick(f"repeat {index + 1}", self._prompts * len(runners))
                continue
            # A repeat is measured as a whole: times of different hours are not compared.
            seconds = {key: dict.fromkeys(self._sets, 0.0) for key in runners}
            for name, prompts in self._sets.items():
                for prompt in prompts:
                    for key, runner in runners.items():
                        begin = time.perf_counter()
                        runner.run(prompt.input_ids)
                        seconds[key][name] += time.perf_counter() - begin
                    self._tick(f"repeat {index + 1}", len(runners))
            kept[index : index + 1] = [seconds]
            self._store.save()

    def summarize(self) -> None:
        """Adds speeds, ratios, means and standard errors; saves."""
        data, store = self._store.data, self._store
        done = {key: entry for key, entry in data["methods"].items() if entry["status"] == "done"}
        if PLAIN not in done:
            return
        costs = {
            key: sum(row.get("modelled_cost", 0.0) for row in entry["sets"].values())
            for key, entry in done.items()
        }
        base = data["baseline"] = baseline_of(costs, done)
        plain_sets, base_sets = done[PLAIN]["sets"], done[base]["sets"]
        for key, entry in done.items():
            own = [repeat for repeat in data["repeats"] if {key, base, PLAIN} <= set(repeat)]
            times = [[repeat[name] for repeat in own] for name in (key, PLAIN, base)]
            add_times(entry["sets"], plain_sets, base_sets, *times)
            entry["summary"] = summarize(list(entry["sets"].values()))
            tasks: dict[str, list[dict[str, Any]]] = {}
            for name, row in entry["sets"].items():
                tasks.setdefault(data["settings"]["sets"][name], []).append(row)
            entry["tasks"] = {task: summarize(rows) for task, rows in tasks.items()}
        store.save()
