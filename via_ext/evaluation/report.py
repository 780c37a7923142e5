# SPDX-License-Identifier: Apache-2.0
"""results.csv and report.md of an evaluation."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from via_ext.evaluation.ablation import ABLATIONS
from via_ext.evaluation.measures import AVERAGED

Entry = dict[str, Any]
#: Columns of the tables: heading, measure, digits, with its standard error.
COLUMNS = (
    ("tokens/s", "tokens_per_second", 0, True),
    ("x greedy", "speedup", 2, True),
    ("x baseline", "ratio", 2, True),
    ("modelled x", "modelled_speedup", 2, True),
    ("modelled x baseline", "modelled_ratio", 2, True),
    ("agreement", "agreement", 3, True),
    ("mean logprob", "mean_logprob", 3, False),
    ("rejection", "rejection", 2, True),
    ("full/token", "full_per_token", 3, False),
    ("slim/token", "slim_per_token", 3, False),
    ("draft/token", "draft_per_token", 2, False),
    ("overshoot mean", "overshoot_mean", 4, False),
    ("overshoot p99", "overshoot_p99", 3, False),
)
_NOTES = """\
* tokens/s, x greedy, x baseline: wall clock of this machine, whole calls, the prompt's reading
  included; medians over {repeats} repeats in which the methods took turns.
* modelled: full passes per token by weight bytes, a slim pass being {slim}, the shared prefix
  {prefix} and a draft pass {draft} of a full pass, whether over one token or several. It is a model
  of a memory-bound device, not a measurement.
* agreement: share of emitted tokens that are the full model's first choice in their own context.
  mean logprob: of the emitted tokens under the full model, in nats.
* rejection: examined draft tokens that were not kept. overshoot: max(0, s(x) - q(x)) of the emitted
  tokens, 0 where the full model decided.
* +-: standard error over {sets} prompt sets. Ratios are taken within a set and a repeat.
* (simulated): all models were computed in lock-step and only the passes of the cheapest plan were
  charged. It has no wall clock.
"""


def number(entry: Entry, name: str, digits: int, error: bool = False) -> str:
    """A mean, with its standard error where there is one; "-" if unknown."""
    value = entry.get(name)
    if value is None:
        return "-"
    text = f"{value:.{digits}f}"
    spread = entry.get(f"{name}_se") if error else None
    return text if spread is None else f"{text}+-{spread:.{digits}f}"


def label_of(key: str, entry: Entry, data: dict[str, Any]) -> str:
    """A method's name in tables, with what has to be known about it."""
    marks = [
        text
        for text, holds in (
            ("simulated", entry.get("simulated")),
            ("baseline", key == data["baseline"]),
            ("WRONG TOKENS", entry.get("note")),
        )
        if holds
    ]
    return f"{entry['label']} ({', '.join(marks)})" if marks else str(entry["label"])


def done_methods(data: dict[str, Any], ablation: str = "") -> dict[str, Entry]:
    """The methods that ran, of one ablation or of none."""
    return {
        key: entry
        for key, entry in data["methods"].items()
        if entry["status"] == "done" and entry["ablation"] == ablation
    }


def write_files(folder: Path, data: dict[str, Any], plots: bool) -> tuple[str, ...]:
    """Writes results.csv, report.md and the plots; returns the names of all files."""
    _write_csv(folder / "results.csv", data)
    images: list[str] = []
    if plots:
        from via_ext.evaluation.plots import draw

        images = draw(folder, data)
    (folder / "report.md").write_text(_report(data, images), encoding="utf-8")
    return ("results.json", "results.csv", "report.md", *images)


def _write_csv(path: Path, data: dict[str, Any]) -> None:
    """A row per method and prompt set, then one with its means ("all"), in one file."""
    errors = [f"{name}_se" for name in AVERAGED]
    header = ["method", "set", "task", "simulated", "prompts", "tokens", *AVERAGED, *errors]
    header += ["peak_memory_bytes", "peak_memory_kind", "note"]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, header, lineterminator="\n", extrasaction="ignore")
        writer.writeheader()
        for key, entry in data["methods"].items():
            row = {"method": key, "note": entry["reason"] or entry.get("note", "")}
            if entry["status"] != "done":
                writer.writerow(row)
                continue
            row |= {"simulated": entry["simulated"]}
            for name, measures in entry["sets"].items():
                task = data["settings"]["sets"][name]
                writer.writerow(row | {"set": name, "task": task} | measures)
            memory = {f"peak_memory_{name}": value for name, value in entry["memory"].items()}
            writer.writerow(row | {"set": "all"} | entry["summary"] | memory)


