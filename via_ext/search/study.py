# SPDX-License-Identifier: Apache-2.0
"""The trials of a search in a file, so that an interrupted search goes on where it stopped.

JSON lines: the settings, then one trial a line. A resumed search makes the same decisions again and
takes the values of its first trials from the file, so that it ends as an uninterrupted one would.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, TextIO

FORMAT = "via_ext.route_search"
VERSION = 1
# Measured times differ from run to run: the study keeps those it began with.
_MEASURED = ("costs", "draft_cost")


class Study:
    """Trials on disk; without a path, none.

    Attributes:
        settings: of the search, those of the file where it existed.
    """

    def __init__(self, path: str | os.PathLike[str] | None, settings: dict[str, Any]) -> None:
        """Opens or makes the file, before any work.

        Args:
            path: of the file, None = nothing is kept.
            settings: what decides the trials and their values.

        Raises:
            ValueError: the file is no study, or of a search with other settings.
            OSError: it cannot be written.
        """
        self.settings = settings
        self._file: TextIO | None = None
        self._trials: list[dict[str, Any]] = []
        if path is None:
            return
        place = Path(path)
        text = place.read_text(encoding="utf-8") if place.exists() else ""
        # What a killed process wrote of its last line is dropped.
        lines = text[: text.rfind("\n") + 1].splitlines()
        if lines:
            self._read(place, lines)
        elif text:
            raise ValueError(f"search_route: study must be a route search's, got {place}")
        end = sum(len(line.encode()) + 1 for line in lines)
        self._file = place.open("r+" if place.exists() else "w", encoding="utf-8")
        self._file.truncate(end)
        self._file.seek(end)
        if not lines:
            self._write({"format": FORMAT, "version": VERSION, "settings": settings})

    def _read(self, place: Path, lines: list[str]) -> None:
        try:
            head, *trials = map(json.loads, lines)
            if head["format"] != FORMAT or head["version"] != VERSION:
                raise ValueError(f"format must be {FORMAT!r}, version {VERSION}")
            stored = head["settings"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"search_route: study must be a route search's, got {place}: {error}"
            ) from error
        ours = json.loads(json.dumps(self.settings))
        units = [(settings.get("costs") or {}).get("unit") for settings in (ours, stored)]
        for name, value in ours.items():
            measured = name in _MEASURED and units == ["seconds", "seconds"]
            if stored.get(name) != value and not measured:
                rule = f"be of a search with {name} = {value}"
                raise ValueError(f"search_route: study must {rule}, got {stored.get(name)}")
        self.settings, self._trials = stored, trials

    def find(self, number: int, kind: str, skips: list[int]) -> dict[str, Any] | None:
        """The stored trial of that number, None = not there yet.

        Raises:
            ValueError: it is another one: the file was changed, or written by another version.
        """
        if number >= len(self._trials):
            return None
        trial = self._trials[number]
        if trial.get("kind") != kind or trial.get("skips") != skips:
            rule = f"hold the trials of this search, with {kind} {skips} as number {number}"
            got = f"{trial.get('kind')} {trial.get('skips')}"
            raise ValueError(f"search_route: study must {rule}, got {got}")
        return trial

    def append(self, trial: dict[str, Any]) -> None:
        """Writes a trial, at once."""
        if self._file is not None:
            self._write(trial)

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            self._file.close()

    def _write(self, entry: dict[str, Any]) -> None:
        assert self._file is not None
        self._file.write(json.dumps(entry) + "\n")
        self._file.flush()
