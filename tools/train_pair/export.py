# SPDX-License-Identifier: Apache-2.0
"""Write the trained pair as the files of `via_ext.demo`: bfloat16 weights, route, manifest."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch
from network import Network, Shape
from objective import LAYERS, PREFIX, SLIM_REST
from safetensors.torch import save_file

#: Files that are not data of the pair.
UNLISTED = ("manifest.json", "MODEL_CARD.md", "LICENSE-PYTHON.txt")
READABLE = 0o644


def trained_route() -> tuple[tuple[bool, ...], tuple[bool, ...]]:
    """The slim path of the training as the masks of a `SlimRoute`."""
    kept = {*PREFIX, *SLIM_REST}
    attention, mlp = (tuple(2 * i + part in kept for i in range(LAYERS)) for part in (0, 1))
    return attention, mlp


def write_model(checkpoint: Path, layers: int, folder: Path) -> None:
    """One model as config.json and model.safetensors."""
    network = Network(Shape(layers), compiled=False)
    state = torch.load(checkpoint, weights_only=True)
    network.load_state_dict(state["network"], strict=False)
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: part.to(torch.bfloat16) for name, part in network.hf_state().items()}
    file = folder / "model.safetensors"
    save_file(weights, file, {"format": "pt"})
    # safetensors makes files that only their owner can read.
    file.chmod(READABLE)
    config = json.dumps(network.shape.hf_config(), indent=1) + "\n"
    (folder / "config.json").write_text(config, encoding="utf-8")


def write_manifest(folder: Path) -> None:
    """Size and SHA-256 of every data file, which `demo.load` compares."""
    entries = {}
    for file in sorted(folder.rglob("*")):
        name = file.relative_to(folder).as_posix()
        if file.is_file() and file.suffix not in (".py", ".pyc") and name not in UNLISTED:
            data = file.read_bytes()
            entries[name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    text = json.dumps(entries, indent=1) + "\n"
    (folder / "manifest.json").write_text(text, encoding="utf-8")


def export(checkpoints: Path, folder: Path) -> None:
    """Both models, the trained route tied to the target, and the manifest, into `folder`.

    tokenizer.json and prompts.json stay as they are; route.json and two_tier.json have to be
    calibrated anew.
    """
    from transformers import AutoModelForCausalLM

    from via_ext.route import SlimRoute

    write_model(checkpoints / "target.pt", LAYERS, folder / "target")
    write_model(checkpoints / "drafter.pt", 1, folder / "drafter")
    target = AutoModelForCausalLM.from_pretrained(folder / "target", dtype=torch.float32)
    SlimRoute(*trained_route()).save(folder / "route.json", target)
    write_manifest(folder)
