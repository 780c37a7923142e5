# SPDX-License-Identifier: Apache-2.0
"""Mutation test: takes one synchronisation call out of a kernel at a time, and sees who notices.

For every call the mains that include the file are rebuilt in a copy of the tree (build/mutate) and
run, by the race build and the plain build. A call that nobody misses is either superfluous or not
tested; such a mutant fails the run unless equivalent_mutants.txt names it with a reason.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))
from tests.simt import programs
from tests.simt.programs import HERE, OK, ROOT, WORDS, find_program

TREE = ROOT / "build" / "mutate" / "tree"
OBJECTS = ROOT / "build" / "mutate" / "objects"
ALLOWED = HERE / "equivalent_mutants.txt"
FOLDERS = ("csrc/cuda", "csrc/device", "csrc/persistent", "tests/simt/planted")
# Orders in which a mutant runs until one of them fails.
RACE_RUNS = (("fifo", 1), ("pct", 1), ("random", 2))
PLAIN_RUNS = (("fifo", 1), ("pct", 1), ("pct", 2), ("pct", 3), ("random", 1), ("random", 2))
NAMES = {
    programs.WRONG: "wrong",
    programs.LAYER_ERROR: "error",
    programs.SANITIZER: "sanitizer",
    programs.HANG: "hang",
}
# A call that stands as a statement of its own, and calls whose order is weakened in place.
STATEMENT = re.compile(
    r"[\w:.]*(?:(?<!a)sync|wait|fence|barrier|bar_named|commit|arrive|drain)\w*(?:<[^;()]*>)?\("
)
ORDERED = re.compile(r"prim::(st_release|add_acq_rel|ld_acquire)\(")
# Barriers whose result is used: the value stays, as a thread that arrives alone would have it.
VALUED = re.compile(r"\b(__syncthreads_or|grid_wait|grid_sync|step_sync)\(")
USED = re.compile(r"(?:\breturn|[=!(&|,?:])\s*$")


@dataclass(frozen=True)
class Mutant:
    path: str  # relative to the root
    line: int
    call: str
    nth: int  # of the calls with this text in the file, from 1
    text: str  # of the whole file

    @property
    def key(self) -> tuple[str, str, int]:
        return self.path, self.call, self.nth


def closing(text: str, start: int) -> int:
    """Index behind the parenthesis that closes the one before `start`."""
    depth = 1
    while depth:
        depth += {"(": 1, ")": -1}.get(text[start], 0)
        start += 1
    return start


def arguments(call: str) -> list[str]:
    """The arguments of `name(a, b)`, split at the outermost commas."""
    inner, depth, parts = call[call.index("(") + 1 : -1], 0, [""]
    for letter in inner:
        depth += {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}.get(letter, 0)
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]


def weakened(call: str) -> str:
    """The same access without its order, the same value without its barrier."""
    parts = arguments(call)
    if "syncthreads_or" in call:
        return f"({parts[0]})"
    if VALUED.match(call):
        return "true"
    if "st_release" in call:
        return f"(*({parts[0]}) = ({parts[1]}))"
    if "add_acq_rel" in call:
        return f"atomicAdd({parts[0]}, {parts[1]})"
    return f"(*({parts[0]}))"


def mutants_of(path: Path) -> Iterator[Mutant]:
    source = path.read_text()
    # Comments keep their length, so that positions stay.
    code = re.sub(r"//[^\n]*", lambda match: " " * len(match.group()), source)
    found: list[tuple[int, int, str]] = []
    for match in STATEMENT.finditer(code):
        end = closing(code, match.end())
        before = code[: match.start()].rstrip()
        starts = not before or before[-1] in "{};):" or before.endswith("else")
        if starts and code[end : end + 1] == ";":
            found.append((match.start(), end, ""))
    for match in (*ORDERED.finditer(code), *VALUED.finditer(code)):
        if VALUED.match(match.group()) and not USED.search(code[: match.start()]):
            continue  # a definition
        if "syncthreads_or" in match.group() and "persistent" not in path.parts:
            continue  # gathers flags of the data there, which the operations' tests look at
        end = closing(code, match.end())
        found.append((match.start(), end, weakened(source[match.start() : end])))
    seen: dict[str, int] = {}
    for start, end, replacement in sorted(found):
        call = " ".join(source[start:end].split())
        seen[call] = seen.get(call, 0) + 1
        yield Mutant(
            path=str(path.relative_to(ROOT)),
            line=source.count("\n", 0, start) + 1,
            call=call,
            nth=seen[call],
            text=source[:start] + replacement + source[end:],
        )


def allowed() -> dict[tuple[str, str, int], str]:
    """equivalent_mutants.txt: path | call | nth | reason."""
    entries = {}
    for line in ALLOWED.read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            path, call, nth, reason = (part.strip() for part in line.split("|", 3))
            entries[path, call, int(nth)] = reason
    return entries


def copy_tree() -> None:
    """Brings the copy up to date; unchanged files keep their times, and their objects."""
    for folder in ("csrc", "tests/simt"):
        for source in (ROOT / folder).rglob("*"):
            target = TREE / source.relative_to(ROOT)
            if source.is_dir() or "__pycache__" in source.parts:
                continue
            if not target.exists() or target.read_bytes() != source.read_bytes():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(source, target)


def compile_words(words: list[str], jobs: int) -> None:
    targets = [f"{word}_{build}" for word in words for build in ("plain", "race")]
    command = [str(find_program("ninja")), "-C", str(OBJECTS), f"-j{jobs}", *targets]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise RuntimeError(result.stdout[-3000:])


def users() -> dict[str, set[str]]:
    """Path of a kernel file -> words of the mains that include it, as the compiler saw it."""
    command = [str(find_program("ninja")), "-C", str(OBJECTS), "-t", "deps"]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found: dict[str, set[str]] = {}
    word = None
    for line in listing.splitlines():
        if line and not line.startswith(" "):
            match = re.search(r"/(\w+)_main\.cpp\.o:", line)
            word = match.group(1) if match else None
        elif word and str(TREE) in line:
            found.setdefault(str(Path(line.strip()).relative_to(TREE)), set()).add(word)
    return found


def verdict(words: list[str], build: str, runs: tuple[tuple[str, int], ...]) -> str:
    """How the first run that failed ended, and which it was; "-" if all passed."""
    for schedule, seed in runs:
        for word in words:
            program = OBJECTS / f"{word}_{build}"
            status = programs.run(program, schedule=schedule, seed=seed, limit_s=60).status
            if status != OK:
                return f"{NAMES.get(status, 'crash')} ({schedule} {seed})"
    return "-"


def judge(mutant: Mutant, words: list[str], jobs: int) -> tuple[str, str]:
    """What the race build and the plain build say of a mutant."""
    target = TREE / mutant.path
    original = target.read_bytes()
    target.write_text(mutant.text)
    try:
        compile_words(words, jobs)
        return verdict(words, "race", RACE_RUNS), verdict(words, "plain", PLAIN_RUNS)
    except RuntimeError:
        return "not compiled", "not compiled"
    finally:
        target.write_bytes(original)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--only", default="", help="only files whose path contains this")
    parser.add_argument("--limit", type=int, help="at most so many mutants")
    parser.add_argument("--list", action="store_true", help="show the mutants, run nothing")
    parser.add_argument("--jobs", type=int, default=2, help="compile so many files at a time")
    options = parser.parse_args()

    files = [f for folder in FOLDERS for f in sorted((ROOT / folder).glob("*.cuh"))]
    files = [f for f in files if f.name != "prim.cuh" and options.only in str(f.relative_to(ROOT))]
    mutants = [mutant for f in files for mutant in mutants_of(f)][: options.limit]
    if options.list:
        print("\n".join(f"{m.path}:{m.line}  {m.call}" for m in mutants))
        return 0
    copy_tree()
    try:
        programs.build(
            OBJECTS,
            source=TREE / "tests" / "simt",
            targets=tuple(f"{word}_{build}" for word in WORDS for build in ("plain", "race")),
            jobs=options.jobs,
        )
    except programs.NotPossible as reason:
        print(f"no mutation test: {reason}", file=sys.stderr)
        return 2
    used_by, reasons, survivors = users(), allowed(), []
    print(f"{'race build':22}{'plain build':22}call taken out or weakened", flush=True)
    for mutant in mutants:
        words = sorted(used_by.get(mutant.path, ()))
        race, plain = judge(mutant, words, options.jobs) if words else ("no main", "no main")
        place = f"{mutant.path}:{mutant.line}  {mutant.call}"
        missed = race in ("-", "no main") and plain in ("-", "no main")
        note = f"  equivalent: {reasons[mutant.key]}" if missed and mutant.key in reasons else ""
        if missed and not note:
            survivors.append(place)
        print(f"{race:22}{plain:22}{place}{note}", flush=True)
    print(f"{len(mutants)} mutants, {len(survivors)} that nobody noticed")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
