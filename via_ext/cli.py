# SPDX-License-Identifier: Apache-2.0
"""The command line `via-ext`. Exit codes: 0, 1 failure, 2 usage, 130 interrupted."""

from __future__ import annotations

import json
import random
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

try:
    import typer
    from rich.console import Console
except ImportError as missing:
    raise ImportError(
        'the via-ext command needs typer and rich: pip install "via_ext[hf]"', name=missing.name
    ) from missing

from via_ext.cli_calibrate import calibrate
from via_ext.cli_common import Debug, guarded, make_console
from via_ext.cli_doctor import doctor
from via_ext.cli_evaluate import evaluate
from via_ext.cli_generate import generate
from via_ext.cli_search import search

if TYPE_CHECKING:
    import torch

    from via_ext.config import ViaConfig
    from via_ext.demo import EmbeddedPair, Prompt
    from via_ext.demo_table import PassCost, Row

app = typer.Typer(
    name="via-ext",
    help="Speculative decoding with a slim verifier inside the full model.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


class LiveMode(StrEnum):
    """Which method the live part of the demo uses."""

    via = "via"
    exact = "exact"
    two_tier = "two-tier"
    greedy = "greedy"


@app.callback()
def _main() -> None:
    """Speculative decoding with a slim verifier inside the full model."""


@app.command()
@guarded
def demo(
    *,
    prompts: Annotated[int, typer.Option(min=1, max=11, help="Prompts to decode.")] = 4,
    max_new_tokens: Annotated[int, typer.Option(min=1, max=1024, help="Per prompt.")] = 96,
    seed: Annotated[int, typer.Option(min=0, help="Which prompts, in which order.")] = 0,
    mode: Annotated[LiveMode, typer.Option(help="Method of the live part.")] = LiveMode.via,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of torch.")] = 1,
    no_table: Annotated[bool, typer.Option("--no-table", help="Live part only.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Only the table, as JSON.")] = False,
    plain: Annotated[bool, typer.Option("--plain", help="No colour, no redrawing.")] = False,
    debug: Debug = False,
) -> None:
    """Decode real text with the embedded pair, live, then compare four methods on it."""
    # Imported here: a usage error or --help must not wait for torch and transformers.
    import torch

    from via_ext import demo as pair_files
    from via_ext.config import ViaConfig

    torch.set_num_threads(threads)
    console = make_console(plain)
    pair = pair_files.load()
    chosen = random.Random(seed).sample(pair_files.prompts(), prompts)
    config = ViaConfig(max_new_tokens=max_new_tokens, seed=seed)
    if not as_json:
        _live(console, pair, chosen, mode, config)
    if as_json or not no_table:
        ids = [_encode(pair, prompt) for prompt in chosen]
        rows, cost = _measure(pair, ids, config, plain)
        _report(console, pair, rows, cost, as_json, threads)


@app.command()
@guarded
def info(
    *,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
    debug: Debug = False,
) -> None:
    """Show how this installation was built and which devices it sees."""
    facts = _facts()
    if as_json:
        print(json.dumps(facts, indent=1))
        return
    width = max(map(len, facts))
    for name, value in facts.items():
        print(f"{name:<{width}}  {value}")


def _facts() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    from via_ext._build import describe_installation

    facts = dict(describe_installation())
    try:
        facts["transformers"] = version("transformers")
    except PackageNotFoundError:
        facts["transformers"] = 'not installed: pip install "via_ext[hf]"'
    return facts


def _encode(pair: EmbeddedPair, prompt: Prompt) -> torch.Tensor:
    import torch

    return torch.tensor(pair.tokenizer.encode(prompt.text), dtype=torch.int64)


def _live(
    console: Console,
    pair: EmbeddedPair,
    prompts: list[Prompt],
    mode: LiveMode,
    config: ViaConfig,
) -> None:
    from rich.text import Text

    from via_ext.demo_methods import METHODS, make_decoder
    from via_ext.demo_view import LiveText, legend

    decoder = make_decoder(pair, METHODS[mode.value], config)
    if not console.is_terminal:
        console.print(legend())
    view = LiveText(console, pair.tokenizer, config.max_new_tokens)
    for number, prompt in enumerate(prompts, 1):
        title = f"{number}/{len(prompts)} {METHODS[mode.value].name}: {prompt.source}"
        view.show(title, prompt.text, decoder.stream(_encode(pair, prompt)[None]))
    console.print(Text())


def _measure(
    pair: EmbeddedPair, ids: list[torch.Tensor], config: ViaConfig, plain: bool
) -> tuple[list[Row], PassCost]:
    from rich.progress import BarColumn, Progress, TextColumn

    from via_ext.demo_methods import methods_for
    from via_ext.demo_table import measure, pass_cost

    # On stderr: stdout carries nothing but results. Without a terminal there is no bar at all.
    console = make_console(plain, stderr=True)
    bar = Progress(
        TextColumn("measuring"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total} runs"),
        console=console,
        transient=True,
        disable=not console.is_terminal or console.is_dumb_terminal,
    )
    with bar:
        task = bar.add_task("measuring", total=len(methods_for(pair)) * len(ids))
        rows = measure(pair, ids, config, progress=lambda: bar.advance(task))
    return rows, pass_cost(pair, 1 + config.num_nodes)


def _report(
    console: Console,
    pair: EmbeddedPair,
    rows: list[Row],
    cost: PassCost,
    as_json: bool,
    threads: int,
) -> None:
    from via_ext.demo_report import break_even, show, verdict

    if not as_json:
        show(rows, cost, pair.route, console)
        return
    data = {
        "threads": threads,
        "rows": [row.to_dict() for row in rows],
        "slim_pass_seconds": cost.slim,
        "full_pass_seconds": cost.full,
        "break_even_full_per_step": break_even(cost, pair.route),
        "verdict": verdict(rows, cost, pair.route),
    }
    print(json.dumps(data, indent=1))


for command in (generate, search, calibrate, evaluate, doctor):
    app.command()(guarded(command))


def main() -> None:
    """Entry point of the console script."""
    app()


if __name__ == "__main__":
    main()
