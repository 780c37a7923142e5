# SPDX-License-Identifier: Apache-2.0
"""An evaluation on a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from via_ext.evaluation.report import label_of, number

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from via_ext.evaluation.compare import Evaluation

#: Narrower terminals get one block per method.
_TABLE_WIDTH = 100
_SHOWN = (
    ("tokens/s", "tokens_per_second", 0, False),
    ("x greedy", "speedup", 2, True),
    ("x base", "ratio", 2, True),
    ("modelled x", "modelled_speedup", 2, True),
    ("agree", "agreement", 3, False),
    ("reject", "rejection", 2, False),
)


def show(evaluation: Evaluation, console: Console) -> None:
    """Prints the table, what was left out and where the files are."""
    from rich.text import Text

    console.print(_table(evaluation, console.width))
    left_out = [entry for entry in evaluation.data["methods"].values() if entry["reason"]]
    for entry in left_out:
        console.print(Text(f"left out: {entry['label']}: {entry['reason']}", style="dim"))
    if evaluation.folder is not None:
        places = ", ".join(evaluation.files)
        console.print(Text(f"written to {evaluation.folder}: {places}"), soft_wrap=True)


def _table(evaluation: Evaluation, width: int) -> RenderableType:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    done = {k: e for k, e in evaluation.data["methods"].items() if e["status"] == "done"}
    rows = {
        label_of(key, entry, evaluation.data): [
            number(entry["summary"], name, digits, error) for _, name, digits, error in _SHOWN
        ]
        for key, entry in done.items()
    }
    headings = [column[0] for column in _SHOWN]
    if width < _TABLE_WIDTH:
        lines = []
        for label, cells in rows.items():
            lines += [
                "",
                label,
                *(f"  {h:<12}{c:>14}" for h, c in zip(headings, cells, strict=True)),
            ]
        return Text("\n".join(lines))
    table = Table(box=box.SIMPLE, pad_edge=False, padding=(0, 1))
    table.add_column("", no_wrap=False)
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for label, cells in rows.items():
        table.add_row(label, *cells)
    return table
