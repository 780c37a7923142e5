# SPDX-License-Identifier: Apache-2.0
"""The embedded pair: a small target, drafter, tokenizer and routes from files in this package.

Nothing is downloaded. What the pair is, what it was trained on and what it can show stands in
MODEL_CARD.md beside this file.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from via_ext.route import SlimRoute

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

__all__ = ["EmbeddedPair", "MissingFileError", "Prompt", "load", "prompts", "two_tier_route"]

FOLDER = Path(__file__).parent


class EmbeddedPair(NamedTuple):
    """What `load` returns: unpack it or use the names."""

    target: PreTrainedModel
    drafter: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    route: SlimRoute


class Prompt(NamedTuple):
    """A prompt from a file that the pair was not trained on.

    Attributes:
        source: path of the file in the standard library.
        text: whole lines of it, about 128 tokens.
    """

    source: str
    text: str


class MissingFileError(FileNotFoundError, ValueError):
    """A file of the pair is not there."""


def load(folder: str | os.PathLike[str] | None = None) -> EmbeddedPair:
    """Load the embedded pair, float32 on the CPU, in eval mode.

    Args:
        folder: where the files lie; default the installed package.

    Returns:
        Target, drafter, their common tokenizer, and the target's route.

    Raises:
        MissingFileError: a file is missing (a FileNotFoundError and a ValueError).
        ValueError: a file is truncated or changed; the text names it.
        ImportError: transformers is not installed.
    """
    root = FOLDER if folder is None else Path(folder)
    check_files(root)
    try:
        from transformers import PreTrainedTokenizerFast
    except ImportError as error:
        raise ImportError(
            'demo.load needs transformers: pip install "via_ext[hf]"', name="transformers"
        ) from error
    make: Any = PreTrainedTokenizerFast  # its constructor has no annotations
    tokenizer = make(
        tokenizer_file=str(root / "tokenizer.json"), eos_token="<|end|>", pad_token="<|end|>"
    )
    route = SlimRoute.load(root / "route.json")
    return EmbeddedPair(_model(root / "target"), _model(root / "drafter"), tokenizer, route)


def two_tier_route() -> SlimRoute:
    """The embedded pair's calibration of two tiers: drafter and target, no slim verifier."""
    return SlimRoute.load(FOLDER / "two_tier.json")


def prompts() -> list[Prompt]:
    """The demo's prompts, from held-out files."""
    data = json.loads((FOLDER / "prompts.json").read_text(encoding="utf-8"))
    return [Prompt(**entry) for entry in data]


def check_files(root: Path) -> None:
    """Compare size and SHA-256 of every file with the manifest; see `load` for the errors."""
    manifest = json.loads((FOLDER / "manifest.json").read_text(encoding="utf-8"))
    for name, entry in manifest.items():
        path = root / name
        if not path.is_file():
            raise MissingFileError(f"demo.load: {path} must exist, got no such file")
        size = path.stat().st_size
        if size != entry["bytes"]:
            raise ValueError(f"demo.load: {path} must have {entry['bytes']} bytes, got {size}")
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        if digest != entry["sha256"]:
            raise ValueError(f"demo.load: {path} must have SHA-256 {entry['sha256']}, got {digest}")


def _model(folder: Path) -> PreTrainedModel:
    # Not from_pretrained: it draws a progress bar and looks for adapters and hub caches.
    import torch
    from safetensors.torch import load_file
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig.from_pretrained(folder)
    config.dtype = torch.float32
    model = LlamaForCausalLM(config)
    missing, unexpected = model.load_state_dict(load_file(folder / "model.safetensors"), False)
    # The LM head is tied to the embedding and not stored.
    if unexpected or set(missing) - {"lm_head.weight"}:
        raise ValueError(f"demo.load: {folder} must fit its config, got {missing + unexpected}")
    model.tie_weights()
    model.train(False)
    return model
