# SPDX-License-Identifier: Apache-2.0
"""A searched route of the embedded pair beside random ones of the same number of skips.

The search sees files of Python's library that the pair was trained on; all routes are then scored
on files that it was not trained on. Columns: how the route was made, its divergence R (equation 8)
and its agreement on the held-out text, weight bytes over the full model's, and how many standard
deviations of the random routes it lies below their mean (of R; above, for the agreement). Random
routes obey the search's constraints: first layers and last one whole.

    python profiling/bench_routes.py            # writes profiling/results/bench_routes.csv
"""

from __future__ import annotations

import csv
import random
import statistics
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.progress import track

from via_ext import demo, search_route
from via_ext.route import SlimRoute
from via_ext.scoring import DeployedScorer
from via_ext.search.costs import SublayerCosts
from via_ext.search.objective import Objective
from via_ext.search.space import RouteSpace
from via_ext.search.text import cut, library_documents

RESULTS = Path(__file__).parent / "results" / "bench_routes.csv"
MAX_BACKLOG = 32


def main(
    out: Annotated[Path, typer.Option(help="CSV file to write.")] = RESULTS,
    skip_ratio: Annotated[float, typer.Option(help="Of every route.")] = 0.45,
    masks: Annotated[int, typer.Option(min=2, help="Random routes.")] = 60,
    trials: Annotated[int, typer.Option(help="Of the search.")] = 200,
    proposals: Annotated[str, typer.Option(help="swaps or bayes.")] = "swaps",
    tokens: Annotated[int, typer.Option(help="Of either text.")] = 8192,
    length: Annotated[int, typer.Option(help="Tokens of a sequence.")] = 256,
    seed: Annotated[int, typer.Option(help="Of the search and of the random routes.")] = 0,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of torch.")] = 1,
) -> None:
    """Compare, print a summary, write one line per route."""
    torch.set_num_threads(threads)
    out.parent.mkdir(parents=True, exist_ok=True)
    pair = demo.load()
    texts = [
        cut(library_documents(held_out), pair.tokenizer, tokens, length, MAX_BACKLOG + 1)
        for held_out in (False, True)
    ]
    space = RouteSpace(pair.target.config.num_hidden_layers, skip_ratio, None)
    found = search_route(
        pair.target,
        texts[0],
        skip_ratio=skip_ratio,
        trials=trials,
        proposals=proposals,
        seed=seed,
        max_backlog=MAX_BACKLOG,
    )
    rng = random.Random(seed)
    routes = [("random", space.route(space.uniform(rng))) for _ in range(masks)]
    routes += [("searched", found.route), ("evenly", space.route(space.evenly()))]
    held_out = DeployedScorer(pair.target, texts[1], MAX_BACKLOG)
    costs = SublayerCosts.from_bytes(pair.target.config)
    score = Objective(held_out, "divergence", 0.5, 0.3, costs)
    rows = [_row(kind, route, score, costs) for kind, route in track(routes, "scoring")]
    _deviations(rows)
    with out.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    values = [row["divergence"] for row in rows if row["kind"] == "random"]
    print(
        f"{masks} random routes on {sum(held_out.lengths)} held-out tokens: mean R "
        f"{statistics.mean(values):.4f}, sd {statistics.stdev(values):.4f}, min {min(values):.4f}"
    )
    for row in rows[masks:]:
        print(
            f"{row['kind']}: R {row['divergence']:.4f}, {row['sd_below']:.2f} sd below the mean; "
            f"agreement {row['agreement']:.3f}, {row['agreement_sd_above']:.2f} sd above"
        )
    print(f"written: {out}")


def _row(kind: str, route: SlimRoute, score: Objective, costs: SublayerCosts) -> dict[str, Any]:
    value = score(route)
    skipped = [
        " ".join(str(layer) for layer, keep in enumerate(mask) if not keep)
        for mask in (route.keep_attention, route.keep_mlp)
    ]
    return {
        "kind": kind,
        "divergence": value.value,
        "agreement": value.agreement,
        "bytes": costs.slim(route),
        "skipped_attention": skipped[0],
        "skipped_mlp": skipped[1],
    }


def _deviations(rows: list[dict[str, Any]]) -> None:
    """Adds to every row how far it lies from the random ones."""
    for column, name, sign in (
        ("divergence", "sd_below", -1),
        ("agreement", "agreement_sd_above", 1),
    ):
        values = [row[column] for row in rows if row["kind"] == "random"]
        mean, deviation = statistics.mean(values), statistics.stdev(values)
        for row in rows:
            row[name] = sign * (row[column] - mean) / deviation if deviation else 0.0


if __name__ == "__main__":
    typer.run(main)
