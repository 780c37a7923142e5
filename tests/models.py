# SPDX-License-Identifier: Apache-2.0
"""Small random models of every supported family, for tests."""

from __future__ import annotations

from typing import Any

import torch

FAMILIES = ("llama", "qwen2", "qwen3", "mistral")
VOCAB_SIZE = 96


def random_model(family: str, num_layers: int = 4, seed: int = 0, **changes: Any) -> Any:
    """A random model in float32 and eval mode; Mistral and Qwen2 get a window of 8 positions."""
    import transformers

    sizes: dict[str, Any] = {
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": num_layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "bos_token_id": 0,
        "eos_token_id": None,
        "pad_token_id": None,
        "tie_word_embeddings": family != "mistral",
    }
    if family == "mistral":
        sizes["sliding_window"] = 8
    if family == "qwen2":
        sizes |= {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 2}
    if family == "qwen3":
        sizes["head_dim"] = 16
    names = {"llama": "Llama", "qwen2": "Qwen2", "qwen3": "Qwen3", "mistral": "Mistral"}
    config = getattr(transformers, f"{names[family]}Config")(**(sizes | changes))
    torch.manual_seed(seed)
    model = getattr(transformers, f"{names[family]}ForCausalLM")(config).eval()
    # Initial weights are small: larger ones make decisions distinct. An untied head needs more,
    # and its layers less, for a shallower copy of the model to agree with it often.
    tied = model.config.tie_word_embeddings
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                outer = "embed" in name or "lm_head" in name
                parameter.mul_(4.0 if tied else 8.0 if outer else 2.0)
    return model


def greedy(model: Any, prompt: list[int], num_tokens: int, **options: Any) -> list[int]:
    """Tokens of transformers' own greedy generate, prompt included."""
    ids = torch.tensor([prompt])
    output = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=num_tokens,
        do_sample=False,
        pad_token_id=0,
        **options,
    )
    return output[0].tolist()  # type: ignore[no-any-return]
