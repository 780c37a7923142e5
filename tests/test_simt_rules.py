# SPDX-License-Identifier: Apache-2.0
"""What kernel sources must not contain, or the simulation could not run or judge them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.simt import mutate

ROOT = Path(__file__).resolve().parent.parent
SIMT = ROOT / "tests" / "simt"
# Below the primitives (prim.cuh), and a check that only ever runs on a GPU (device.cu).
EXEMPT = {"prim.cuh", "device.cu"}
KERNELS = sorted(
    path
    for folder in ("csrc/cuda", "csrc/device", "csrc/persistent", "tests/simt/planted")
    for path in (ROOT / folder).glob("*.cu*")
    if path.name not in EXEMPT
)
LAYER = sorted(p for p in SIMT.rglob("*") if p.suffix in {".h", ".cpp", ".cuh", ".py"})
FORBIDDEN = {
    r"\basm\b": "a function of device/prim.cuh",
    r"__shared__": "SMEM or DYN_SMEM",
    r"<<<": "LAUNCH or LAUNCH_COOP",
    r"__activemask": "an explicit mask",
    r"\bvolatile\b": "prim::ld_acquire and prim::st_release",
    r"\b__(?:shfl|any|all|ballot)(?:_up|_down|_xor)?\s*\(": "the _sync form",
    r"\batomic\w+\s*\([^;]*<\s*(?:float|double)\s*\*\s*>": "a reduction in fixed order",
    r"\batomic\w+\s*\(\s*\(\s*(?:float|double)\s*\*": "a reduction in fixed order",
    r"\bclock(?:64)?\s*\(": "prim::global_timer_ns",
    r"\bmem(?:cpy|set|move)\s*\(": "an assignment, which the race build sees",
    r"#include\s*<cuda/|#include\s*<cub/": "device/reduce.cuh or a function of device/prim.cuh",
}


def code_of(path: Path) -> str:
    return re.sub(r"//[^\n]*|/\*.*?\*/", "", path.read_text(), flags=re.DOTALL)


@pytest.mark.parametrize("path", KERNELS, ids=lambda path: str(path.relative_to(ROOT)))
def test_kernels_stay_above_the_primitives(path):
    code = code_of(path)
    for pattern, instead in FORBIDDEN.items():
        match = re.search(pattern, code)
        assert match is None, f"{match.group()!r}: use {instead}"


@pytest.mark.parametrize("path", KERNELS, ids=lambda path: str(path.relative_to(ROOT)))
def test_waiting_loops_let_others_run(path):
    """Every loop on an acquire load calls prim::spin, or poll() of a Watchdog, which does."""
    for loop in re.finditer(r"while \([^;{]*ld_acquire[^;{]*(?:;|\{[^}]*\})", code_of(path)):
        assert re.search(r"\bspin\(\)|\bpoll\(\)", loop.group()), loop.group()


@pytest.mark.parametrize("path", LAYER, ids=lambda path: str(path.relative_to(SIMT)))
def test_licence_and_size_of_the_layer(path):
    lines = path.read_text().splitlines()
    assert not lines or "SPDX-License-Identifier: Apache-2.0" in lines[0]
    assert len(lines) <= 250


def test_rules_see_what_they_forbid():
    samples = [
        'asm volatile("trap;");',
        "__shared__ float x[3];",
        "kernel<<<1, 32>>>();",
        "__activemask()",
        "volatile int* p;",
        "__shfl_xor(v, 1)",
        "atomicAdd(reinterpret_cast<float*>(p), 1.0f)",
        "atomicAdd((double*)p, 1.0)",
        "clock64()",
        "memcpy(to, from, bytes)",
        "#include <cub/block.cuh>",
    ]
    for sample, pattern in zip(samples, FORBIDDEN, strict=True):
        assert re.search(pattern, sample), sample


def test_mutants_of_a_kernel(tmp_path, monkeypatch):
    """`make mutate` takes out calls that are statements, and the order of ordered accesses."""
    source = tmp_path / "persistent" / "sample.cuh"
    source.parent.mkdir()
    source.write_text(
        "__device__ void grid_barrier(int n);  // __syncthreads();\n"
        "__syncthreads();\n"
        "if (a) prim::cp_async_wait<1>();\n"
        "prim::cp_async16(a, b);\n"
        "while (prim::ld_acquire(&f[g(1)]) != 1u) prim::spin();\n"
        "prim::st_release(flag, sum(a, b));\n"
        "x = __syncthreads_or(y);\n"
        "__syncthreads();\n"
        "__device__ bool grid_sync(int n);\n"
        "if (!grid_sync(3)) return;\n"
        "prim::cp_async_commit();\n"
    )
    monkeypatch.setattr(mutate, "ROOT", tmp_path)
    mutants = list(mutate.mutants_of(source))
    assert [(m.line, m.nth, m.call) for m in mutants] == [
        (2, 1, "__syncthreads()"),
        (3, 1, "prim::cp_async_wait<1>()"),
        (5, 1, "prim::ld_acquire(&f[g(1)])"),
        (6, 1, "prim::st_release(flag, sum(a, b))"),
        (7, 1, "__syncthreads_or(y)"),
        (8, 2, "__syncthreads()"),
        (10, 1, "grid_sync(3)"),
        (11, 1, "prim::cp_async_commit()"),
    ]
    assert "if (a) ;\n" in mutants[1].text
    assert "while ((*(&f[g(1)])) != 1u)" in mutants[2].text
    assert "(*(flag) = (sum(a, b)));\n" in mutants[3].text
    assert "x = (y);\n" in mutants[4].text
    assert "if (!true) return;\n" in mutants[6].text


def test_allowed_mutants_exist():
    """An entry whose call is gone, or has moved to another file, must go too."""
    found = {
        mutant.key
        for folder in mutate.FOLDERS
        for path in (ROOT / folder).glob("*.cuh")
        for mutant in mutate.mutants_of(path)
    }
    for key, reason in mutate.allowed().items():
        assert key in found, key
        assert reason, key
