# SPDX-License-Identifier: Apache-2.0
"""Small random models of every supported family, for tests."""

from __future__ import annotations

from typing import Any

import torch

VOCAB_SIZE = 96

# Class names, and what each family adds to the common sizes. Windows are shorter than the prompts.
_FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {}),
    "qwen2": ("Qwen2", {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 2}),
    "qwen3": ("Qwen3", {"head_dim": 16}),
    "mistral": ("Mistral", {"sliding_window": 8, "tie_word_embeddings": False}),
    "gemma2": (
        "Gemma2",
        {
            "head_dim": 16,
            "sliding_window": 8,
            "query_pre_attn_scalar": 16,
            # Low enough to bend what these models compute.
            "attn_logit_softcapping": 2.0,
            "final_logit_softcapping": 3.0,
        },
    ),
    "gemma3_text": (
        "Gemma3",
        {
            "head_dim": 16,
            "sliding_window": 8,
            "query_pre_attn_scalar": 16,
            "sliding_window_pattern": 2,
            "rope_parameters": {
                "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
                "full_attention": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0},
            },
        },
    ),
    "phi3": ("Phi3", {"sliding_window": 8, "tie_word_embeddings": False}),
    "olmo2": ("Olmo2", {"tie_word_embeddings": False}),
    # Its windows are in the layers without rotary embedding.
    "smollm3": (
        "SmolLM3",
        {
            "no_rope_layers": [1, 0, 1, 0],
            "use_sliding_window": True,
            "sliding_window": 8,
            "tie_word_embeddings": False,
        },
    ),
    "qwen3_moe": (
        "Qwen3Moe",
        {
            "head_dim": 16,
            "num_experts": 4,
            "use_sliding_window": True,
            "sliding_window": 8,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 24,
            "mlp_only_layers": [1],
            "norm_topk_prob": True,
            "tie_word_embeddings": False,
        },
    ),
    "gpt_oss": (
        "GptOss",
        {
            "head_dim": 16,
            "sliding_window": 8,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "tie_word_embeddings": False,
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 150000.0,
                "factor": 2.0,
                "beta_fast": 32.0,
                "beta_slow": 1.0,
                "truncate": False,
                "original_max_position_embeddings": 128,
            },
        },
    ),
}
FAMILIES = tuple(_FAMILIES)
_FIRST = FAMILIES[:4]


def random_model(family: str, num_layers: int = 4, seed: int = 0, **changes: Any) -> Any:
    """A random model in float32 and eval mode; eight families have windows of 8 positions."""
    import transformers

    name, extra = _FAMILIES[family]
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
        "tie_word_embeddings": True,
    }
    if "no_rope_layers" in extra:
        extra = extra | {"no_rope_layers": [layer % 2 ^ 1 for layer in range(num_layers)]}
    config_name = f"{name}{'Text' if family.endswith('_text') else ''}Config"
    config = getattr(transformers, config_name)(**(sizes | extra | changes))
    torch.manual_seed(seed)
    model = getattr(transformers, f"{name}ForCausalLM")(config).eval()
    # Initial weights are small: larger ones make decisions distinct. An untied head needs more,
    # and its layers less, for a shallower copy of the model to agree with it often.
    tied = model.config.tie_word_embeddings
    outer_scale = 16.0 if family in ("olmo2", "qwen3_moe", "gpt_oss") else 8.0
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                outer = "embed" in name or "lm_head" in name
                parameter.mul_(4.0 if tied else outer_scale if outer else 2.0)
            elif family not in _FIRST and ("norm" in name or "sinks" in name or "bias" in name):
                # As initialised, every norm and sink is the same: tests could not tell them apart.
                parameter.add_(0.1 * torch.randn(parameter.shape))
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
