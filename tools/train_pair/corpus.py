# SPDX-License-Identifier: Apache-2.0
"""The text of the embedded pair: the standard library of the running Python, split by path.

3 % of the files are held out by a rule on the path alone, so the split is the same on every
machine and every Python version; nothing here is downloaded.
"""

from __future__ import annotations

import hashlib
import re
import sysconfig
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tokenizers import Tokenizer

#: Folders and files that are tables, test data or not text of the library itself.
EXCLUDED = (
    "site-packages",
    "encodings",
    "pydoc_data",
    "lib2to3/tests/data",
    "__pycache__",
    "config-",
    "lib-dynload",
    "turtledemo",
    "__phello__",
)
MIN_CHARACTERS = 400
#: Files with fewer letters and blanks than this share are generated tables.
MIN_LETTERS = 0.70
END = 0  # id of <|end|>, which also begins every file


class Source(NamedTuple):
    """One file of the corpus: path relative to the library, text, and whether it is held out."""

    path: str
    text: str
    held_out: bool


def is_held_out(path: str) -> bool:
    """The split: a file is never trained on iff the SHA-256 of its path is < 3 modulo 100."""
    return int(hashlib.sha256(path.encode()).hexdigest(), 16) % 100 < 3


def sources(root: Path | None = None) -> list[Source]:
    """Every file of the corpus, sorted by path; blanks at line ends removed."""
    library = Path(sysconfig.get_paths()["stdlib"]) if root is None else root
    found = []
    for file in sorted(library.rglob("*.py")):
        path = file.relative_to(library).as_posix()
        if any(path.startswith(part) or f"/{part}" in path for part in EXCLUDED):
            continue
        try:
            text = file.read_bytes().decode("utf-8")
        except UnicodeDecodeError:
            continue
        letters = sum(c.isalpha() or c.isspace() or c == "_" for c in text)
        if len(text) < MIN_CHARACTERS or letters < MIN_LETTERS * len(text):
            continue
        found.append(Source(path, re.sub(r"[ \t]+\n", "\n", text), is_held_out(path)))
    return found


def encode(tokenizer: Path, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Token ids of the training and of the held-out files, uint16, cached in `folder`.

    Each file is preceded by <|end|>.
    """
    paths = folder / "train.npy", folder / "held_out.npy"
    if not all(path.is_file() for path in paths):
        folder.mkdir(parents=True, exist_ok=True)
        files = sources()
        encodings = Tokenizer.from_file(str(tokenizer)).encode_batch([file.text for file in files])
        for path, held_out in zip(paths, (False, True), strict=True):
            ids: list[int] = []
            for file, encoding in zip(files, encodings, strict=True):
                if file.held_out == held_out:
                    ids += [END, *encoding.ids]
            np.save(path, np.array(ids, dtype=np.uint16))
    train, held_out = (np.load(path) for path in paths)
    return train, held_out
