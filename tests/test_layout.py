# SPDX-License-Identifier: Apache-2.0
"""The dependency rules of the source tree: who may include or import whom, and file sizes."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CSRC = ROOT / "csrc"
# Folder of csrc -> project folders whose headers it may include. "via" is csrc/include/via.
MAY_INCLUDE = {
    "include": {"via"},
    "core": {"via", "core"},
    "cpu": {"via", "core", "cpu"},
    "device": {"via", "core", "device"},
    "cuda": {"via", "core", "device", "cuda"},
    # The persistent kernel runs the bodies of the operations' kernels as phases.
    "persistent": {"via", "core", "device", "cuda", "persistent"},
    "bindings": {"via", "bindings"},
}
CXX = [p for p in CSRC.rglob("*") if p.suffix in {".h", ".cpp", ".cu", ".cuh"}]
PYTHON = sorted((ROOT / "via_ext").rglob("*.py"))
SOURCES = [
    *CXX,
    *PYTHON,
    *(ROOT / "tests").rglob("*.py"),
    ROOT / "setup.py",
]
MAX_LINES = {
    "device": 400,
    "cuda": 400,
    "bindings": 120,
    "include": 150,
    "core": 150,
}


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imports(path: Path) -> set[str]:
    """Modules that a file imports, anywhere in it, except for type checking only."""
    names: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for child in node.orelse:
                visit(child)
            return
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text()))
    return names


def uses(path: Path, *prefixes: str) -> set[str]:
    return {n for n in imports(path) if any(n == p or n.startswith(p + ".") for p in prefixes)}


@pytest.mark.parametrize("path", CXX, ids=relative)
def test_includes_point_downward(path):
    folder = path.relative_to(CSRC).parts[0]
    text = path.read_text()
    for target in re.findall(r'^\s*#\s*include\s+[<"]([^>"]+)[>"]', text, re.MULTILINE):
        first = target.split("/")[0]
        if first in {*MAY_INCLUDE, "via"} and "/" in target:
            assert first in MAY_INCLUDE[folder], f"{relative(path)} includes {target}"
        python = re.match(r"(pybind11|Python\.h|torch|ATen|c10|dlpack)", target)
        assert folder == "bindings" or not python, f"{relative(path)} includes {target}"
        assert not re.match(r"(torch|ATen|c10)\b", target), f"{relative(path)} includes {target}"
        if target in {"build_facts.h"}:
            assert folder == "bindings"


def test_nobody_but_the_launches_depends_on_the_persistent_kernel():
    """Bodies of csrc/cuda stay usable alone; the engine is reached through include/via."""
    for path in CXX:
        if path.relative_to(CSRC).parts[0] in {"core", "cpu", "device", "cuda", "bindings"}:
            assert '#include "persistent/' not in path.read_text(), relative(path)


@pytest.mark.parametrize("path", CXX, ids=relative)
def test_inline_ptx_stands_in_one_file(path):
    if path.name != "prim.cuh":
        assert not re.search(r"\basm\s*(volatile)?\s*\(", path.read_text())


def definitions(path: Path) -> set[str]:
    """Names of the functions that a C++ file defines at any level."""
    code = re.sub(r"//.*", "", path.read_text())
    head = r"^[ \t]*(?:[\w:<>&*,]+[ \t]+)+[&*]?(\w+)\s*\([^;{}()]*\)\s*(?:const\s*)?\{"
    keywords = {"if", "for", "while", "switch", "catch", "return", "else"}
    return set(re.findall(head, code, re.MULTILINE)) - keywords


def test_rules_are_defined_in_core_only():
    """Acceptance, route, residual, filters and Philox: one definition for every back end."""
    rules = set()
    for word in ("accept", "route", "residual", "filters", "philox"):
        found = definitions(CSRC / "core" / f"{word}.h")
        assert found, f"core/{word}.h defines nothing"
        rules |= found
    for path in CXX:
        if path.relative_to(CSRC).parts[0] == "core":
            continue
        assert not rules & definitions(path), relative(path)
        assert "D2511F53" not in path.read_text().upper(), "Philox constants outside core/"


def test_reference_is_independent():
    for path in PYTHON:
        if "reference" in path.relative_to(ROOT / "via_ext").parts[0]:
            others = {n for n in uses(path, "via_ext") if not n.startswith("via_ext.reference")}
            assert others <= {"via_ext"}, f"{relative(path)} imports {others}"


@pytest.mark.parametrize("path", PYTHON, ids=relative)
def test_imports_point_downward(path):
    part = path.relative_to(ROOT / "via_ext").parts[0].removesuffix(".py")
    if part not in {"models", "drafters", "engines", "decode", "demo", "cli", "compat"}:
        assert not uses(path, "transformers"), relative(path)
    if part in {"ops", "torch_ops", "config", "tree", "route", "stats", "_build"}:
        above = uses(path, *(f"via_ext.{n}" for n in ("decode", "engines", "models", "drafters")))
        assert not above, f"{relative(path)} imports {above}"
    if part not in {"ops", "_build"}:
        assert not uses(path, "via_ext._C"), f"{relative(path)} goes around via_ext.ops"


def test_exported_names_are_no_modules():
    """Importing via_ext.x sets the attribute x: it must not replace a function of that name."""
    import via_ext

    modules = {p.name.removesuffix(".py") for p in (ROOT / "via_ext").iterdir()}
    hidden = {name for name, module in via_ext._EXPORTS.items() if module and name in modules}
    assert not hidden, f"modules that hide what via_ext exports: {hidden}"


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_licence_line_and_size(path):
    lines = path.read_text().splitlines()
    if not lines:
        return
    assert any("SPDX-License-Identifier: Apache-2.0" in line for line in lines[:2])
    if path.name == "setup.py":
        limit = 60
    elif path.suffix == ".py":
        limit = 300 if "tests" in path.parts else 250
    else:
        limit = MAX_LINES.get(path.relative_to(CSRC).parts[0], 250)
    assert len(lines) <= limit, f"{relative(path)} has {len(lines)} lines, at most {limit}"
