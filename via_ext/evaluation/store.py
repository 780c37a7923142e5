# SPDX-License-Identifier: Apache-2.0
"""results.json: what is known so far, written again after every method and every repeat."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

FORMAT = "via_ext.evaluation"
VERSION = 1
RESULTS = "results.json"


class Store:
    """The results of one evaluation, in memory and, with a folder, on disk.

    Attributes:
        folder: of the files, None = memory only.
        data: `settings`, `facts`, `problems`, `baseline`, `complete`, `methods` (by key) and
            `repeats`, a list of seconds by method and prompt set.
    """

    def __init__(self, folder: Path | None, data: dict[str, Any]) -> None:
        """Use `open_store`."""
        self.folder = folder
        self.data = data

    def done(self, key: str) -> bool:
        """True if a method's counted run is known."""
        entry = self.data["methods"].get(key)
        return entry is not None and entry["status"] == "done"

    def seconds(self, key: str) -> list[dict[str, float]]:
        """Seconds by prompt set of a method, a dict per repeat."""
        return [repeat[key] for repeat in self.data["repeats"] if key in repeat]

    def save(self) -> None:
        """Writes results.json whole, or leaves the one before."""
        if self.folder is None:
            return
        path = self.folder / RESULTS
        part = path.with_suffix(".part")
        text = json.dumps(finite(self.data), indent=1, allow_nan=False)
        part.write_text(text + "\n", encoding="utf-8")
        os.replace(part, path)


def open_store(
    folder: Path | None, settings: dict[str, Any], facts: dict[str, Any], resume: bool
) -> Store:
    """An empty store, or with `resume` the one that an interrupted run left in `folder`.

    Args:
        folder: made if it is not there; None = nothing is written.
        settings: what must be the same for results to be comparable.
        facts: machine and versions of this run.
        resume: go on with what is there.

    Raises:
        ValueError: the folder cannot be written, holds results already (without `resume`), or holds
            those of other settings.
    """
    fresh: dict[str, Any] = {"format": FORMAT, "version": VERSION, "settings": settings}
    fresh |= {"facts": facts, "problems": [], "baseline": None, "complete": False}
    fresh |= {"methods": {}, "repeats": []}
    if folder is None:
        return Store(None, fresh)
    known = known_results(folder, resume)
    return Store(folder, fresh if known is None else _checked(known, folder / RESULTS, settings))


def known_results(folder: Path, resume: bool) -> str | None:
    """Text of the results.json in `folder`, None if there is none.

    Args:
        folder: made if it is not there.
        resume: results may be there.

    Raises:
        ValueError: the folder cannot be written, or holds results already (without `resume`).
    """
    path = folder / RESULTS
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".{RESULTS}.{os.getpid()}"
        probe.write_text("", encoding="utf-8")
        probe.unlink()
        known = path.read_text(encoding="utf-8") if path.exists() else None
    except OSError as error:
        rule = "be a folder that can be written"
        raise ValueError(f"evaluate: out must {rule}, got {folder} ({error.strerror})") from error
    if known is not None and not resume:
        rule = "hold no results (or resume)"
        raise ValueError(f"evaluate: out must {rule}, got {path}")
    return known


def _checked(text: str, path: Path, settings: dict[str, Any]) -> dict[str, Any]:
    try:
        data: Any = json.loads(text)
        same = data["format"] == FORMAT and data["version"] == VERSION
        theirs = data["settings"]
    except (ValueError, KeyError, TypeError):
        same = False
    if not same:
        raise ValueError(f"evaluate: out must hold results of this version to resume, got {path}")
    ours = json.loads(json.dumps(finite(settings)))
    for name in ours:
        if theirs.get(name) != ours[name]:
            rule = f"hold results of the same {name} to resume"
            raise ValueError(f"evaluate: out must {rule}, got {path}")
    return data  # type: ignore[no-any-return]


def finite(value: Any) -> Any:
    """`value` without infinities and NaN, which JSON does not have: they become None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value
