# SPDX-License-Identifier: Apache-2.0
"""The tests stage: which test files can run on a machine as it is, and what their reports say."""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from check_report import Result
from check_runner import Ended

PATTERNS = (
    *("test_verify*.py", "test_compact_kv*.py", "test_tree_attention*.py"),
    *("test_filtered_probs.py", "test_ops.py", "test_compat*.py", "test_persistent*.py"),
    "test_*cuda*.py",
)
LAST = ("law", "seeds", "random")  # long files, whose kernels the others have already run
SELECT = "cuda"  # part of the id of every test that runs on the GPU
NO_TESTS = 5  # pytest's exit code


def files(root: Path) -> list[Path]:
    """Test files of the operations, short ones first."""
    found = [path for pattern in PATTERNS for path in sorted((root / "tests").glob(pattern))]
    return sorted(dict.fromkeys(found), key=lambda path: any(word in path.stem for word in LAST))


def imports(file: Path) -> set[str]:
    """Modules that a file imports at its top level."""
    names: set[str] = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
            if node.module == "tests":
                names.update(f"tests.{alias.name}" for alias in node.names)
    return names


def missing_modules(file: Path, root: Path) -> list[str]:
    """Packages that are not installed and that a test file needs, itself or by its helpers."""
    seen: set[Path] = set()
    wanted = {"pytest"}
    queue = [file, root / "tests" / "conftest.py"]
    while queue:
        path = queue.pop()
        if path in seen or not path.exists():
            continue
        seen.add(path)
        for name in imports(path):
            if name.startswith("tests."):
                queue.append(root / Path(*name.split(".")).with_suffix(".py"))
            else:
                wanted.add(name.split(".")[0])
    wanted -= {"tests", "via_ext", "__future__"} | set(sys.stdlib_module_names)
    return sorted(name for name in wanted if importlib.util.find_spec(name) is None)


def command(file: Path, report: Path) -> list[str]:
    """Runs pytest on one file; -v, so that a run that is cut off still says what passed."""
    flags = ["-v", "--tb=short", "-p", "no:cacheprovider", "--color=no", f"--junitxml={report}"]
    return [sys.executable, "-m", "pytest", str(file), "-k", SELECT, *flags]


def from_junit(report: Path) -> tuple[Counter[str], list[str]]:
    """Counts of passed, failed and skipped tests, and the names of those that failed."""
    counts: Counter[str] = Counter()
    failing: list[str] = []
    for case in ElementTree.parse(report).iter("testcase"):
        kinds = {child.tag for child in case}
        if kinds & {"failure", "error"}:
            counts["failed"] += 1
            failing.append(case.get("name", "?"))
        else:
            counts["skipped" if "skipped" in kinds else "passed"] += 1
    return counts, failing


def from_output(text: str) -> tuple[Counter[str], list[str]]:
    """The same, from what `pytest -v` had printed when it was stopped."""
    counts: Counter[str] = Counter()
    failing: list[str] = []
    for name, word in re.findall(
        r"^\S+::(\S+) (PASSED|FAILED|ERROR|SKIPPED)\b", text, re.MULTILINE
    ):
        if word in ("FAILED", "ERROR"):
            counts["failed"] += 1
            failing.append(name)
        else:
            counts[word.lower()] += 1
    return counts, failing


def judge(name: str, report: Path, ended: Ended) -> Iterator[Result]:
    """One row per file: passed if something ran and nothing failed."""
    if ended.returncode == NO_TESTS:
        yield Result(name, "skipped", f"no test of it runs on {SELECT}", ended.seconds)
        return
    try:
        counts, failing = from_junit(report)
    except (OSError, ElementTree.ParseError):
        counts, failing = from_output(ended.output)
    detail = ", ".join(f"{word} {counts[word]}" for word in ("passed", "failed", "skipped"))
    if failing:
        detail += f": {' '.join(failing[:4])}"
    if ended.timed_out or (ended.returncode and not failing):
        detail += f"; {ended.reason()}"
    ran = "passed" if counts["passed"] else "skipped"
    outcome = "failed" if ended.returncode else ran
    yield Result(name, outcome, detail, ended.seconds)
