# SPDX-License-Identifier: Apache-2.0
"""`via-ext generate`: decode prompts with the model in a local folder."""

from __future__ import annotations

import json
import math
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from via_ext.cli_common import Debug, make_console

if TYPE_CHECKING:
    from via_ext.config import ViaConfig
    from via_ext.decode import Decoder
    from via_ext.route import SlimRoute


class Mode(StrEnum):
    """Modes of `ViaConfig`."""

    exact = "exact"
    via = "via"


def _option(text: str, *names: str, **more: Any) -> Any:
    return typer.Option(*names, help=text, **more)


def generate(
    *,
    target: Annotated[Path, _option("Folder of the model.")],
    drafter: Annotated[str, _option("Folder of a small model, 'lookup' or 'none'.")] = "lookup",
    route: Annotated[str, _option("Route file, 'evenly' or 'none' (two tiers).")] = "none",
    tokenizer: Annotated[Path | None, _option("Its folder; default the model's.")] = None,
    mode: Annotated[Mode, _option("'exact': the target's own tokens or law.")] = Mode.via,
    prompt: Annotated[list[str] | None, _option("A prompt; may be repeated.")] = None,
    file: Annotated[list[Path] | None, _option("A prompt's file; may be repeated.")] = None,
    chat: Annotated[bool, _option("Prompts are a user's turns.", "--chat")] = False,
    as_json: Annotated[bool, _option("One JSON object per prompt.", "--json")] = False,
    max_new_tokens: Annotated[int, _option("Per prompt.", min=1)] = 128,
    temperature: Annotated[float, _option("0 = greedy.")] = 0.0,
    top_k: Annotated[int, _option("0 = all.")] = 0,
    top_p: Annotated[float, _option("Nucleus mass.")] = 1.0,
    min_p: Annotated[float, _option("Relative to the most likely token.")] = 0.0,
    seed: Annotated[int | None, _option("Of every prompt; default drawn.")] = None,
    stop: Annotated[list[str] | None, _option("A text that ends it; may be repeated.")] = None,
    num_draft_tokens: Annotated[int, _option("Length of a drafted chain.")] = 5,
    tree: Annotated[str | None, _option("Children per node and level, e.g. 4,2,1.")] = None,
    accept_threshold: Annotated[float, _option("Ratio to accept from.")] = 0.7,
    escalate_threshold: Annotated[float, _option("Ratio to escalate under.")] = 0.5,
    draft_threshold: Annotated[float | None, _option("Drafter's own gate.")] = None,
    audit_threshold: Annotated[float | None, _option("Least ratio in an audit.")] = None,
    max_backlog: Annotated[int, _option("Tokens between two full passes.")] = 32,
    dtype: Annotated[str, _option("float32, bfloat16, float16 or auto.")] = "float32",
    threads: Annotated[int, _option("CPU threads of torch.", min=1)] = 1,
    plain: Annotated[bool, _option("No colour.", "--plain")] = False,
    debug: Debug = False,
) -> None:
    """Decode prompts (--prompt, --file or standard input) with a model from a local folder."""
    texts = _prompts(prompt or [], file or [])
    # Imported here: a usage error or --help must not wait for torch and transformers.
    from via_ext.config import ViaConfig
    from via_ext.tree import Tree

    config = ViaConfig(
        mode=mode.value,
        num_draft_tokens=num_draft_tokens,
        tree=None if tree is None else Tree.from_widths(_widths(tree)),
        accept_threshold=accept_threshold,
        escalate_threshold=escalate_threshold,
        draft_threshold=draft_threshold,
        audit_threshold=audit_threshold,
        max_backlog=max_backlog,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        seed=seed,
        max_new_tokens=max_new_tokens,
        stop_strings=tuple(stop or ()),
    )
    import torch

    torch.set_num_threads(threads)
    decoder, text_tools = _decoder(target, drafter, route, tokenizer, dtype, config)
    show = _print_json if as_json else _show
    for text in texts:
        ids = torch.tensor(_encode(text_tools, text, chat))
        if not ids.numel():
            raise ValueError("generate: --prompt must hold at least one token, got an empty text")
        show(decoder, text_tools, text, ids, plain)


def _prompts(prompts: list[str], files: list[Path]) -> list[str]:
    for text in prompts:
        _utf8("--prompt", text.encode(errors="surrogateescape"))
    prompts = [*prompts]
    for path in files:
        if not path.is_file():
            raise ValueError(f"generate: --file must be an existing file, got {path}")
        prompts.append(_utf8("--file", path.read_bytes()))
    if prompts:
        return prompts
    if sys.stdin is None or sys.stdin.isatty():
        raise ValueError("generate: --prompt, --file or standard input must be given, got none")
    return [_utf8("standard input", sys.stdin.buffer.read())]


