# SPDX-License-Identifier: Apache-2.0
"""`via-ext search`: find a slim route for a model and write it to a file."""

from __future__ import annotations

import json
import os
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from via_ext.cli_common import Debug, make_console

if TYPE_CHECKING:
    import torch

    from via_ext.search.result import RouteSearch, Trial


class Criterion(StrEnum):
    """Objectives of `search_route`."""

    divergence = "divergence"
    missing_mass = "missing_mass"
    latency = "latency"


class Method(StrEnum):
    """Proposals of `search_route`."""

    swaps = "swaps"
    bayes = "bayes"


class Costs(StrEnum):
    """How the latency weighs sublayers."""

    bytes = "bytes"
    measured = "measured"


def _option(text: str, *names: str, **more: Any) -> Any:
    return typer.Option(*names, help=text, **more)


def search(
    *,
    target: Annotated[Path | None, typer.Argument(help="Folder of the model.")] = None,
    demo: Annotated[bool, _option("The embedded pair, on Python's own library.", "--demo")] = False,
    text: Annotated[list[Path] | None, _option("Plain text or .jsonl; may be repeated.")] = None,
    drafter: Annotated[Path | None, _option("Folder of a small model: adds delta.")] = None,
    out: Annotated[Path, _option("Route file to write.")] = Path("route.json"),
    skip_ratio: Annotated[str, _option("Share of sublayers, 'any' for latency.")] = "0.45",
    min_shared_prefix: Annotated[int | None, _option("Layers kept whole.", min=0)] = None,
    objective: Annotated[Criterion, _option("What is minimised.")] = Criterion.divergence,
    costs: Annotated[Costs, _option("Weights of the latency.")] = Costs.bytes,
    trials: Annotated[int, _option("Routes to score.", min=1)] = 200,
    patience: Annotated[int | None, _option("Stop after so many in vain.", min=1)] = None,
    proposals: Annotated[Method, _option("'bayes' needs optuna.")] = Method.swaps,
    seed: Annotated[int, _option("Of all draws.", min=0)] = 0,
    tokens: Annotated[int, _option("Of the text that is used.", min=1)] = 4096,
    length: Annotated[int, _option("Tokens of a sequence.", min=2)] = 256,
    max_backlog: Annotated[int, _option("Of the decoding to come.", min=1)] = 32,
    resume: Annotated[Path | None, _option("File of the trials; goes on if it exists.")] = None,
    plots: Annotated[Path | None, _option("Folder of two figures.")] = None,
    dtype: Annotated[str, _option("float32, bfloat16, float16 or auto.")] = "float32",
    device: Annotated[str, _option("cpu or cuda.")] = "cpu",
    threads: Annotated[int, _option("CPU threads of torch.", min=1)] = 1,
    plain: Annotated[bool, _option("No colour, no progress bar.", "--plain")] = False,
    debug: Debug = False,
) -> None:
    """Search the slim route of a model on calibration text. Ctrl-C keeps the best so far."""
    if demo == (target is not None):
        got = "both" if demo else "neither"
        raise ValueError(f"search: TARGET must be a model's folder, or --demo given, got {got}")
    if demo and drafter is not None:
        raise ValueError(f"search: --drafter must be left out with --demo, got {drafter}")
    ratio = None if skip_ratio == "any" else _number(skip_ratio)
    if not text and not demo:
        raise ValueError("search: --text must be given, got none")
    _check_out(out)
    _check_writable(resume, plots)
    # Imported here: a usage error or --help must not wait for torch and transformers.
    import torch

    from via_ext.search import search_route
    from via_ext.search.costs import sublayer_seconds

    torch.set_num_threads(threads)
    model, small, tokenizer = _load(target, drafter, dtype, device)
    sequences = _sequences(text, tokenizer, tokens, length, max_backlog + 1)
    weights = None
    if costs is Costs.measured and objective is Criterion.latency:
        weights = sublayer_seconds(model)
    with _Bar(trials, plain) as bar:
        found = search_route(
            model,
            sequences,
            skip_ratio=ratio,
            min_shared_prefix=min_shared_prefix,
            objective=objective.value,
            trials=trials,
            patience=patience,
            proposals=proposals.value,
            seed=seed,
            max_backlog=max_backlog,
            drafter=small,
            costs=weights,
            study=resume,
            progress=bar.show,
        )
    found.route.save(out, model=model)
    if plots is not None:
        found.plot(plots)
    _report(found, out, plain)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"search: --skip-ratio must be a number or 'any', got {text}") from None


