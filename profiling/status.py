# SPDX-License-Identifier: Apache-2.0
"""Writes STATUS.md from the CSV files beside it: what ran where, what passed, how fast.

python3 profiling/status.py [FOLDER]
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterable
from pathlib import Path

Row = dict[str, str]
RESULTS = Path(__file__).resolve().parent / "results"
# The engine first: its items may name a kernel that it runs inside.
KERNELS = ("persistent", "verify", "compact_kv", "filtered_probs", "tree_attention")
# Values of the column `rule` in bench_ops_cuda.csv.
RULES = {
    "verify": ("route", "greedy", "sample"),
    "compact_kv": ("compact_kv",),
    "filtered_probs": ("filtered_probs", "draft_sample"),
    "tree_attention": ("tree_attention",),
}
USUAL = {"B": "8", "N": "8", "V": "128256", "mode": "graph", "filters": "", "drafts": "chain"}
CLOSING = (
    "A file named here holds the numbers; a number that stands in no file here is not claimed."
)


def read(path: Path) -> list[Row]:
    """Rows of a CSV, none if it is not there."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def kernel_of(item: str) -> str:
    """The kernel that an item of gpu_check exercises, or ""."""
    return next((name for name in KERNELS if name in item), "")


def latest(rows: Iterable[Row], *keys: str) -> list[Row]:
    """The newest row of every key that ran, else the newest; rows are in the order of time."""
    newest: dict[tuple[str, ...], Row] = {}
    for row in rows:
        key = tuple(row.get(name, "") for name in keys)
        if key not in newest or row.get("outcome") != "skipped":
            newest[key] = row
    return list(newest.values())


def tally(rows: list[Row]) -> str:
    """Outcomes of some items, with the names of those that did not pass."""
    if not rows:
        return "not run"
    parts = []
    for outcome in ("passed", "failed", "skipped"):
        items = [row["item"] for row in rows if row["outcome"] == outcome]
        if items:
            names = "" if outcome == "passed" else f" ({', '.join(items)})"
            parts.append(f"{len(items)} {outcome}{names}")
    return ", ".join(parts)


def origin(rows: list[Row]) -> str:
    """Commits and dates that rows come from."""
    found = {(row["commit"], row["date"][:10]) for row in rows if row["outcome"] != "skipped"}
    return ", ".join(f"{commit} ({date})" for commit, date in sorted(found, key=lambda x: x[::-1]))


def number(row: Row, name: str) -> float:
    """A value of a row, 0 where there is none."""
    return float(row.get(name) or 0)


def speed(rows: list[Row], kernel: str) -> str:
    """The usual case of every rule, and how many cases reach their goal."""
    ours = [row for row in rows if row["impl"] == "via_ext" and row["p50_us"]]
    rules = RULES.get(kernel, ())
    mine = [row for row in ours if row["rule"] in rules and row["mode"] == "graph"]
    if not mine:
        return "not timed"
    said = []
    if kernel == "verify":
        usual = [row for row in mine if all(row[key] == value for key, value in USUAL.items())]
        for row in usual:
            if row["right"] == row["N"]:
                share = f"{100 * number(row, 'of_copy'):.0f} % of the copy bandwidth"
                said.append(f"{row['rule']} {row['p50_us']} us ({share})")
    good = sum(number(row, "p50_us") <= number(row, "goal_us") for row in mine)
    commits = ", ".join(sorted({row["commit"] for row in mine}))
    return "; ".join([*said, f"{good} of {len(mine)} cases within their goal, at {commits}"])


def gpu_lines(checks: list[Row], bench: list[Row]) -> list[str]:
    """One table per GPU: kernels, and what they share."""
    lines: list[str] = []
    for gpu in sorted({row["gpu"] for row in checks if row["outcome"] != "skipped"} - {""}):
        rows = latest((row for row in checks if row["gpu"] == gpu), "stage", "item")
        times = [row for row in bench if row["gpu"] == gpu]
        times = latest(times, *(times[0] if times else {}).keys() - VALUES)
        stages = {name: [row for row in rows if row["stage"] == name] for name in STAGES}
        lines += [
            f"## {gpu}",
            "",
            f"Build: {tally(stages['build'])}. "
            f"Primitives, device against host: {tally(stages['golden'])}.",
            "",
            "| kernel | commit | tests on cuda | mains, sanitizers | speed, cold L2, median |",
            "|---|---|---|---|---|",
        ]
        for kernel in KERNELS:
            own = {
                name: [r for r in stages[name] if kernel_of(r["item"]) == kernel] for name in STAGES
            }
            mains = own["persistent"] + own["sanitize"]
            if own["tests"] or mains:
                said = "see below" if kernel == "persistent" else speed(times, kernel)
                origins = origin(own["tests"] + mains) or "-"
                cells = (origins, tally(own["tests"]), tally(mains), said)
                lines.append(f"| `{kernel}` | {' | '.join(cells)} |")
        rest = [row for row in stages["tests"] + stages["sanitize"] if not kernel_of(row["item"])]
        lines += ["", f"Other checks: {tally(rest)}.", ""] if rest else [""]
    return lines


