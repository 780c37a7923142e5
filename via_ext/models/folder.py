# SPDX-License-Identifier: Apache-2.0
"""Models and tokenizers from local folders. The network is never asked."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

# Read when huggingface_hub is first imported: a folder that lacks a file is an error, not a search.
_OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")


def load_model(folder: Path, role: str, dtype: str, command: str = "generate") -> Any:
    """A causal language model in eval mode, on the CPU.

    Args:
        folder: with `config.json` and weights, as `save_pretrained` writes them.
        role: names the folder in errors.
        dtype: a torch dtype's name, or "auto" for that of the file.
        command: what errors begin with.

    Raises:
        ValueError: there is no such folder, or no model in it.
        ImportError: transformers is not installed.
    """
    _check_folder(folder, role, command)
    if not (folder / "config.json").is_file():
        raise ValueError(f"{command}: --{role} must hold a model (config.json), got {folder}")
    transformers = _transformers(command)
    try:
        model = transformers.AutoModelForCausalLM.from_pretrained(
            folder, local_files_only=True, dtype=dtype
        )
    except (OSError, ValueError, KeyError) as error:
        text = " ".join(str(error).split())[:200]
        raise ValueError(
            f"{command}: --{role} must hold a causal language model, got {folder} ({text})"
        ) from error
    return model.eval()


def load_tokenizer(
    folder: Path, model: Any, role: str = "target", command: str = "generate"
) -> Any:
    """The tokenizer of a model's folder, or of the folder above where several models share one.

    Args:
        folder: the model's, or a tokenizer's own.
        model: names the end of sequence where the tokenizer's files do not.
        role: names the folder in errors.
        command: what errors begin with.

    Raises:
        ValueError: there is no such folder, or neither folder holds a tokenizer.
    """
    _check_folder(folder, role, command)
    transformers = _transformers(command)
    for place in (folder, folder.parent):
        if (place / "tokenizer_config.json").is_file():
            return transformers.AutoTokenizer.from_pretrained(place, local_files_only=True)
        if (place / "tokenizer.json").is_file():
            file = str(place / "tokenizer.json")
            tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=file)
            eos = model.generation_config.eos_token_id
            eos = eos[0] if isinstance(eos, list) else eos
            if eos is not None:
                tokenizer.eos_token = tokenizer.convert_ids_to_tokens(eos)
            return tokenizer
    instead = ", or give --tokenizer" if role == "target" else ""
    raise ValueError(f"{command}: --{role} must hold a tokenizer{instead}, got {folder}")


def check_same_tokenizer(
    tokenizer: Any, folder: Path, model: Any, command: str = "generate"
) -> None:
    """Raises ValueError if the drafter's folder has a tokenizer with another vocabulary."""
    if not any((folder / name).is_file() for name in ("tokenizer_config.json", "tokenizer.json")):
        return  # sizes are compared when the drafter meets its target
    if load_tokenizer(folder, model, "drafter", command).get_vocab() != tokenizer.get_vocab():
        raise ValueError(
            f"{command}: --drafter must have the target's tokenizer, got another one in {folder}"
        )


def _check_folder(folder: Path, role: str, command: str) -> None:
    if not folder.is_dir():
        raise ValueError(f"{command}: --{role} must be an existing folder, got {folder}")


def _transformers(command: str) -> Any:
    for name in _OFFLINE:
        os.environ.setdefault(name, "1")
    try:
        import transformers
    except ImportError as error:
        raise ImportError(
            f'{command} needs transformers: pip install "via_ext[hf]"', name="transformers"
        ) from error
    logging: Any = transformers.utils.logging  # its functions have no annotations
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    return transformers