def _table(header: list[str], rows: Iterable[list[str]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def _measures(data: dict[str, Any], entries: dict[str, Entry]) -> str:
    rows = [
        [label_of(key, entry, data)]
        + [number(entry["summary"], name, digits, error) for _, name, digits, error in COLUMNS]
        for key, entry in entries.items()
    ]
    return _table(["method", *(column[0] for column in COLUMNS)], rows)


def _report(data: dict[str, Any], images: list[str]) -> str:
    settings, facts, entries = data["settings"], data["facts"], done_methods(data)
    costs = {name: f"{value:.3f}" for name, value in settings["pass_costs"].items()}
    notes = _NOTES.format(repeats=len(data["repeats"]), sets=len(settings["sets"]), **costs)
    parts = ["# Evaluation", _setting(settings, facts), _measures(data, entries), notes]
    if not data["complete"]:
        known = f"{sum(entry['status'] == 'done' for entry in data['methods'].values())} methods"
        known += f" and {len(data['repeats'])} timed repeats"
        parts.insert(1, f"**Partial: the run was stopped after {known}.** The rest is missing.")
    parts += [f"![{name}]({name})" for name in images if name.endswith(".png")]
    parts += ["## By task", _by_task(data, entries), "## Tiers and memory", _tiers(data, entries)]
    parts += ["## Acceptance by draft position", _positions(data, entries)]
    for name, text in ABLATIONS.items():
        varied = done_methods(data, name)
        if varied:
            parts += [f"## Ablation: {text}", _measures(data, varied)]
    skipped = [[e["label"], e["reason"]] for e in data["methods"].values() if e["reason"]]
    if skipped:
        parts += ["## Left out", _table(["method", "reason"], skipped)]
    wrong = [[e["label"], e["note"]] for e in data["methods"].values() if e.get("note")]
    if wrong:
        parts += ["## Wrong tokens", _table(["method", "tokens"], wrong)]
    if data["problems"]:
        parts += ["## Prompts left out", "\n".join(f"* {text}" for text in data["problems"])]
    return "\n\n".join(parts) + "\n"


def _setting(settings: dict[str, Any], facts: dict[str, Any]) -> str:
    route = settings["route"]
    rows = {
        "models": f"target {settings['target']}, drafter {settings['drafter']}",
        "slim verifier": "none" if route is None else f"skips {route['skip_ratio']:.3f}",
        "prompts": f"{settings['prompts']} in {len(settings['sets'])} sets, at most "
        f"{settings['max_new_tokens']} new tokens each, batch 1, greedy, {settings['dtype']}",
        "machine": f"{facts['gpu'] or facts['cpu']}, {facts['threads']} threads of "
        f"{facts['cores']} cores, load before {facts['load_before']}",
        "versions": ", ".join(
            f"{name} {facts[name]}" for name in ("via_ext", "torch", "transformers", "python")
        ),
        "date": facts["date"],
    }
    return _table(["", ""], [[name, text] for name, text in rows.items()])


def _by_task(data: dict[str, Any], entries: dict[str, Entry]) -> str:
    tasks = list(dict.fromkeys(data["settings"]["sets"].values()))
    header = ["method"]
    header += [f"{task}: {what}" for task in tasks for what in ("x greedy", "modelled x", "agree")]
    names = (("speedup", 2, True), ("modelled_speedup", 2, True), ("agreement", 3, False))
    rows = [
        [label_of(key, entry, data)]
        + [number(entry["tasks"].get(task, {}), *name) for task in tasks for name in names]
        for key, entry in entries.items()
    ]
    return _table(header, rows)


def _tiers(data: dict[str, Any], entries: dict[str, Entry]) -> str:
    header = ["method", "draft accepted by slim", "slim's own", "full", "accept", "regenerate"]
    header += ["escalate", "tokens/step", "peak memory, MiB"]
    names = ("tier_draft", "tier_slim", "tier_full", "accept", "regenerate", "escalate")
    rows = [
        [label_of(key, entry, data)]
        + [number(entry["summary"], name, 2) for name in names]
        + [number(entry["summary"], "tokens_per_step", 2)]
        + [f"{entry['memory']['bytes'] / 2**20:.1f} ({entry['memory']['kind']})"]
        for key, entry in entries.items()
    ]
    return _table(header, rows)


def _positions(data: dict[str, Any], entries: dict[str, Entry]) -> str:
    shown = {k: e for k, e in entries.items() if e["summary"].get("accepted_by_position")}
    depth = max((len(e["summary"]["accepted_by_position"]) for e in shown.values()), default=0)
    rows = []
    for key, entry in shown.items():
        shares = [f"{share:.2f}" for share in entry["summary"]["accepted_by_position"]]
        rows.append([label_of(key, entry, data), *shares, *["-"] * (depth - len(shares))])
    return _table(["method", *(str(place + 1) for place in range(depth))], rows)
