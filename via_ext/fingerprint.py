# SPDX-License-Identifier: Apache-2.0
"""A short name of a model's weights, to tie a route file to its model."""

from __future__ import annotations

import hashlib
import json

import torch

_SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "vocab_size")
_HEADS = ("num_attention_heads", "num_key_value_heads")


def fingerprint(model: torch.nn.Module) -> str:
    """A short name of a model's weights and shape, to tie a route to it.

    SHA-256 over the sizes in `model.config` and 32 values of each of 16 parameters, rounded to
    bfloat16: the same after saving and loading, in float32 and in bfloat16. It tells checkpoints
    apart and is no integrity check. Costs 16 small copies from the device.

    Returns:
        "sha256:" and 32 hexadecimal digits.

    Raises:
        ValueError: the model is on the meta device.
    """
    config = getattr(model, "config", None)
    text = getattr(config, "get_text_config", lambda: config)()
    facts = {name: getattr(text, name, None) for name in ("model_type", *_SIZES, *_HEADS)}
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    parameters = [parameter.detach() for parameter in model.parameters()]
    if any(parameter.is_meta for parameter in parameters):
        raise ValueError("fingerprint: model must hold its weights, got meta tensors")
    for i in _evenly(len(parameters), 16):
        flat = parameters[i].reshape(-1)
        index = torch.tensor(_evenly(flat.numel(), 32), device=flat.device)
        # bfloat16 is coarse enough to survive a cast to it and back.
        values = flat[index].to(torch.bfloat16).float().cpu()
        digest.update(values.numpy().tobytes())
    return f"sha256:{digest.hexdigest()[:32]}"


def _evenly(count: int, samples: int) -> list[int]:
    """Up to `samples` indices over range(count), both ends included."""
    samples = min(count, samples)
    return [i * (count - 1) // max(1, samples - 1) for i in range(samples)]
