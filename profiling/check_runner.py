# SPDX-License-Identifier: Apache-2.0
"""Runs commands inside a time budget; a command that runs out of time loses its whole group."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

GRACE_S = 3.0  # between the request to end and the kill
TAIL_BYTES = 1 << 20


class Ended(NamedTuple):
    """How a command ended, and what it wrote."""

    returncode: int
    seconds: float
    output: str  # standard output and error, the last TAIL_BYTES
    timed_out: bool

    def last_line(self) -> str:
        """The last line that says something."""
        lines = [line.strip() for line in self.output.splitlines() if line.strip()]
        return lines[-1] if lines else ""

    def reason(self) -> str:
        """Why it failed, in one line."""
        if self.timed_out:
            return f"stopped after {self.seconds:.0f} s; last line: {self.last_line()}"
        return f"exit {self.returncode}: {self.last_line()}"


class Budget:
    """Seconds left of a total, less a margin for writing the results."""

    def __init__(
        self, seconds: float, margin: float = 0.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Starts the clock."""
        self.clock = clock
        self.end = clock() + seconds - margin

    def left(self) -> float:
        """Seconds left, at least 0."""
        return max(0.0, self.end - self.clock())

    def part(self, share: float) -> Budget:
        """A budget of a share of what is left."""
        return Budget(self.left() * share, clock=self.clock)

    def timeout(self, estimate: float, limit: float) -> float | None:
        """Time that an item may take, or None if its estimate does not fit."""
        left = self.left()
        return min(limit, left) if estimate <= left else None


def processes() -> dict[int, tuple[int, str]]:
    """Parent and start time of every process."""
    found: dict[int, tuple[int, str]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rsplit(")", 1)[1].split()
        except OSError:  # it has just ended
            continue
        found[int(path.parent.name)] = (int(fields[1]), fields[19])
    return found


def descendants(leader: int) -> dict[int, str]:
    """Start times of the processes below one, whatever group they are in."""
    everyone = processes()
    below: dict[int, str] = {}
    parents = {leader}
    while parents:
        children = {pid for pid, (parent, _) in everyone.items() if parent in parents}
        below |= {pid: everyone[pid][1] for pid in children}
        parents = children
    return below


def end_group(process: subprocess.Popen[bytes], grace: float = GRACE_S) -> None:
    """Asks the group that `process` leads to end, then kills what is left of it and below it."""
    below = descendants(process.pid)
    try:
        os.killpg(process.pid, signal.SIGTERM)
        deadline = time.monotonic() + grace
        while time.monotonic() < deadline:
            process.poll()  # a leader that nobody waits for would keep its group alive
            os.killpg(process.pid, 0)
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()
    for pid, (_, started) in processes().items():
        if below.get(pid) == started:  # a number that was given again is another process
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def run(
    command: Sequence[str],
    log: Path,
    timeout: float,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> Ended:
    """Runs a command with its output appended to `log`, so that nothing of it is ever lost.

    The command gets a process group of its own, not a session: whoever ends our session ends it
    too. The group is gone when this returns, also after an exception such as SystemExit.
    """
    with log.open("ab") as file:
        file.write(f"\n$ {' '.join(command)}\n".encode())
        file.flush()
        begin, start = file.tell(), time.monotonic()
        timed_out = False
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(env or {})},
                cwd=cwd,
                process_group=0,
            )
        except OSError as error:
            file.write(f"{error}\n".encode())
            return Ended(127, 0.0, str(error), False)
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            timed_out, code = True, 124
        finally:
            end_group(process)
        seconds = time.monotonic() - start
    with log.open("rb") as written:
        written.seek(max(begin, log.stat().st_size - TAIL_BYTES))
        text = written.read().decode("utf-8", "replace")
    return Ended(code, seconds, text, timed_out)
