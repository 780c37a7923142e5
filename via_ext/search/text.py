# SPDX-License-Identifier: Apache-2.0
"""Calibration text: from files, or for the embedded pair from the running Python's own library."""

from __future__ import annotations

import hashlib
import json
import os
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

#: Not text of the library itself: installed packages, tables, test data.
_EXCLUDED = ("site-packages", "encodings", "pydoc_data", "lib2to3", "turtledemo", "config-")
_MIN_CHARACTERS = 4000


def read_documents(paths: Sequence[Path]) -> list[str]:
    """The texts of files: one of a plain file, one a line of a `.jsonl` file.

    Raises:
        ValueError: a file is missing or not UTF-8, or a line has neither "prompt" nor "text".
    """
    documents = []
    for path in paths:
        if not path.is_file():
            raise ValueError(f"search: --text must be an existing file, got {path}")
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            got = f"byte {error.object[error.start]:#04x} at {error.start} of {path}"
            raise ValueError(f"search: --text must be UTF-8 text, got {got}") from None
        documents += list(_lines(path, text)) if path.suffix == ".jsonl" else [text]
    return documents


def _lines(path: Path, text: str) -> Iterator[str]:
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except ValueError:
            entry = None
        parts = []
        if isinstance(entry, dict):
            parts = [entry[name] for name in ("prompt", "text") if name in entry]
        if not parts or not all(isinstance(part, str) for part in parts):
            rule = 'hold objects with a string "prompt" or "text"'
            raise ValueError(f"search: --text must {rule}, got {path}, line {number}")
        yield "".join(parts)


def library_documents(held_out: bool) -> Iterator[str]:
    """Files of the running Python's standard library, in an order that has nothing to do with them.

    Args:
        held_out: True for the 3 % of the files that the embedded pair was not trained on (SHA-256
            of the path below 3 modulo 100), False for the others.

    Raises:
        ValueError: this Python has no library as text.
    """
    library = Path(sysconfig.get_paths()["stdlib"])
    marked = []
    for file in _python_files(library):
        path = file.relative_to(library).as_posix()
        digest = hashlib.sha256(path.encode()).hexdigest()
        if (int(digest, 16) % 100 < 3) == held_out:
            marked.append((digest, file))
    if not marked:
        raise ValueError(f"search: --demo must find Python files in {library}, got none")
    for _, file in sorted(marked):
        text = file.read_bytes().decode("utf-8", errors="ignore")
        if len(text) >= _MIN_CHARACTERS:
            # Not its beginning: imports and licences are alike everywhere.
            yield text[len(text) // 3 :]


def _python_files(library: Path) -> Iterator[Path]:
    for folder, names, files in os.walk(library):
        # Installed packages are many: their folder is not even entered.
        names[:] = [name for name in names if not name.startswith(_EXCLUDED)]
        yield from (Path(folder, name) for name in files if name.endswith(".py"))


def cut(
    documents: Iterable[str], tokenizer: Any, tokens: int, length: int, least: int
) -> list[torch.Tensor]:
    """Sequences of at most `length` tokens: the first piece of every document, then the second.

    Args:
        documents: read one after the other, no further than needed.
        tokenizer: with `encode`.
        tokens: stop there.
        length: of a sequence.
        least: shorter pieces are left out.

    Returns:
        The sequences; fewer tokens where the text is shorter.
    """
    found: list[torch.Tensor] = []
    later: list[list[torch.Tensor]] = []
    total = 0

    def take(piece: torch.Tensor) -> None:
        nonlocal total
        piece = piece[: tokens - total]
        if len(piece) >= least:
            found.append(piece)
            total += len(piece)

    for document in documents:
        if tokens - total < least:
            return found
        ids = torch.tensor(tokenizer.encode(document), dtype=torch.int64)
        pieces = list(torch.split(ids, length))
        if pieces:
            take(pieces[0])
            later.append(pieces[1:])
    for round_ in range(max(map(len, later), default=0)):
        for pieces in later:
            if round_ < len(pieces) and tokens - total >= least:
                take(pieces[round_])
    return found
