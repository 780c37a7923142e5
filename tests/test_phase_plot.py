# SPDX-License-Identifier: Apache-2.0
"""Stamps per phase: compiled out by default, written by a kernel, read and drawn."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simt import programs

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "profiling"))

import phase_plot  # noqa: E402

HEADER = ",".join(phase_plot.COLUMNS)
# Two blocks: the second one's QKV is longer, the first one waits for it.
ROWS = [
    *("0,0,qkv,0,1000,1400", "0,1,down,0,1700,2000", "0,-1,verify,-1,2100,2150"),
    *("1,0,qkv,0,1100,1600", "1,1,down,0,1700,1900", "1,-1,verify,-1,2100,2300"),
]


@pytest.fixture
def stamps(tmp_path):
    path = tmp_path / "stamps.csv"
    path.write_text("\n".join([HEADER, *ROWS]) + "\n")
    return path


def test_times_and_waits(stamps):
    read = phase_plot.read(stamps)
    assert (read[0].begin, read[-1].end) == (0, 1300)
    assert phase_plot.totals(read) == {
        "qkv": phase_plot.Total(450.0, 200.0, 1),
        "down": phase_plot.Total(250.0, 150.0, 1),
        "verify": phase_plot.Total(125.0, 0.0, 1),
    }
    assert phase_plot.table(read).splitlines()[-1] == "2 blocks, 1300 ns"
    assert "50.0%" in phase_plot.table(read).splitlines()[1]


def test_layers_are_chosen_with_what_lies_between(stamps):
    read = phase_plot.read(stamps)
    assert [stamp.kind for stamp in phase_plot.chosen(read, 0, 0)] == ["qkv", "down"] * 2
    assert phase_plot.chosen(read, None, None) == read
    with pytest.raises(ValueError, match="must name layers"):
        phase_plot.chosen(read, 3, 5)


def test_picture(stamps, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    assert phase_plot.main([str(stamps)]) == 0
    assert (tmp_path / "stamps.png").read_bytes().startswith(b"\x89PNG")
    assert "verify" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a,b\n1,2\n", "must have the columns"),
        (HEADER + "\n", "must have stamps, got none"),
        (HEADER + "\n0,0,qkv,0,20,10\n", "must end a phase behind its begin"),
    ],
)
def test_files_that_are_none(tmp_path, capsys, text, said):
    path = tmp_path / "x.csv"
    path.write_text(text)
    assert phase_plot.main([str(path)]) == 2
    assert said in capsys.readouterr().err


@pytest.fixture
def built():
    """Folder of stamps_plain and persistent_stamps_plain."""
    folder = ROOT / "build" / "simt-tests"
    try:
        programs.build(folder, targets=("stamps_plain", "persistent_stamps_plain"))
    except programs.NotPossible as reason:
        pytest.skip(str(reason))
    return folder


def test_stamps_of_a_kernel(built, tmp_path):
    path = tmp_path / "stamps.csv"
    result = programs.run(built / "stamps_plain", str(path))
    assert result.status == programs.OK, result.output
    read = phase_plot.read(path)
    totals = phase_plot.totals(read)
    assert len(phase_plot.by_block(read)) == 4
    assert {kind: total.phases for kind, total in totals.items()} == {
        **{"embed": 3, "qkv": 3, "head": 3, "verify": 1}
    }
    assert all(total.busy_ns > 0 for total in totals.values())


def test_stamps_of_a_pass(built, tmp_path):
    """Three blocks, two layers, the second one's MLP skipped."""
    path = tmp_path / "stamps.csv"
    result = programs.run(built / "persistent_stamps_plain", str(path))
    assert result.status == programs.OK, result.output
    read = phase_plot.read(path)
    assert len(phase_plot.by_block(read)) == 3
    phases = {kind: total.phases for kind, total in phase_plot.totals(read).items()}
    attention = dict.fromkeys(("qkv", "rotary", "attention", "output"), 2)
    assert phases == attention | dict.fromkeys(("embed", "save", "gate_up", "down", "head"), 1)
    first = phase_plot.chosen(read, 0, 0)
    assert {stamp.layer for stamp in first} <= {-1, 0}


def test_without_the_macro_nothing_is_left(built, tmp_path):
    """Both hooks are empty expressions: what they are given is not even looked at."""
    source = tmp_path / "sample.cpp"
    source.write_text(
        '#include "persistent/stamps.cuh"\nMARK VIA_STAMP_BEGIN(none, none), VIA_STAMP_END(none);\n'
    )
    cache = (built / "CMakeCache.txt").read_text()
    compiler, headers = (
        re.search(rf"^{name}:\w+=(.*)$", cache, re.MULTILINE).group(1)
        for name in ("CMAKE_CXX_COMPILER", "VIA_CUDA_INCLUDE")
    )
    folders = (ROOT / "csrc", ROOT / "csrc" / "include", ROOT / "tests" / "simt", headers)

    def left(*more):
        command = [compiler, "-E", "-P", "-std=c++17", *(f"-I{folder}" for folder in folders)]
        done = subprocess.run([*command, *more, source], capture_output=True, text=True, check=True)
        return done.stdout.split("MARK", 1)[1].strip()

    assert left() == "((void)0), ((void)0);"
    assert "stamp_begin(none, none)" in left("-DVIA_STAMPS")
