# SPDX-License-Identifier: Apache-2.0
"""How `via-ext doctor` shows a `Diagnosis`: tables, or blocks of lines on a narrow terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from via_ext.doctor.diagnosis import Diagnosis
from via_ext.doctor.estimates import Estimate

PASSES = ("tokens", "ms", "spread", "runs")
WAYS = ("ms/token", "tok/s", "speedup", "95 %", "agree", "draft", "audit")
CHECKS = ("predicted", "measured", "error")
NOTES = (
    "spread: interquartile range over 1.35. speedup: over plain. agree: tokens that are the full "
    "model's choice. draft: drafted tokens per step. audit: tokens of the slim verifier per audit."
)


def _grid(
    headings: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]], console: Console
) -> RenderableType:
    """Rows of a name and cells; one block of lines per row where the table would be cut."""
    table = Table(box=box.SIMPLE, pad_edge=False, padding=0)
    table.add_column("", no_wrap=True)
    for heading in headings:
        table.add_column(f" {heading}", justify="right", no_wrap=True)
    for name, cells in rows:
        table.add_row(name, *cells)
    # By itself a measure never exceeds the console's width.
    free = console.options.update(max_width=1000)
    if console.measure(table, options=free).maximum <= console.width:
        return table
    text = Text()
    for name, cells in rows:
        text.append(f"{name}\n", style="bold")
        for heading, cell in zip(headings, cells, strict=True):
            text.append(f"  {heading:<10}{cell:>14}\n")
    return text


def _way_cells(way: Estimate) -> list[str]:
    low, high = way.interval
    return [
        f"{1000 * way.seconds:.2f}",
        f"{1.0 / way.seconds:.1f}",
        f"{way.speedup:.2f}",
        f"{low:.2f}-{high:.2f}",
        f"{way.agreement:.3f}",
        str(way.draft) if way.draft else "-",
        f"{way.backlog:.0f}" if way.rounds else "-",
    ]


def show(found: Diagnosis, console: Console) -> None:
    """Prints everything."""
    facts = found.facts
    line = (
        f"{facts['dtype']} on {facts['device']}, {facts['threads']} threads; {facts['prompts']} "
        f"prompts, {facts['new_tokens']} new tokens; passes behind {facts['context']} tokens. "
        f"Route: skips {100 * facts['skip_ratio']:.0f} % of the sublayers, shares "
        f"{100 * facts['shared_prefix']:.0f} % of the layers"
        f"{', calibrated' if facts['calibrated'] else ''}."
    )
    console.print(Text(line))
    passes = []
    for row in found.passes:
        cells = [str(row["tokens"]), f"{1000 * row['seconds']:.2f}"]
        cells += [f"{1000 * row['spread']:.2f}", str(row["repeats"])]
        passes.append((row["pass"], cells))
    console.print(_grid(PASSES, passes, console))
    depths = " ".join(f"{rate:.2f}" for rate in found.acceptance)
    console.print(Text(f"First 1, 2, ... drafted tokens right: {depths}"))
    line = (
        f"Drafted tokens rejected: {found.rejection_rate:.2f}. Slim verifier: agreement "
        f"{found.agreement:.3f}, {found.slim_cost:.2f} of a full pass; {found.escalation_rate:.2f} "
        f"of via's slim passes escalate."
    )
    console.print(Text(line))
    ways = [(way.name, _way_cells(way)) for way in found.estimates]
    console.print(_grid(WAYS, ways, console))
    console.print(Text(NOTES, style="dim"))
    console.print()
    for sentence in found.verdict:
        console.print(Text(sentence))
    if found.advice:
        console.print(Text("\nWhat to change:", style="bold"))
    for sentence in found.advice:
        console.print(Text(f"- {sentence}"))
    if found.withheld:
        console.print(
            Text("\nNot advised, as the times of the passes are less certain:", style="bold")
        )
    for sentence in found.withheld:
        console.print(Text(f"- {sentence}"))
    if found.checks:
        console.print(Text("\nPredicted and measured tokens per second:", style="bold"))
        checks = [
            (check.name, [f"{check.predicted:.1f}", f"{check.measured:.1f}", f"{check.error:+.0%}"])
            for check in found.checks
        ]
        console.print(_grid(CHECKS, checks, console))
