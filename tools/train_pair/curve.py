# SPDX-License-Identifier: Apache-2.0
"""Plots of the training logs."""

from __future__ import annotations

import csv
from pathlib import Path


def _columns(log: Path) -> dict[str, list[float]]:
    with log.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {name: [float(row[name]) for row in rows] for name in rows[0]} if rows else {}


def plot(folder: Path) -> None:
    """curve.png in `folder`: losses and agreements against tokens, of the logs that exist.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            'the curve needs matplotlib: pip install "via_ext[plot]"', name="matplotlib"
        ) from error
    figure = Figure(figsize=(10, 4), layout="constrained")
    losses, agreements = figure.subplots(1, 2)
    for name in ("target", "drafter"):
        log = folder / f"{name}.csv"
        columns = _columns(log) if log.is_file() else {}
        for column, values in columns.items():
            if column in ("step", "tokens", "seconds", "kl"):
                continue
            share = "agreement" in column or column == "overlap"
            axis = agreements if share else losses
            millions = [count / 1e6 for count in columns["tokens"]]
            axis.plot(millions, values, label=f"{name}: {column.replace('_', ' ')}")
    losses.set_ylabel("held-out cross entropy, nats")
    agreements.set_ylabel("share of positions")
    for axis in (losses, agreements):
        axis.set_xlabel("million tokens")
        axis.legend()
    figure.savefig(folder / "curve.png", dpi=150)
