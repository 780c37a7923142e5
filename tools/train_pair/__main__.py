# SPDX-License-Identifier: Apache-2.0
"""Train the embedded pair: `python tools/train_pair target`, then `drafter`, then `export`.

Everything is counted in steps and seeded; an interrupted run goes on from its last checkpoint
when the same command is given again. See via_ext/demo/MODEL_CARD.md for what came out.
"""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from typing import Annotated

import torch.multiprocessing as mp
import typer

sys.path.insert(0, str(Path(__file__).parent))

import corpus
import drafter as drafter_training
import export as exporting
import target as target_training
from curve import plot
from objective import Weights

app = typer.Typer(add_completion=False, no_args_is_help=True)
ROOT = Path(__file__).parents[2]
DEMO = ROOT / "via_ext" / "demo"
TOKENIZER = DEMO / "tokenizer.json"

Folder = Annotated[Path, typer.Option(help="checkpoints, logs and the encoded text")]
Processes = Annotated[int, typer.Option(help="processes of one thread each")]
Seed = Annotated[int, typer.Option(help="of weights, batches and routes")]
Compiled = Annotated[bool, typer.Option(help="compile the sublayers (needs a C++ compiler)")]


def _port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@app.callback()
def main() -> None:
    """Train the embedded pair."""


@app.command()
def target(
    folder: Folder = Path("build/pair"),
    steps: Annotated[int, typer.Option(help="8192 tokens each, with two processes")] = 2200,
    processes: Processes = 2,
    seed: Seed = 0,
    slim: Annotated[float, typer.Option(help="weight of KL(full || slim) on the slim path")] = 2.0,
    full: Annotated[float, typer.Option(help="the same on the full model")] = 0.5,
    compiled: Compiled = True,
) -> None:
    """Train the 12-layer target and its slim path."""
    tokens = corpus.encode(TOKENIZER, folder)
    weights = Weights(slim=slim, full=full)
    arguments = (processes, _port(), folder, tokens, steps, seed, weights, compiled)
    mp.spawn(target_training.train, arguments, nprocs=processes)


@app.command()
def drafter(
    folder: Folder = Path("build/pair"),
    steps: Annotated[int, typer.Option(help="8192 tokens each, with two processes")] = 1500,
    processes: Processes = 2,
    seed: Seed = 0,
    compiled: Compiled = True,
) -> None:
    """Train the 1-layer drafter, after the target."""
    tokens = corpus.encode(TOKENIZER, folder)
    arguments = (processes, _port(), folder, tokens, steps, seed, compiled)
    mp.spawn(drafter_training.train, arguments, nprocs=processes)


@app.command()
def export(
    folder: Folder = Path("build/pair"),
    to: Annotated[Path, typer.Option(help="folder of the package's files")] = DEMO,
) -> None:
    """Write weights, route and manifest as via_ext.demo reads them."""
    exporting.export(folder, to)


@app.command()
def manifest(
    to: Annotated[Path, typer.Option(help="folder of the package's files")] = DEMO,
) -> None:
    """Renew the manifest, for instance after route.json was searched or calibrated."""
    exporting.write_manifest(to)


@app.command()
def curve(folder: Folder = Path("build/pair")) -> None:
    """Plot the logs of both trainings to FOLDER/curve.png."""
    plot(folder)


if __name__ == "__main__":
    app()