STAGES = ("build", "golden", "tests", "persistent", "bench", "s0", "sanitize")
VALUES = {
    *("p20_us", "p50_us", "p80_us", "gb_per_s", "copy_gb_per_s", "of_copy", "floor_us", "goal_us"),
    *("over_ours", "note", "driver", "torch", "cuda", "commit", "date"),
}


def cpu_line(rows: list[Row]) -> str:
    """What the CPU's benchmark holds."""
    if not rows:
        return "not timed"
    shares = [number(row, "of_bandwidth") for row in rows if not row["filters"]]
    commits = ", ".join(sorted({row["commit"] for row in rows}))
    span = f"{min(shares):.2f} to {max(shares):.2f}" if shares else "no share"
    return f"{len(rows)} cases at {commits}: {span} of the read bandwidth without filters"


def decode_lines(rows: list[Row]) -> list[str]:
    """Decoding on GPUs, one line per method; what is made up is said."""
    timed = [row for row in latest(rows, "gpu", "shape", "method") if row["tokens_per_second"]]
    if not timed:
        return []
    lines = [
        "## Decoding",
        "",
        "| GPU | models | method | tokens/s | over transformers assisted | commit |",
        "|---|---|---|---|---|---|",
    ]
    for row in timed:
        shape = row["shape"] + (" (synthetic)" if row["synthetic"] else "")
        speeds = (row["tokens_per_second"], row["over_assisted"] or "-", row["commit"])
        lines.append(f"| {' | '.join((row['gpu'], shape, row['method'], *speeds))} |")
    return [*lines, ""]


def persistent_lines(rows: list[Row]) -> list[str]:
    """Passes of the persistent engine on GPUs, beside compiled graphs."""
    found = latest(rows, "gpu", "shape", "what", "impl", "mode", "M")
    timed = [row for row in found if row["p50_us"] and row["mode"] == "graph"]
    others = {
        (row["gpu"], row["shape"], row["what"], row["M"]): number(row, "p50_us")
        for row in timed
        if row["impl"] == "compile+graph"
    }
    lines = []
    for row in timed:
        if row["impl"] != "persistent":
            continue
        time = number(row, "p50_us")
        other = others.get((row["gpu"], row["shape"], row["what"], row["M"]))
        cells = (
            *(row["gpu"], row["shape"], row["what"], row["M"], f"{time / 1e3:.3f}"),
            f"{100 * number(row, 'of_copy'):.0f} %",
            *(f"{other / time:.2f}" if other else "-", row["commit"]),
        )
        lines.append(f"| {' | '.join(cells)} |")
    if not lines:
        return []
    head = (
        "GPU | shape (made-up weights) | what | M | ms | of the copy bandwidth | compiled over ours"
    )
    return ["## Persistent engine", "", f"| {head} | commit |", f"|{'---|' * 8}", *lines, ""]


def text(folder: Path) -> str:
    """The whole file."""
    checks = read(folder / "gpu_check.csv")
    bench = read(folder / "bench_ops_cuda.csv")
    decode = read(folder / "bench_decode.csv")
    lines = [
        "# What has been measured, and where",
        "",
        "Written by `profiling/status.py` from the CSV files of this folder; do not edit.",
        "",
        "| unit | on the CPU | file |",
        "|---|---|---|",
        f"| `ops.verify` | {cpu_line(read(folder / 'bench_ops_cpu.csv'))} | `bench_ops_cpu.csv` |",
        "| `ops.compact_kv` | tested, not timed | - |",
        "| `ops.tree_attention` | tested, not timed | - |",
        "| persistent engine | tested in the simulation, not timed | - |",
        f"| decoding, embedded pair | {len(decode)} methods | `bench_decode.csv` |",
        "",
    ]
    on_gpu = gpu_lines(checks, bench)
    on_gpu += decode_lines(read(folder / "bench_decode_cuda.csv"))
    on_gpu += persistent_lines(read(folder / "bench_persistent_cuda.csv"))
    if on_gpu:
        names = ("gpu_check", "bench_ops_cuda", "bench_decode_cuda", "bench_persistent_cuda")
        files = ", ".join(f"`{name}.csv`" for name in names)
        lines += [*on_gpu, f"Files: {files}; `make gpu-check`.", ""]
    else:
        lines += [
            "Nothing in this repository has run on a GPU yet: CUDA code is compiled only. "
            "`make gpu-check` runs it where a GPU is.",
            "",
        ]
    return "\n".join([*lines, CLOSING, ""])


def write(folder: Path) -> Path:
    """Writes STATUS.md into the folder."""
    path = folder / "STATUS.md"
    path.write_text(text(folder), encoding="utf-8")
    return path


if __name__ == "__main__":
    print(f"written to {write(Path(sys.argv[1]) if len(sys.argv) > 1 else RESULTS)}")
