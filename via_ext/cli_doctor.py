# SPDX-License-Identifier: Apache-2.0
"""`via-ext doctor`: is a third tier worth it for this model on this machine."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from via_ext.cli_common import Debug, make_console
from via_ext.cli_generate import _option, _route, _utf8

if TYPE_CHECKING:
    import torch

    from via_ext.route import SlimRoute

#: Tokens of a prompt cut from a text.
PIECE = 128


def doctor(
    model: Annotated[Path | None, typer.Argument(help="Folder of the model.")] = None,
    drafter: Annotated[
        str, typer.Argument(help="Folder of a small model, or 'lookup'.")
    ] = "lookup",
    *,
    demo: Annotated[bool, _option("The embedded pair and its prompts.", "--demo")] = False,
    route: Annotated[
        str | None, _option("Route file, or 'evenly'; default that, the pair's own with --demo.")
    ] = None,
    tokenizer: Annotated[Path | None, _option("Its folder; default the model's.")] = None,
    text: Annotated[Path | None, _option("A text; prompts are cut from it.")] = None,
    prompts: Annotated[Path | None, _option("A file with one prompt a line.")] = None,
    limit: Annotated[int, _option("Prompts to use.", min=1)] = 6,
    num_draft_tokens: Annotated[int, _option("Length of a drafted chain.")] = 5,
    max_new_tokens: Annotated[int, _option("Per prompt and way.", min=1)] = 64,
    seed: Annotated[int, _option("Of the resampling.", min=0)] = 0,
    validate: Annotated[bool, _option("Compare with decodes.", "--validate")] = False,
    dtype: Annotated[
        str | None, _option("float32, bfloat16, float16 or auto; default float32.")
    ] = None,
    threads: Annotated[int, _option("CPU threads of torch.", min=1)] = 1,
    as_json: Annotated[bool, _option("As JSON.", "--json")] = False,
    plain: Annotated[bool, _option("No colour.", "--plain")] = False,
    debug: Debug = False,
) -> None:
    """Measure the passes and say whether a third tier pays, and what to change."""
    if demo == (model is not None):
        got = "both" if demo else "neither"
        raise ValueError(f"doctor: MODEL or --demo must be given, got {got}")
    for name, option in (("--tokenizer", tokenizer), ("--dtype", dtype)):
        if demo and option is not None:
            raise ValueError(f"doctor: {name} must be left out with --demo, got {option}")
    if route not in (None, "evenly") and not Path(str(route)).is_file():
        raise ValueError(f"doctor: --route must be a file or 'evenly', got {route}")
    if text is not None and prompts is not None:
        raise ValueError("doctor: --text or --prompts must be given, got both")
    if not demo and text is None and prompts is None:
        raise ValueError("doctor: --text or --prompts must be given with a MODEL, got neither")
    for name, path in (("--text", text), ("--prompts", prompts)):
        if path is not None and not path.is_file():
            raise ValueError(f"doctor: {name} must be an existing file, got {path}")
    # Imported here: a usage error or --help must not wait for torch and transformers.
    import torch

    from via_ext.doctor import diagnose

    torch.set_num_threads(threads)
    parts = _models(model, drafter, tokenizer, dtype or "float32") if model else _pair()
    target, proposer, slim, text_tools = parts
    if route is not None or slim is None:
        slim = _route(route or "evenly", target)
    room = target.config.max_position_embeddings - max_new_tokens
    ids = _prompts(text_tools, text, prompts, limit, max(1, min(PIECE, room)))
    with _stages(plain) as progress:
        found = diagnose(
            target,
            proposer,
            slim,
            ids,
            num_draft_tokens=num_draft_tokens,
            max_new_tokens=max_new_tokens,
            seed=seed,
            validate=validate,
            progress=progress,
        )
    if as_json:
        print(json.dumps(found.to_dict(), indent=1))
        return
    from via_ext.doctor.report import show

    show(found, make_console(plain))


Parts = tuple[Any, Any, "SlimRoute | None", Any]


def _pair() -> Parts:
    from via_ext import demo

    pair = demo.load()
    return pair.target, pair.drafter, pair.route, pair.tokenizer


def _models(folder: Path, drafter: str, tokenizer: Path | None, dtype: str) -> Parts:
    from via_ext.models.folder import check_same_tokenizer, load_model, load_tokenizer

    if dtype not in ("auto", "float32", "bfloat16", "float16"):
        rule = "be one of auto, float32, bfloat16, float16"
        raise ValueError(f"doctor: --dtype must {rule}, got {dtype}")
    target = load_model(folder, "target", dtype, "doctor")
    role = "target" if tokenizer is None else "tokenizer"
    text_tools = load_tokenizer(tokenizer or folder, target, role, "doctor")
    proposer: Any = None
    if drafter != "lookup":
        proposer = load_model(Path(drafter), "drafter", dtype, "doctor")
        check_same_tokenizer(text_tools, Path(drafter), proposer, "doctor")
    return target, proposer, None, text_tools


def _prompts(
    tokenizer: Any, text: Path | None, prompts: Path | None, limit: int, piece: int
) -> list[torch.Tensor]:
    """Token ids of the prompts: lines of a file, pieces of a text, or the embedded pair's own."""
    import torch

    if text is not None:
        ids = tokenizer(_utf8("--text", text.read_bytes()))["input_ids"]
        if not ids:
            raise ValueError(f"doctor: --text must hold text, got {text}")
        # Pieces spread over the text; without what is left over at its end.
        count = min(limit, max(1, len(ids) // piece))
        step = len(ids) // count
        return [torch.tensor(ids[i * step : i * step + piece]) for i in range(count)]
    if prompts is not None:
        lines = _utf8("--prompts", prompts.read_bytes()).splitlines()
        texts = [line for line in lines if line.strip()]
        if not texts:
            raise ValueError(f"doctor: --prompts must hold at least one line, got {prompts}")
    else:
        from via_ext import demo

        texts = [prompt.text for prompt in demo.prompts()]
    return [torch.tensor(tokenizer(line)["input_ids"]) for line in texts[:limit]]


@contextmanager
def _stages(plain: bool) -> Iterator[Callable[[str], None]]:
    """Shows the present stage on stderr while it runs; nothing without a terminal."""
    console = make_console(plain, stderr=True)
    if not console.is_terminal or console.is_dumb_terminal:
        yield lambda stage: None
        return
    with console.status("starting") as status:
        yield lambda stage: status.update(stage)
