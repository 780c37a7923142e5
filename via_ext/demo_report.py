# SPDX-License-Identifier: Apache-2.0
"""How `via-ext demo` shows its measurements: the table, and why the fastest row is the fastest."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from via_ext.demo_methods import METHODS
from via_ext.demo_table import PassCost, Row
from via_ext.route import SlimRoute

# Narrower terminals get one block per row instead of a table with broken cells.
TABLE_WIDTH = 78
HEADINGS = (
    "tokens/s",
    "ratio",
    "slim/tok",
    "full/tok",
    "acc/reg/esc",
    "reject",
    "agree",
)
NOTES = (
    "ratio: to plain greedy. slim/tok, full/tok: passes per token. acc/reg/esc: verdicts of the "
    "slim verifier in %. reject: examined draft tokens not kept. agree: tokens that are the full "
    "model's first choice in their context. *: fastest at this agreement or a better one. Exact "
    "three-tier drafts and audits as the route's calibration says."
)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def cells(row: Row) -> list[str]:
    """The row's values as text, in the order of HEADINGS."""
    routes = "-"
    if row.accept is not None and row.regenerate is not None and row.escalate is not None:
        routes = "/".join(f"{100 * x:.0f}" for x in (row.accept, row.regenerate, row.escalate))
    return [
        f"{row.tokens_per_second:.0f}",
        f"{row.ratio:.2f}",
        f"{row.slim_per_token:.2f}",
        f"{row.full_per_token:.2f}",
        routes,
        _share(row.rejection),
        f"{row.agreement:.3f}",
    ]


def render(rows: Sequence[Row], width: int) -> RenderableType:
    """A table, or blocks of lines where the console is narrow.

    Args:
        rows: measurements.
        width: of the console, in characters.
    """
    if width < TABLE_WIDTH:
        return _blocks(rows)
    table = Table(box=box.SIMPLE, pad_edge=False, padding=0)
    table.add_column("", no_wrap=True)
    for heading in HEADINGS:
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            f"{'*' if row.fastest else ' '} {row.name}",
            *cells(row),
            style="bold" if row.fastest else None,
        )
    return table


def _blocks(rows: Sequence[Row]) -> Text:
    text = Text()
    for row in rows:
        style = "bold" if row.fastest else ""
        text.append(f"\n{'*' if row.fastest else ' '} {row.name}\n", style=style)
        for heading, cell in zip(HEADINGS, cells(row), strict=True):
            text.append(f"    {heading:<12}{cell:>12}\n")
    return text


def break_even(cost: PassCost, route: SlimRoute) -> float:
    """Share of steps that may need the full model before the third tier loses.

    A step costs slim + P (1 - shared) instead of 1, at equal tokens per step (docs/design.md,
    equation 10): `(1 - slim/full) / (1 - shared prefix)`, capped to [0, 1].
    """
    shared = route.shared_prefix / route.num_layers
    return min(1.0, max(0.0, (1.0 - cost.slim / cost.full) / (1.0 - shared)))


def verdict(rows: Sequence[Row], cost: PassCost, route: SlimRoute) -> str:
    """Sentences that name the fastest rows and say why, from these measurements alone."""
    by_name = {row.name: row for row in rows}
    two, via, exact = (by_name[METHODS[key].name] for key in ("two-tier", "via", "exact"))
    limit = break_even(cost, route)
    winners = [
        f"{row.name} ({row.ratio:.2f}x, agreement {row.agreement:.3f})"
        for row in rows
        if row.fastest
    ]
    said = [f"Fastest: {', '.join(winners)}."]
    said.append(
        f"A slim pass takes {cost.slim / cost.full:.2f} of a full one here, so at equal tokens per "
        f"step the third tier pays while fewer than {100 * limit:.0f}% of the steps call the full "
        f"model: {100 * via.full_per_step:.0f}% of the via steps do."
    )
    said.append(_via_reason(via, two, limit))
    said.append(
        f"Exact three-tier is {_times(exact, two)} two-tier exact: each of its tokens is checked "
        f"by both verifiers ({exact.slim_per_token:.2f} slim and {exact.full_per_token:.2f} full "
        f"passes per token against {two.full_per_token:.2f} full)."
    )
    return " ".join(said)


def _times(row: Row, other: Row) -> str:
    return f"{row.ratio / other.ratio if other.ratio else 0.0:.2f} times as fast as"


def _via_reason(via: Row, two: Row, limit: float) -> str:
    start = f"via is {_times(via, two)} two-tier exact at {via.tokens_per_step:.2f} tokens per step"
    start += f" against {two.tokens_per_step:.2f}"
    lossy = f"{100 * (1 - via.agreement):.0f}% of its tokens are not the full model's choice"
    if via.ratio <= two.ratio:
        return f"{start}: the slim passes cost more than the full passes they save, and {lossy}."
    if via.full_per_step < limit:
        return f"{start}: it saves full passes and is lenient, {lossy}."
    return f"{start}: the gain is leniency, not saved passes: {lossy}."


def show(rows: Sequence[Row], cost: PassCost, route: SlimRoute, console: Console) -> None:
    """Print table, notes and verdict."""
    console.print(render(rows, console.width))
    console.print(Text(NOTES, style="dim"))
    console.print()
    console.print(Text(verdict(rows, cost, route)))
