# SPDX-License-Identifier: Apache-2.0
"""Prompts of an evaluation: read from JSONL files, encoded, grouped into prompt sets."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch


class TaskText(NamedTuple):
    """A prompt as text.

    Attributes:
        id: name of the prompt within its task.
        task: what kind of prompt it is; means are shown per task.
        text: what the models continue.
    """

    id: str
    task: str
    text: str


class TaskPrompt(NamedTuple):
    """A prompt as the models read it.

    Attributes:
        id: see `TaskText`.
        task: see `TaskText`.
        set: the prompts that are measured together; error bars are taken over the sets.
        input_ids: [T] int64 on the CPU, T >= 1.
    """

    id: str
    task: str
    set: str
    input_ids: torch.Tensor


def read_jsonl(paths: Iterable[Path]) -> tuple[list[TaskText], list[str]]:
    """Reads task files: a JSON object a line, "prompt" (text), "id" and "set" (optional).

    "set" names the task; without it the file's name does. Other fields are ignored, so that files
    made for other tools can be read as they are.

    Returns:
        The prompts, and one text per line that is no prompt: file, line number, what is wrong.

    Raises:
        ValueError: a file does not exist or is not UTF-8 text.
    """
    texts: list[TaskText] = []
    problems: list[str] = []
    for path in paths:
        if not path.is_file():
            raise ValueError(f"evaluate: tasks must be existing files, got {path}")
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError as error:
            raise ValueError(f"evaluate: tasks must be UTF-8 text, got {path}") from error
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                texts.append(_parse(line, f"{path.name}:{number}", path.stem))
            except ValueError as error:
                problems.append(f"{path}:{number}: {error}")
    return texts, problems


def _parse(line: str, place: str, task: str) -> TaskText:
    try:
        entry = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"line must be a JSON object ({error.msg})") from None
    if not isinstance(entry, dict):
        raise ValueError(f"line must be a JSON object, got {type(entry).__name__}")
    text = entry.get("prompt")
    if not isinstance(text, str) or not text:
        raise ValueError(f'"prompt" must be a text that is not empty, got {text!r}')
    for name in ("id", "set"):
        value = entry.get(name)
        if isinstance(value, bool) or not isinstance(value, str | int | None):
            raise ValueError(f'"{name}" must be a text or an int, got {value!r}')
    return TaskText(str(entry.get("id", place)), str(entry.get("set", task)), text)


def encode_tasks(
    texts: Sequence[TaskText],
    tokenizer: Any,
    *,
    prompts: int | None = None,
    sets: int = 1,
    max_tokens: int | None = None,
) -> tuple[list[TaskPrompt], list[str]]:
    """Encodes prompts and deals those of every task into sets.

    Args:
        texts: in order of preference.
        tokenizer: its call gives `input_ids`.
        prompts: most prompts of a set; None = all there are.
        sets: of each task, >= 1; a task with fewer prompts than that has as many sets.
        max_tokens: longer prompts are left out; None = no limit.

    Returns:
        The prompts, and one text per prompt that was left out.

    Raises:
        TypeError: `prompts` or `sets` is no int.
        ValueError: it is below 1.
    """
    for name, value in (("prompts", prompts), ("sets", sets)):
        if value is None and name == "prompts":
            continue
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"evaluate: {name} must be an int, got {value!r}")
        if value < 1:
            raise ValueError(f"evaluate: {name} must be at least 1, got {value}")
    kept: dict[str, list[tuple[TaskText, torch.Tensor]]] = {}
    problems = []
    limit = None if prompts is None else prompts * sets
    for text in texts:
        group = kept.setdefault(text.task, [])
        if limit is not None and len(group) >= limit:
            continue
        ids = torch.tensor(tokenizer(text.text)["input_ids"], dtype=torch.int64)
        if not ids.numel():
            problems.append(f"{text.task}/{text.id}: prompt must have at least one token, got none")
        elif max_tokens is not None and len(ids) > max_tokens:
            rule = f"have at most {max_tokens} tokens"
            problems.append(f"{text.task}/{text.id}: prompt must {rule}, got {len(ids)}")
        else:
            group.append((text, ids))
    found = []
    for task, group in kept.items():
        for index, (text, ids) in enumerate(group):
            name = task if sets == 1 else f"{task}/{index % sets + 1}"
            found.append(TaskPrompt(text.id, task, name, ids))
    return found, problems
