# SPDX-License-Identifier: Apache-2.0
"""What a stage of gpu_check consists of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from check_report import Result
from check_runner import Ended
from machine import ROOT

MAINS = Path("tests/simt")
HOST_ONLY = "Host compilers only"  # in the first lines of a main that tests the simulation itself


@dataclass
class Item:
    """One command. `{budget}` in it becomes the seconds that it may take, less a margin."""

    name: str
    command: list[str]
    estimate: float  # seconds that it needs at least
    limit: float  # seconds after which it is stopped
    share: float = field(default=1.0, kw_only=True)  # of the time that its stage has left
    env: Mapping[str, str] = field(default_factory=dict)
    skip: str = ""  # the reason, if it cannot run
    needs: tuple[str, ...] = ()  # items that, if they ran, must have passed
    prepare: Callable[[], object] = tuple  # just before it starts
    judge: Callable[[Ended], Iterable[Result]] | None = None  # default: by exit code

    def results(self, ended: Ended) -> Iterator[Result]:
        """The rows that follow from how the command ended."""
        if self.judge is not None:
            yield from self.judge(ended)
        elif ended.returncode:
            yield Result(self.name, "failed", ended.reason(), ended.seconds)
        else:
            yield Result(self.name, "passed", ended.last_line(), ended.seconds)


@dataclass
class Setting:
    """What the stages need to know."""

    out: Path
    architectures: str
    build: Path = ROOT / "build" / "gpu"
    runs: bool = True  # false: only compile
    root: Path = ROOT

    @property
    def programs(self) -> Path:
        """Folder of the kernel mains."""
        return self.build / "mains"

    def mains(self) -> list[str]:
        """Names of the kernel mains for a GPU; golden has a stage of its own."""
        found = sorted((self.root / MAINS).glob("*_main.cpp"))
        found = [path for path in found if HOST_ONLY not in path.read_text()[:1000]]
        return [path.stem for path in found if path.stem != "golden_main"]
