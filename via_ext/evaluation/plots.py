# SPDX-License-Identifier: Apache-2.0
"""Plots of an evaluation, through matplotlib: PNG and SVG."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from via_ext.evaluation.report import done_methods

#: Colour and marker by kind of method.
_STYLES = {
    "plain": ("#666666", "o"),
    "transformers": ("#c46a00", "s"),
    "two-tier": ("#1f5fa8", "^"),
    "three-tier exact": ("#7a3fa0", "D"),
    "via": ("#1b8a5a", "o"),
    "slim alone": ("#a83232", "v"),
    "simulated": ("#000000", "*"),
}
_FORMATS = ("png", "svg")


def require_matplotlib() -> Any:
    """The library that draws.

    Raises:
        ImportError: it is not installed; the text names the extra.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise ImportError(
            'evaluate needs matplotlib for plots: pip install "via_ext[plot]"', name="matplotlib"
        ) from error
    return matplotlib


def draw(folder: Path, data: dict[str, Any]) -> list[str]:
    """Draws speed against agreement, acceptance by position and tier shares.

    Returns:
        Names of the files in `folder`.
    """
    matplotlib = require_matplotlib()
    from matplotlib.figure import Figure

    names = []
    # The same run gives the same bytes.
    with matplotlib.rc_context({"svg.hashsalt": "via_ext", "font.size": 8}):
        for stem, plot in (
            ("speed_agreement", _speed),
            ("acceptance_by_position", _positions),
            ("tier_shares", _tiers),
        ):
            figure = Figure(layout="constrained")
            if not plot(figure, data):
                continue
            for kind in _FORMATS:
                about = {"Date": None} if kind == "svg" else None
                figure.savefig(folder / f"{stem}.{kind}", dpi=150, metadata=about)
                names.append(f"{stem}.{kind}")
    return names


def _kind(key: str, entry: dict[str, Any]) -> str:
    if entry["simulated"]:
        return "simulated"
    if entry["kind"] == "peer":
        return "transformers"
    if entry["tiers"] == "slim alone":
        return "slim alone"
    if entry["tiers"] == "slim":
        return "via" if entry["settings"].get("mode") == "via" else "three-tier exact"
    return "plain" if entry["drafts"] == "none" else "two-tier"


def _speed(figure: Any, data: dict[str, Any]) -> bool:
    """Wall clock on the left, modelled cost on the right."""
    figure.set_size_inches(13.0, 6.0)
    panels = (
        ("speedup", "wall-clock speed over plain greedy (this machine)"),
        ("modelled_speedup", "modelled speed (weight bytes; not a measurement)"),
    )
    for axes, (name, title) in zip(figure.subplots(1, 2), panels, strict=True):
        points: dict[str, tuple[float, float]] = {}
        for key, entry in done_methods(data).items():
            row, kind = entry["summary"], _kind(key, entry)
            if row.get(name) is None:
                continue
            points[key] = (row["agreement"], row[name])
            colour, marker = _STYLES[kind]
            labels = axes.get_legend_handles_labels()[1]
            style = {"color": colour, "marker": marker, "linestyle": "none", "elinewidth": 0.6}
            errors = {"xerr": row.get("agreement_se"), "yerr": row.get(f"{name}_se")}
            label = None if kind in labels else kind
            axes.errorbar(*points[key], **errors, **style, label=label)
        axes.set_xlabel("agreement with the full model")
        axes.set_ylabel(name.replace("_", " "))
        axes.set_title(title)
        axes.grid(alpha=0.3)
        if points:
            axes.legend(fontsize=7, loc="lower left")
        _name_points(axes, points)
    return True


def _name_points(axes: Any, points: dict[str, tuple[float, float]]) -> None:
    """Names right of the axes, in the order of height, with a line to each point."""
    ordered = sorted(points, key=lambda key: points[key][1])
    for place, key in enumerate(ordered):
        axes.annotate(
            key,
            points[key],
            xytext=(1.04, (place + 0.5) / len(ordered)),
            textcoords="axes fraction",
            va="center",
            fontsize=7,
            arrowprops={"arrowstyle": "-", "linewidth": 0.3, "color": "#999999"},
            annotation_clip=False,
        )


def _positions(figure: Any, data: dict[str, Any]) -> bool:
    figure.set_size_inches(7.0, 4.5)
    axes = figure.subplots()
    for key, entry in done_methods(data).items():
        shares = entry["summary"].get("accepted_by_position")
        if not shares or entry["simulated"]:
            continue
        errors = [error or 0.0 for error in entry["summary"].get("accepted_by_position_se", [])]
        places = range(1, len(shares) + 1)
        style = {"marker": ".", "linewidth": 1.0, "elinewidth": 0.5, "label": key}
        axes.errorbar(places, shares, yerr=errors or None, **style)
    if not axes.has_data():
        return False
    axes.set_xlabel("position in the draft")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_ylabel("share of examined draft tokens that were kept")
    axes.set_ylim(0.0, 1.05)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=6, ncols=2, loc="best")
    return True


def _tiers(figure: Any, data: dict[str, Any]) -> bool:
    rows = {
        key: entry["summary"]
        for key, entry in reversed(done_methods(data).items())
        if entry["summary"].get("tier_full") is not None
    }
    figure.set_size_inches(7.0, 1.0 + 0.25 * len(rows))
    axes = figure.subplots()
    left = [0.0] * len(rows)
    parts = (
        ("tier_draft", "draft token, slim verifier accepted", "#1b8a5a"),
        ("tier_slim", "slim verifier's own", "#e0b000"),
        ("tier_full", "full model", "#1f5fa8"),
    )
    for name, label, colour in parts:
        widths = [row[name] for row in rows.values()]
        axes.barh(list(rows), widths, left=left, color=colour, label=label)
        left = [begin + width for begin, width in zip(left, widths, strict=True)]
    axes.set_xlim(0.0, 1.0)
    axes.set_xlabel("share of emitted tokens by the verifier that decided")
    figure.legend(fontsize=7, loc="outside upper center", ncols=3)
    return bool(rows)
