# SPDX-License-Identifier: Apache-2.0
"""`via-ext calibrate`: fit the routing of a slim route to a requested agreement, write it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from via_ext.cli_common import Debug, make_console

if TYPE_CHECKING:
    import torch
    from rich.console import Console

    from via_ext.calibration.report import Calibrated, SettingReport

#: Shorter pieces of text say little about what follows.
_LEAST_PROMPT = 16
_TABLE_WIDTH = 110


def _option(text: str, *names: str, **more: Any) -> Any:
    return typer.Option(*names, help=text, **more)


def calibrate(
    *,
    target: Annotated[Path | None, typer.Argument(help="Folder of the model.")] = None,
    drafter: Annotated[Path | None, typer.Argument(help="Folder of a small model.")] = None,
    demo: Annotated[bool, _option("The embedded pair, on Python's own library.", "--demo")] = False,
    route: Annotated[Path | None, _option("Route file of the slim verifier.")] = None,
    two_tier: Annotated[bool, _option("Without a slim verifier.", "--two-tier")] = False,
    text: Annotated[list[Path] | None, _option("Plain text or .jsonl; may be repeated.")] = None,
    agreement: Annotated[list[float] | None, _option("In (0, 1]; may be repeated.")] = None,
    out: Annotated[Path, _option("Route file to write.")] = Path("calibrated.json"),
    prompts: Annotated[int, _option("Prompts of the text that are used.", min=2)] = 48,
    prompt_tokens: Annotated[int, _option("Most tokens of a prompt.", min=_LEAST_PROMPT)] = 96,
    max_new_tokens: Annotated[int, _option("Per prompt.", min=1)] = 96,
    held_out: Annotated[float, _option("Share of the prompts to measure on.")] = 0.3,
    num_draft_tokens: Annotated[int, _option("Longest chain.", min=1)] = 5,
    max_backlog: Annotated[int, _option("Tokens between two full passes.", min=1)] = 32,
    seed: Annotated[int, _option("Of the split and the search.", min=0)] = 0,
    as_json: Annotated[bool, _option("The report as JSON.", "--json")] = False,
    dtype: Annotated[str, _option("float32, bfloat16, float16 or auto.")] = "float32",
    threads: Annotated[int, _option("CPU threads of torch.", min=1)] = 1,
    plain: Annotated[bool, _option("No colour, no progress bar.", "--plain")] = False,
    debug: Debug = False,
) -> None:
    """Calibrate a route for requested agreements. Ctrl-C keeps the agreements that are done."""
    if demo == (target is not None) or (target is None) != (drafter is None):
        raise ValueError("calibrate: MODEL and DRAFTER, or --demo, must be given, not both")
    for value in agreement or []:
        if not 0.0 < value <= 1.0:
            raise ValueError(f"calibrate: --agreement must be in (0, 1], got {value:g}")
    if not 0.0 < held_out < 1.0:
        raise ValueError(f"calibrate: --held-out must be in (0, 1), got {held_out:g}")
    if two_tier and route is not None:
        raise ValueError("calibrate: --route must not be given with --two-tier")
    if not (demo or two_tier or route is not None):
        raise ValueError("calibrate: --route must be given (or --two-tier), got none")
    if not (demo or text):
        raise ValueError("calibrate: --text must be given, got none")
    _check_writable(out)
    # Imported here: a usage error or --help must not wait for torch and transformers.
    import torch

    from via_ext.calibration.run import AGREEMENTS
    from via_ext.calibration.run import calibrate as run

    torch.set_num_threads(threads)
    least = _check_sizes(prompts, held_out, max_new_tokens)
    model, small, tokenizer, slim = _load(target, drafter, route, dtype)
    known, unseen = _texts(text, tokenizer, prompts, prompt_tokens, held_out, least)
    with _Bar(plain) as bar:
        found = run(
            model,
            small,
            None if two_tier else slim,
            known,
            agreements=agreement or AGREEMENTS,
            held_out=held_out if unseen is None else unseen,
            max_new_tokens=max_new_tokens,
            num_draft_tokens=num_draft_tokens,
            max_backlog=max_backlog,
            seed=seed,
            progress=bar.show,
        )
    found.route.save(out, model=model)
    _report(found, out, plain, as_json)


def _check_writable(out: Path) -> None:
    # Before the work: minutes must not end with a file that cannot be written.
    if not out.parent.is_dir():
        raise ValueError(f"calibrate: --out must be in an existing folder, got {out}")
    if out.is_dir() or not os.access(out if out.exists() else out.parent, os.W_OK):
        raise ValueError(f"calibrate: --out must be a file that can be written, got {out}")


def _check_sizes(prompts: int, held_out: float, max_new_tokens: int) -> int:
    """The fewest prompts that are enough; refuses options that cannot be."""
    from via_ext.calibration.learn import MIN_TOKENS
    from via_ext.calibration.run import MIN_PROMPTS, held_out_count

    least = max(MIN_PROMPTS + 1, int((MIN_PROMPTS - 0.5) / (1.0 - held_out)))
    while least - held_out_count(least, held_out) < MIN_PROMPTS:
        least += 1
    if prompts < least:
        rule = f"be at least {least} with --held-out {held_out:g}"
        raise ValueError(f"calibrate: --prompts must {rule}, got {prompts}")
    if (prompts - held_out_count(prompts, held_out)) * max_new_tokens < MIN_TOKENS:
        rule = f"give at least {MIN_TOKENS} tokens to fit on, with --prompts {prompts}"
        raise ValueError(f"calibrate: --max-new-tokens must {rule}, got {max_new_tokens}")
    return least


def _load(target: Path | None, drafter: Path | None, route: Path | None, dtype: str) -> Any:
    """Model, drafter, tokenizer, and the route or None."""
    from via_ext.models.folder import check_same_tokenizer, load_model, load_tokenizer
    from via_ext.route import SlimRoute

    if route is not None and not route.is_file():
        raise ValueError(f"calibrate: --route must be an existing file, got {route}")
    given = None if route is None else SlimRoute.load(route)
    if target is None or drafter is None:
        from via_ext import demo

        pair = demo.load()
        return pair.target, pair.drafter, pair.tokenizer, given or pair.route
    if dtype not in ("auto", "float32", "bfloat16", "float16"):
        rule = "be one of auto, float32, bfloat16, float16"
        raise ValueError(f"calibrate: --dtype must {rule}, got {dtype}")
    model = load_model(target, "target", dtype, "calibrate")
    tokenizer = load_tokenizer(target, model, command="calibrate")
    small = load_model(drafter, "drafter", dtype, "calibrate")
    check_same_tokenizer(tokenizer, drafter, small, "calibrate")
    return model, small, tokenizer, given


def _texts(
    paths: list[Path] | None, tokenizer: Any, prompts: int, length: int, held_out: float, least: int
) -> tuple[list[torch.Tensor], list[torch.Tensor] | None]:
    """Prompts, and others to measure on where the text has a split of its own."""
    from via_ext.calibration.run import held_out_count
    from via_ext.search.text import cut, library_documents, read_documents

    def some(documents: Any, count: int) -> list[torch.Tensor]:
        return cut(documents, tokenizer, count * length, length, _LEAST_PROMPT)[:count]

    if not paths:
        measured = held_out_count(prompts, held_out)
        fitted = some(library_documents(held_out=False), prompts - measured)
        return fitted, some(library_documents(held_out=True), measured)
    try:
        documents = read_documents(paths)
    except ValueError as error:
        raise ValueError(str(error).replace("search:", "calibrate:", 1)) from None
    found = some(documents, prompts)
    if len(found) < least:
        rule = f"hold at least {least} pieces of {_LEAST_PROMPT} to {length} tokens for prompts"
        raise ValueError(f"calibrate: --text must {rule}, got {len(found)}")
    return found, None


class _Bar:
    """Progress on stderr; none without a terminal."""

    def __init__(self, plain: bool) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        console = make_console(plain, stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=plain or not console.is_terminal or console.is_dumb_terminal,
        )
        self._task = self._progress.add_task("calibrating", total=1.0)

    def __enter__(self) -> _Bar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, stage: str, done: float) -> None:
        """The callback of `calibrate`."""
        self._progress.update(self._task, completed=done, description=stage)


def _report(found: Calibrated, out: Path, plain: bool, as_json: bool) -> None:
    console = make_console(plain)
    if as_json:
        console.print_json(data=found.to_dict())
    else:
        _show(found, console)
        console.print(f"written: {out}", markup=False, soft_wrap=True)
    if not found.finished:
        make_console(plain, stderr=True).print(
            f"interrupted: {len(found.reports)} agreements were done and kept", markup=False
        )
        raise typer.Exit(130)


def _show(found: Calibrated, console: Console) -> None:
    from rich import box
    from rich.table import Table

    rows = [_cells(report) for report in found.reports]
    if console.width < _TABLE_WIDTH:
        for row in rows:
            lines = [f"  {name:<18}{value}" for name, value in row.items()]
            console.print("\n".join(["", *lines]), markup=False, soft_wrap=True)
    else:
        table = Table(box=box.SIMPLE, pad_edge=False, padding=(0, 1))
        for name in rows[0]:
            table.add_column(name, justify="right", no_wrap=True)
        for row in rows:
            table.add_row(*row.values())
        console.print(table)
    costs = "modelled in full passes per token, by bytes of weights; plain decoding costs 1"
    console.print(
        f"cost: {costs}; measured: on held-out prompts, with a 95 % interval", markup=False
    )
    cheaper = [f"{r.agreement:g}" for r in found.reports if r.skips_slim and r.gain is not None]
    if cheaper:
        text = f"at {', '.join(cheaper)} two tiers are the cheaper choice: no slim pass is made"
        console.print(text, markup=False, soft_wrap=True)


def _cells(report: SettingReport) -> dict[str, str]:
    low, high = report.interval
    shares = "/".join(f"{getattr(report, n):.2f}" for n in ("accept", "regenerate", "escalate"))
    return {
        "agreement": f"{report.agreement:g}",
        "measured": f"{report.measured:.4f}",
        "interval": f"{low:.4f} to {high:.4f}",
        "cost": f"{report.cost:.3f}",
        "x plain": f"{report.speedup:.2f}",
        "x two tiers": "-" if report.gain is None else f"{report.gain:.2f}",
        "acc/reg/esc": "-" if report.skips_slim else shares,
        "no slim pass": f"{report.straight:.2f}",
    }
