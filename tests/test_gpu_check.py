# SPDX-License-Identifier: Apache-2.0
"""profiling/gpu_check.py without a GPU: budget, kills, partial results, reports, STATUS.md."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PROFILING = Path(__file__).resolve().parent.parent / "profiling"
sys.path.insert(0, str(PROFILING))

import check_golden  # noqa: E402
import check_plan  # noqa: E402
import check_tests  # noqa: E402
import gpu_check  # noqa: E402
import machine  # noqa: E402
from check_item import Item, Setting  # noqa: E402
from check_report import COLUMNS, Report, Result  # noqa: E402
from check_runner import Budget, Ended, run  # noqa: E402

SMI = "echo 'NVIDIA Test, 1.2.3, 9.0'"
FACTS = dict.fromkeys(COLUMNS[5:], "x")


def tool(folder, name, script):
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.fixture
def tools(tmp_path, monkeypatch):
    """A folder that is all of PATH, apart from the shell's own programs."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.setenv("VIA_EXT_COMMIT", "")
    return folder


def rows_of(folder):
    with (folder / "gpu_check.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def outcomes(folder):
    return {row["item"]: row["outcome"] for row in rows_of(folder)}


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_for(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_without_a_gpu_it_says_so(tools, tmp_path, capsys):
    tool(tools, "nvidia-smi", "echo 'No devices were found'; exit 6")
    assert gpu_check.main(["--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err == (
        "gpu-check: no NVIDIA GPU is visible (nvidia-smi shows none)\n"
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("wrong", [["--stages", "built"], ["--budget-s", "0"]])
def test_usage_errors(wrong):
    with pytest.raises(SystemExit) as error:
        gpu_check.main(wrong)
    assert error.value.code == 2


def test_dry_run_prints_the_plan_and_does_nothing(tools, tmp_path, capsys):
    tool(tools, "nvidia-smi", SMI)
    tool(tools, "nvcc", "exit 1")
    tool(tools, "cmake", "exit 1")
    arguments = ["--dry-run", "--out", str(tmp_path / "out"), "--build-dir", str(tmp_path / "b")]
    stages = ["--stages", ",".join(check_plan.STAGES)]
    assert gpu_check.main(arguments + stages) == 0
    text = capsys.readouterr().out
    assert "NVIDIA Test, driver 1.2.3" in text
    assert "-DCMAKE_CUDA_ARCHITECTURES=90a-real" in text
    for word in ("configure", "module", "test_compact_kv", "test_verify_law", "bench_ops", "s0"):
        assert word in text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bin"]


def test_a_failed_build_leaves_the_rest_with_a_reason(tools, tmp_path):
    tool(tools, "nvidia-smi", SMI)
    tool(tools, "nvcc", "echo 'Cuda compilation tools, release 13.0, V13.0.88'")
    tool(
        tools,
        "cmake",
        'case "$*" in *--build*) echo "no rule"; exit 3;; *) echo "-- via: x";; esac',
    )
    out = tmp_path / "out"
    arguments = ["--out", str(out), "--build-dir", str(tmp_path / "b"), "--commit", "abc"]
    assert gpu_check.main([*arguments, "--stages", "build,tests,bench"]) == 1
    rows = {row["item"]: row for row in rows_of(out)}
    assert (rows["configure"]["outcome"], rows["configure"]["detail"]) == ("passed", "x")
    assert (rows["module"]["outcome"], rows["module"]["detail"]) == ("failed", "exit 3: no rule")
    assert rows["import"]["outcome"] == rows["bench_ops"]["outcome"] == "skipped"
    assert rows["bench_ops"]["detail"] == "module did not pass"
    assert (
        rows["module"] | {"gpu": "NVIDIA Test", "driver": "1.2.3", "cuda": "13.0"} == rows["module"]
    )
    assert rows["module"]["commit"] == "abc" and "no rule" in (out / "gpu_check.log").read_text()


def test_an_end_from_outside_keeps_what_is_done(tools, tmp_path):
    tool(tools, "nvidia-smi", SMI)
    tool(tools, "nvcc", "exit 1")
    slow = f"sleep 60 & echo $! > {tmp_path}/pid; wait"
    tool(tools, "cmake", f'case "$*" in *--build*) {slow};; esac')
    command = [sys.executable, str(PROFILING / "gpu_check.py"), "--build-dir", str(tmp_path / "b")]
    process = subprocess.Popen([*command, "--out", str(tmp_path / "out"), "--commit", "abc"])
    wait_for(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().strip())
    assert outcomes(tmp_path / "out") == {"configure": "passed"}
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 143
    assert outcomes(tmp_path / "out") == {"configure": "passed"}
    pid = int((tmp_path / "pid").read_text())
    wait_for(lambda: not is_running(pid))


@pytest.mark.parametrize("kind", ["polite", "stubborn", "own session"])
def test_a_timeout_ends_everything(tmp_path, kind):
    ignore = "trap '' TERM;" if kind == "stubborn" else ""
    child = "setsid sleep 60" if kind == "own session" else "(sleep 60; sleep 60)"
    script = f"{ignore} echo begun; {child} & echo $!; wait; wait"
    begin = time.monotonic()
    ended = run(["sh", "-c", script], tmp_path / "log", 0.5)
    assert ended.timed_out and ended.returncode == 124 and time.monotonic() - begin < 15
    first, pid = ended.output.split()[:2]
    assert first == "begun"
    wait_for(lambda: not is_running(int(pid)), 2)
    assert ended.reason().startswith("stopped after")


def test_run_reports_exit_codes_and_missing_programs(tmp_path):
    log = tmp_path / "log"
    ended = run(["sh", "-c", "echo a; echo $WORD >&2; exit 7"], log, 20, {"WORD": "b"})
    assert (ended.returncode, ended.output, ended.timed_out) == (7, "a\nb\n", False)
    assert run(["/no/such/program"], log, 20).returncode == 127
    assert log.read_text().count("$ ") == 2


def test_nothing_starts_that_cannot_end_in_time(tmp_path):
    now = [0.0]
    budget = Budget(100, margin=10, clock=lambda: now[0])
    assert budget.timeout(50, 70) == 70 and budget.timeout(50, 1000) == 90
    assert budget.timeout(91, 1000) is None
    assert budget.part(0.5).left() == 45
    now[0] = 200.0
    assert budget.left() == 0.0
    item = Item("late", ["false"], 5, 10)
    assert list(gpu_check.run_item(item, budget, tmp_path / "log", set())) == [
        Result("late", "skipped", "needs about 5 s, 0 s left")
    ]


def test_commands_see_the_source_tree_first(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/more")
    item = Item("path", ["sh", "-c", "echo $PYTHONPATH"], 1, 10)
    (row,) = gpu_check.run_item(item, Budget(20), tmp_path / "log", set())
    assert row.detail == f"{machine.ROOT}:/more"


def test_stages_share_the_time_and_a_command_knows_its_part(tmp_path, monkeypatch):
    def stage(setting):
        yield Item("told", ["echo", "{budget}"], 1, 1e9)

    monkeypatch.setattr(gpu_check, "STAGES", {"tests": stage, "sanitize": stage})
    report = Report(tmp_path / "gpu_check.csv", FACTS)
    setting = Setting(tmp_path, "90a-real", tmp_path / "b")
    gpu_check.run_stages(["tests", "sanitize"], setting, report, Budget(112))
    told = [int(row["detail"]) for row in rows_of(tmp_path)]
    # Weights 3 and 2; what the first stage did not use goes to the second.
    assert 50 <= told[0] <= 56 and 90 <= told[1] <= 100 and not report.failed


def test_rows_of_earlier_runs_stay(tmp_path):
    path = tmp_path / "gpu_check.csv"
    Report(path, FACTS).add("build", Result("a", "passed"))
    second = Report(path, FACTS)
    second.add("build", Result("b", "failed", "two\nlines", 1.26))
    assert second.failed and outcomes(tmp_path) == {"a": "passed", "b": "failed"}
    assert rows_of(tmp_path)[1]["detail"] == "two lines"
    path.write_text("other,columns\n1,2\n")
    Report(path, FACTS)
    assert rows_of(tmp_path) == []


def test_junit_and_cut_off_output(tmp_path):
    report = tmp_path / "r.xml"
    report.write_text(
        "<testsuites><testsuite><testcase name='a'/><testcase name='b'><failure/></testcase>"
        "<testcase name='c'><skipped/></testcase><testcase name='d'><error/></testcase>"
        "</testsuite></testsuites>"
    )
    (row,) = check_tests.judge("t", report, Ended(1, 2.0, "", False))
    assert row == Result("t", "failed", "passed 1, failed 2, skipped 1: b d", 2.0)
    text = "t.py::x[ops-cuda] PASSED [ 1%]\nt.py::y FAILED [ 2%]\nt.py::z "
    (row,) = check_tests.judge("t", tmp_path / "none.xml", Ended(124, 9.0, text, True))
    assert row.outcome == "failed" and row.detail.startswith(
        "passed 1, failed 1, skipped 0: y; stop"
    )
    (row,) = check_tests.judge("t", report, Ended(5, 1.0, "", False))
    assert row.outcome == "skipped"


def test_packages_that_tests_need_and_lack(tmp_path):
    folder = tmp_path / "tests"
    folder.mkdir()
    (folder / "test_a.py").write_text("import os\nfrom tests import helper\nimport torch.nn\n")
    (folder / "helper.py").write_text("from no_such_package.part import x\nimport via_ext\n")
    assert check_tests.missing_modules(folder / "test_a.py", tmp_path) == ["no_such_package"]


def test_primitives_are_compared_byte_by_byte(tmp_path):
    for side, values in {"device": {"a": b"1234", "b": b"12345678", "c": b"1"}, "host": {}}.items():
        (tmp_path / side).mkdir()
        for name, value in (values or {"a": b"1234", "b": b"1234567x", "d": b"1"}).items():
            (tmp_path / side / f"{name}.bin").write_bytes(value)
    results = {r.item: r for r in check_golden.compare(tmp_path / "device", tmp_path / "host")}
    assert results["prim a"].outcome == "passed"
    assert results["prim b"].detail.startswith(
        "1 of 2 words differ, the first at 1: device 35363738"
    )
    assert results["prim c"].outcome == results["prim d"].outcome == "failed"
    (nothing,) = check_golden.compare(tmp_path / "bin", tmp_path / "bin")
    assert nothing.outcome == "failed"


@pytest.mark.parametrize(
    ("code", "output", "expected"),
    [
        (0, "========= ERROR SUMMARY: 0 errors", ("passed", "0 errors")),
        (99, "========= ERROR SUMMARY: 2 errors", ("failed", "2 errors")),
        (0, "all fine", ("failed", "exit 0: all fine")),
        (
            1,
            "========= Error: Device not supported\n========= ERROR SUMMARY: 0 errors",
            ("skipped",),
        ),
    ],
)
def test_what_the_sanitizer_says(code, output, expected):
    (row,) = check_plan.sanitized("memcheck x", Ended(code, 1.0, output, False))
    assert (row.outcome, row.detail)[: len(expected)] == expected
    if row.outcome == "skipped":
        assert row.detail == "compute-sanitizer did not run: Error: Device not supported"


def test_the_mains_follow_from_the_sources(tmp_path):
    folder = tmp_path / "tests" / "simt"
    folder.mkdir(parents=True)
    for name in ("verify_main.cpp", "golden_main.cpp", "simt_rt.cpp"):
        (folder / name).touch()
    (folder / "errors_main.cpp").write_text("// Errors of the simulation. Host compilers only.\n")
    setting = Setting(tmp_path, "90a-real", tmp_path / "b", root=tmp_path)
    assert setting.mains() == ["verify_main"]
    plan = [(item.name, item.skip) for item in check_plan.sanitize(setting)]
    assert plan[0] == ("plain verify_main", "verify_main was not built")
    assert [name for name, _ in plan] == [
        f"{k} verify_main" for k in ("plain", "memcheck", "racecheck")
    ]
    assert [item.name for item in check_plan.golden(setting)][-1] == "primitives"


def test_gpu_and_commit(tools, monkeypatch, tmp_path):
    tool(tools, "nvidia-smi", "echo 'A, 1, 12.0'; echo 'B, 1, 9.0'")
    gpu = machine.find_gpu()
    assert gpu is not None and (gpu.name, gpu.architecture) == ("A", "120-real")
    monkeypatch.setattr(machine, "ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    os.environ["VIA_EXT_COMMIT"] = "given"
    assert machine.commit() == "given"
