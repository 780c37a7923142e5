# SPDX-License-Identifier: Apache-2.0
"""`via-ext evaluate`: ways to decode side by side, into a folder of results."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from via_ext.cli_common import Debug, make_console

if TYPE_CHECKING:
    from via_ext.evaluation import Method, TaskPrompt, TaskText
    from via_ext.route import SlimRoute

#: What --quick changes where the options do not say otherwise: under a minute on two cores.
_USUAL = {"prompts": 1, "sets": 3, "max_new_tokens": 96, "repeats": 3}
_QUICK = {"prompts": 1, "sets": 1, "max_new_tokens": 32, "repeats": 1}
#: Prompts of each task that the ablation of search seeds searches on.
_SEARCH_PROMPTS = 4
#: Problems of task files that are printed; the report has all.
_SHOWN_PROBLEMS = 10


def _option(text: str, *names: str, **more: Any) -> Any:
    return typer.Option(*names, help=text, **more)


def evaluate(
    *,
    target: Annotated[Path | None, typer.Argument(help="Folder of the model.")] = None,
    drafter: Annotated[Path | None, typer.Argument(help="Folder of a small model.")] = None,
    demo: Annotated[bool, _option("Evaluate the embedded pair.", "--demo")] = False,
    route: Annotated[Path | None, _option("Route file of the slim verifier.")] = None,
    two_tier: Annotated[Path | None, _option("Route file of two tiers; --demo has one.")] = None,
    tasks: Annotated[list[Path] | None, _option("JSONL file; default built-in tasks.")] = None,
    methods: Annotated[str | None, _option("Names with commas; default all.")] = None,
    prompts: Annotated[int | None, _option("Prompts of a set.", min=1)] = None,
    sets: Annotated[int | None, _option("Sets of each task.", min=1)] = None,
    max_new_tokens: Annotated[int | None, _option("Per prompt.", min=1)] = None,
    repeats: Annotated[int | None, _option("Timed runs.", min=0)] = None,
    ablation: Annotated[list[str] | None, _option("seeds, masks, ... or all.")] = None,
    seed: Annotated[int, _option("Of every random stream.", min=0)] = 0,
    out: Annotated[Path, _option("Folder of the results.")] = Path("evaluation"),
    resume: Annotated[bool, _option("Go on with what --out holds.", "--resume")] = False,
    quick: Annotated[bool, _option("Few and short prompts, one repeat.", "--quick")] = False,
    no_plots: Annotated[bool, _option("Without matplotlib.", "--no-plots")] = False,
    dtype: Annotated[str, _option("float32, bfloat16, float16 or auto.")] = "float32",
    threads: Annotated[int, _option("CPU threads of torch.", min=1)] = 1,
    plain: Annotated[bool, _option("No colour.", "--plain")] = False,
    debug: Debug = False,
) -> None:
    """Compare ways to decode on the same prompts: speed, modelled cost, agreement, memory."""
    if demo == (target is not None) or (target is None) != (drafter is None):
        raise ValueError("evaluate: MODEL and DRAFTER, or --demo, must be given, not both")
    sizes = _QUICK if quick else _USUAL
    given = {"prompts": prompts, "sets": sets, "repeats": repeats}
    given["max_new_tokens"] = max_new_tokens
    counts = {name: sizes[name] if value is None else value for name, value in given.items()}
    import torch

    from via_ext.evaluation import evaluate as run
    from via_ext.evaluation.checks import check_subject
    from via_ext.evaluation.methods import Subject
    from via_ext.evaluation.show import show

    torch.set_num_threads(threads)
    names = None if methods is None else [name.strip() for name in methods.split(",")]
    _check(names, ablation or [], out, resume, plots=not no_plots)
    slim = None if route is None else _load_route(route, "--route")
    two = None if two_tier is None else _load_route(two_tier, "--two-tier")
    texts, problems = _texts(tasks or [])
    pair = _models(target, drafter, dtype)
    slim, two = slim or pair.route, two or _two_tier(demo)
    check_subject(Subject(pair.target, pair.drafter, slim, two))
    found, long, unused = _prompts(texts, pair, counts)
    problems += long
    _print_problems(problems)
    chosen = _methods(names, ablation or [], slim, seed, pair.target, unused)
    with _kept(out), _Bar(plain) as bar:
        evaluation = run(
            pair.target,
            pair.drafter,
            slim,
            found,
            two_tier=two,
            methods=chosen,
            max_new_tokens=counts["max_new_tokens"],
            repeats=counts["repeats"],
            seed=seed,
            out=out,
            resume=resume,
            plots=not no_plots,
            problems=problems,
            progress=bar.show,
        )
    show(evaluation, make_console(plain))


def _check(
    names: list[str] | None, ablations: list[str], out: Path, resume: bool, *, plots: bool
) -> None:
    """What can be wrong before models, which take their time, are loaded."""
    from via_ext.evaluation.ablation import ablation_names
    from via_ext.evaluation.methods import choose
    from via_ext.evaluation.plots import require_matplotlib
    from via_ext.evaluation.store import known_results

    choose(names)
    ablation_names(ablations)
    if plots:
        require_matplotlib()
    known_results(out, resume)


def _print_problems(problems: list[str]) -> None:
    for text in problems[:_SHOWN_PROBLEMS]:
        print(f"via-ext: left out: {text}", file=sys.stderr)
    if len(problems) > _SHOWN_PROBLEMS:
        print(f"via-ext: left out: and {len(problems) - _SHOWN_PROBLEMS} more", file=sys.stderr)


@contextmanager
def _kept(out: Path) -> Iterator[None]:
    """Ctrl-C says what is kept and ends with exit code 130."""
    try:
        yield
    except KeyboardInterrupt:
        path = out / "results.json"
        if not path.is_file():
            raise
        methods = json.loads(path.read_text(encoding="utf-8"))["methods"].values()
        count = sum(entry["status"] == "done" for entry in methods)
        kept = "1 method is" if count == 1 else f"{count} methods are"
        text = f"interrupted: {kept} kept in {out}; go on with --resume"
        print(f"via-ext: {text}", file=sys.stderr)
        raise typer.Exit(130) from None


def _models(target: Path | None, drafter: Path | None, dtype: str) -> Any:
    from via_ext.demo import EmbeddedPair, load

    if target is None or drafter is None:
        return load()
    from via_ext.models.folder import check_same_tokenizer, load_model, load_tokenizer

    model = load_model(target, "target", dtype, "evaluate")
    tokenizer = load_tokenizer(target, model, command="evaluate")
    small = load_model(drafter, "drafter", dtype, "evaluate")
    check_same_tokenizer(tokenizer, drafter, small, "evaluate")
    nothing: Any = None
    return EmbeddedPair(model, small, tokenizer, nothing)


def _two_tier(demo: bool) -> SlimRoute | None:
    from via_ext.demo import two_tier_route

    return two_tier_route() if demo else None


def _load_route(path: Path, name: str) -> SlimRoute:
    from via_ext.route import SlimRoute

    if not path.is_file():
        raise ValueError(f"evaluate: {name} must be an existing file, got {path}")
    return SlimRoute.load(path)


def _methods(
    names: list[str] | None,
    ablations: list[str],
    route: SlimRoute | None,
    seed: int,
    target: Any,
    unused: list[TaskPrompt],
) -> list[str | Method]:
    from via_ext.evaluation import METHODS, ablation_methods

    chosen: list[str | Method] = []
    chosen += METHODS if names is None else names
    if ablations:
        if route is None:
            raise ValueError("evaluate: --ablation must have a --route, got none")
        text = [prompt.input_ids for prompt in unused]
        chosen += ablation_methods(ablations, route, seed, target=target, text=text)
    return chosen


def _texts(paths: list[Path]) -> tuple[list[TaskText], list[str]]:
    from via_ext.evaluation import built_in_tasks, read_jsonl

    return read_jsonl(paths) if paths else (built_in_tasks(), [])


def _prompts(
    texts: list[TaskText], pair: Any, counts: dict[str, int]
) -> tuple[list[TaskPrompt], list[str], list[TaskPrompt]]:
    """Prompts, what was left out and why, and others of the same tasks to search routes on."""
    from via_ext.evaluation import encode_tasks

    room = getattr(pair.target.config, "max_position_embeddings", None)
    limit = None if room is None else room - counts["max_new_tokens"]
    if limit is not None and limit < 1:
        got = counts["max_new_tokens"]
        raise ValueError(
            f"evaluate: --max-new-tokens must be below the context of {room}, got {got}"
        )
    sizes: dict[str, Any] = {"prompts": counts["prompts"], "sets": counts["sets"]}
    found, long = encode_tasks(texts, pair.tokenizer, **sizes, max_tokens=limit)
    used = {(prompt.task, prompt.id) for prompt in found}
    rest = [text for text in texts if (text.task, text.id) not in used]
    unused, _ = encode_tasks(rest, pair.tokenizer, prompts=_SEARCH_PROMPTS, max_tokens=limit)
    return found, long, unused


class _Bar:
    """Progress on stderr; nothing at all where that is no terminal."""

    def __init__(self, plain: bool) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        console = make_console(plain, stderr=True)
        columns = (
            BarColumn(bar_width=20),
            TextColumn("{task.completed}/{task.total} runs"),
            TimeRemainingColumn(),
            TextColumn("{task.description}"),
        )
        hidden = not console.is_terminal or console.is_dumb_terminal
        self._bar = Progress(*columns, console=console, transient=True, disable=hidden)
        self._task = self._bar.add_task("", total=None)

    def __enter__(self) -> _Bar:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def show(self, stage: str, done: int, total: int) -> None:
        """The callback of `evaluate`."""
        self._bar.update(self._task, completed=done, total=total, description=stage)