def _utf8(name: str, data: bytes) -> str:
    """The text of `data`, with line ends as Python reads them."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        got = f"byte {data[error.start]:#04x} at {error.start}"
        raise ValueError(f"generate: {name} must be UTF-8 text, got {got}") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _widths(text: str) -> list[int]:
    parts = text.split(",")
    if not all(part.strip().isdigit() for part in parts):
        raise ValueError(f"generate: --tree must be numbers with commas, got {text!r}")
    return [int(part) for part in parts]


def _decoder(
    target: Path, drafter: str, route: str, tokenizer: Path | None, dtype: str, config: ViaConfig
) -> tuple[Decoder, Any]:
    from via_ext.decode import Decoder
    from via_ext.drafters import PromptLookupDrafter
    from via_ext.models.folder import check_same_tokenizer, load_model, load_tokenizer

    if dtype not in ("auto", "float32", "bfloat16", "float16"):
        rule = "be one of auto, float32, bfloat16, float16"
        raise ValueError(f"generate: --dtype must {rule}, got {dtype}")
    model = load_model(target, "target", dtype)
    role = "target" if tokenizer is None else "tokenizer"
    text_tools = load_tokenizer(tokenizer or target, model, role)
    proposer: Any = None
    if drafter == "lookup":
        proposer = PromptLookupDrafter()
    elif drafter != "none":
        proposer = load_model(Path(drafter), "drafter", dtype)
        check_same_tokenizer(text_tools, Path(drafter), proposer)
    return Decoder(model, proposer, _route(route, model), config, tokenizer=text_tools), text_tools


def _route(name: str, model: Any) -> SlimRoute | None:
    from via_ext.route import SlimRoute

    if name == "none":
        return None
    if name == "evenly":
        return SlimRoute.evenly(model.config.num_hidden_layers)
    if not Path(name).is_file():
        raise ValueError(f"generate: --route must be a file, 'evenly' or 'none', got {name}")
    return SlimRoute.load(name)


def _encode(tokenizer: Any, text: str, chat: bool) -> list[int]:
    if not chat:
        return list(tokenizer(text)["input_ids"])
    if getattr(tokenizer, "chat_template", None) is None:
        raise ValueError("generate: --chat must have a tokenizer with a chat template, got none")
    turns = [{"role": "user", "content": text}]
    written = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    return list(tokenizer(written, add_special_tokens=False)["input_ids"])


def _print_json(decoder: Decoder, tokenizer: Any, prompt: str, ids: Any, _: bool) -> None:
    from via_ext.text_stream import TextStream

    result = decoder.generate(ids)
    first, last = len(ids), int(result.lengths[0])
    tokens = result.sequences[0, first:last].tolist()
    stream = TextStream(tokenizer, ids.tolist())
    logprobs = result.logprobs[0, : len(tokens)].tolist()
    data = {
        "prompt": prompt,
        "text": "".join(map(stream.feed, tokens)) + stream.flush(),
        "tokens": tokens,
        "tiers": result.tiers[0, : len(tokens)].tolist(),
        # JSON has no infinities: null for a token outside the filters.
        "logprobs": [value if math.isfinite(value) else None for value in logprobs],
        "stats": result.stats.to_dict(),
    }
    print(json.dumps(data, ensure_ascii=False), flush=True)


def _show(decoder: Decoder, tokenizer: Any, prompt: str, ids: Any, plain: bool) -> None:
    """The continuation as it comes; on a terminal after its prompt, in the colours of its tiers."""
    from rich.text import Text

    from via_ext.demo_view import TIERS, legend, shares
    from via_ext.text_stream import TextStream

    console = make_console(plain)
    coloured = console.is_terminal and not plain
    stream, tiers = TextStream(tokenizer, ids.tolist()), list[int]()
    if coloured:
        console.print(legend())
        console.print(Text(prompt, style="dim"), end="", soft_wrap=True)

    def write(text: str, tier: int) -> None:
        if coloured:
            console.print(Text(text, style=TIERS[tier][1]), end="", soft_wrap=True)
        else:
            console.file.write(text)

    for step in decoder.stream(ids):
        for token, tier in zip(step.tokens[0], step.tiers[0], strict=True):
            tiers.append(tier)
            write(stream.feed(token), tier)
        console.file.flush()
    write(stream.flush(), tiers[-1])
    console.file.write("\n")
    console.file.flush()
    if coloured:
        make_console(plain, stderr=True).print(f"{len(tiers)} tokens: {shares(tiers)}", style="dim")