def _check_out(out: Path) -> None:
    """Before the work: hours must not end with a file that cannot be written."""
    folder = out.parent
    if not folder.is_dir():
        raise ValueError(f"search: --out must be in an existing folder, got {out}")
    if out.is_dir() or not os.access(out if out.exists() else folder, os.W_OK):
        raise ValueError(f"search: --out must be a file that can be written, got {out}")
    try:
        present = json.loads(out.read_bytes()) if out.exists() else None
    except ValueError:
        return  # no route: nothing of a calibration is lost
    if isinstance(present, dict) and present.get("calibration") is not None:
        rule = "not be a calibrated route (its calibration would be lost)"
        raise ValueError(f"search: --out must {rule}, got {out}")


def _check_writable(resume: Path | None, plots: Path | None) -> None:
    if resume is not None:
        place = resume if resume.exists() else resume.parent
        if resume.is_dir() or not place.exists() or not os.access(place, os.W_OK):
            raise ValueError(f"search: --resume must be a file that can be written, got {resume}")
    if plots is not None:
        try:
            import matplotlib  # noqa: F401
        except ImportError as error:
            raise ImportError('search: --plots needs pip install "via_ext[plot]"') from error
        rule = "be a folder that can be written"
        try:
            plots.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f"search: --plots must {rule}, got {plots}") from error
        if not os.access(plots, os.W_OK):
            raise ValueError(f"search: --plots must {rule}, got {plots}")


def _load(target: Path | None, drafter: Path | None, dtype: str, device: str) -> Any:
    """The model, the drafter or None, and the tokenizer."""
    import torch

    from via_ext.models.folder import check_same_tokenizer, load_model, load_tokenizer

    if device.partition(":")[0] not in ("cpu", "cuda"):
        raise ValueError(f"search: --device must be cpu or cuda, got {device}")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"search: --device must be cpu without a GPU, got {device}")
    if target is None:
        from via_ext import demo

        models: Any
        *models, tokenizer, _ = demo.load()
        return *(model.to(device) for model in models), tokenizer
    if dtype not in ("auto", "float32", "bfloat16", "float16"):
        rule = "be one of auto, float32, bfloat16, float16"
        raise ValueError(f"search: --dtype must {rule}, got {dtype}")
    model = load_model(target, "target", dtype, "search")
    tokenizer = load_tokenizer(target, model, command="search")
    small = None
    if drafter is not None:
        small = load_model(drafter, "drafter", dtype, "search").to(device)
        check_same_tokenizer(tokenizer, drafter, small, "search")
    return model.to(device), small, tokenizer


def _sequences(
    text: list[Path] | None, tokenizer: Any, tokens: int, length: int, least: int
) -> list[torch.Tensor]:
    from via_ext.search.text import cut, library_documents, read_documents

    documents = read_documents(text) if text else library_documents(held_out=False)
    if length < least:
        rule = f"be at least max_backlog + 1 = {least}"
        raise ValueError(f"search: --length must {rule}, got {length}")
    found = cut(documents, tokenizer, tokens, length, least)
    if not found:
        rule = f"hold {least} tokens at a stretch (max_backlog + 1) within --tokens {tokens}"
        raise ValueError(f"search: --text must {rule}, got less")
    return found


class _Bar:
    """Progress on stderr: trials, the best value, the time left. None without a terminal."""

    def __init__(self, trials: int, plain: bool) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        console = make_console(plain, stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total} trials"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=plain or not console.is_terminal or console.is_dumb_terminal,
        )
        self._task = self._progress.add_task("searching", total=trials)

    def __enter__(self) -> _Bar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, trial: Trial, best: Trial) -> None:
        """After a trial."""
        text = f"{trial.kind}, best {best.value:.4f}"
        self._progress.update(self._task, completed=trial.number + 1, description=text)


def _report(found: RouteSearch, out: Path, plain: bool) -> None:
    console = make_console(plain)
    console.print(found.table(), markup=False, soft_wrap=True)
    if found.delta is not None:
        says = "should pay" if found.delta > 0 else "should not pay"
        console.print(f"delta {found.delta:.4g}: the slim tier {says}", markup=False)
    console.print(f"written: {out}", markup=False, soft_wrap=True)
    if found.interrupted:
        make_console(plain, stderr=True).print(
            f"interrupted after {len(found.trials)} trials: the best so far was kept", markup=False
        )
        raise typer.Exit(130)
