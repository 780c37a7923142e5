# SPDX-License-Identifier: Apache-2.0
"""Built-in tasks: prompts from standard-library files that the embedded pair was not trained on.

Made when asked for, from the library of the running Python; the same for every run of one version.
The split is the one of tools/train_pair: a file is held out iff the SHA-256 of its path relative to
the library is below 3 modulo 100.
"""

from __future__ import annotations

import ast
import hashlib
import os
import re
import sysconfig
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from via_ext.evaluation.tasks import TaskText

_EXCLUDED = ("site-packages", "encodings", "pydoc_data", "__pycache__", "config-", "lib-dynload")
_MIN_CHARACTERS = 400
#: The longest files are tests; reading them would take most of the time.
_MAX_BYTES = 60_000
#: Characters of a prompt, about 130 tokens of the embedded pair's tokenizer.
_MAX_CHARACTERS = 400
_PER_FILE = 8
#: Lines [first, end) that a prompt may be taken from; it ends with the last of them.
_Place = tuple[int, int]


def built_in_tasks(root: Path | None = None) -> list[TaskText]:
    """All prompts of the built-in tasks, in a fixed random order within each task.

    * code: lines of code up to the head of a function.
    * docstring: a function's head and the first line of its docstring.
    * prose: the first half of a module's docstring.
    * structured: lines of one pattern (tables of names, registrations), to be continued.

    Args:
        root: folder of the library; None = that of the running Python.

    Raises:
        ValueError: there is no held-out file in it.
    """
    library = Path(sysconfig.get_paths()["stdlib"]) if root is None else root
    files = list(_held_out(library))
    if not files:
        raise ValueError(f"evaluate: the library must hold Python sources, got none in {library}")
    found = []
    for task, finder in _FINDERS.items():
        ranked: list[tuple[int, bytes, TaskText]] = []
        for path, text, module in files:
            places = sorted((_key(f"{path}:{place}"), place) for place in finder(text, module))
            # One prompt of every file comes before the second of any.
            for rank, (key, place) in enumerate(places[:_PER_FILE]):
                prompt = _before(text.split("\n"), *place)
                ranked.append((rank, key, TaskText(f"{path}:{place[1]}", task, prompt)))
        found += [text for _, _, text in sorted(ranked, key=lambda entry: entry[:2])]
    return found


def _key(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


def _held_out(library: Path) -> Iterator[tuple[str, str, ast.Module]]:
    for path in sorted(_paths(library)):
        if int(hashlib.sha256(path.encode()).hexdigest(), 16) % 100 >= 3:
            continue
        file = library / path
        if file.stat().st_size > _MAX_BYTES:
            continue
        try:
            text = re.sub(r"[ \t]+\n", "\n", file.read_bytes().decode("utf-8"))
            module = ast.parse(text)
        except (UnicodeDecodeError, SyntaxError, ValueError):
            continue  # test data of the library itself
        if len(text) >= _MIN_CHARACTERS:
            yield path, text, module


def _paths(library: Path) -> Iterator[str]:
    for folder, names, files in os.walk(library):
        names[:] = [name for name in names if not name.startswith(_EXCLUDED)]
        inside = Path(folder).relative_to(library)
        yield from ((inside / name).as_posix() for name in files if name.endswith(".py"))


def _before(lines: list[str], first: int, end: int) -> str:
    """The last lines of [first, end) that fit the size of a prompt."""
    begin, size = end, 0
    while begin > first and size + len(lines[begin - 1]) < _MAX_CHARACTERS:
        begin -= 1
        size += len(lines[begin]) + 1
    return "\n".join(lines[begin:end]).lstrip("\n") + "\n"


def _functions(module: ast.Module) -> Iterator[tuple[int, int, str | None]]:
    """Line of each head, line of the first statement, docstring."""
    for node in ast.walk(module):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.lineno, node.body[0].lineno, ast.get_docstring(node, clean=False)


def _code(__: str, module: ast.Module) -> Iterator[_Place]:
    for head, body, doc in _functions(module):
        # A head of one line, so that the prompt ends with the whole of it.
        if body == head + 1 and head >= 8 and doc is None:
            yield 0, head


def _docstring(__: str, module: ast.Module) -> Iterator[_Place]:
    for _, body, doc in _functions(module):
        if doc is not None and doc.count("\n") >= 3 and body >= 6:
            yield 0, body


def _prose(_: str, module: ast.Module) -> Iterator[_Place]:
    doc = ast.get_docstring(module, clean=False)
    if doc is not None and len(doc) >= 200 and doc.count("\n") >= 4:
        begin, count = module.body[0].lineno - 1, doc.count("\n") + 1
        yield 0, begin + count // 2
        if len(doc) >= 800:
            yield 0, begin + 3 * count // 4


def _structured(text: str, __: ast.Module) -> Iterator[_Place]:
    """Windows of 12 lines most of which have one pattern; the first 7 are the prompt."""
    patterns = [re.sub(r"\w+", "w", line.strip()) for line in text.split("\n")]
    first = 0
    while first + 12 <= len(patterns):
        pattern, count = Counter(patterns[first : first + 12]).most_common(1)[0]
        if count >= 8 and len(pattern) >= 3 and not pattern.startswith("#"):
            yield first, first + 7
            first += 12
        first += 1


_FINDERS: dict[str, Callable[[str, ast.Module], Iterator[_Place]]] = {
    "code": _code,
    "docstring": _docstring,
    "prose": _prose,
    "structured": _structured,
}
