# SPDX-License-Identifier: Apache-2.0
"""What the persistent engine does not take: refused by name, before any work."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from via_ext.config import ViaConfig
from via_ext.engines.hooks import RowHooks
from via_ext.models.arena import head_dim
from via_ext.models.families import layer_windows

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
HEAD_DIMS = (64, 128)
MAX_BATCH = 4
MAX_TOKENS = 64  # of one pass, all rows together
MAX_LAYERS = 128
MIN_BACKLOG = 4


def _refuse(argument: str, rule: str, got: object) -> ValueError:
    return ValueError(f"Decoder: {argument} must {rule} for engine 'persistent', got {got}")


def check_model(model: Any) -> None:
    """Raises ValueError, naming what and why, unless the engine can run the model.

    Args:
        model: a `transformers` model that the torch engine supports.
    """
    config = model.config
    if config.model_type not in FAMILIES:
        raise _refuse("target", f"be one of {', '.join(FAMILIES)}", config.model_type)
    for name, weight in model.named_parameters():
        if weight.dtype != torch.bfloat16:
            raise _refuse("target", "have bfloat16 weights", f"{weight.dtype} in {name}")
    _check_sizes(config)
    if config.hidden_act != "silu":
        raise _refuse("target", "have hidden_act silu", config.hidden_act)
    windows = set(layer_windows(config))
    if len(windows) > 1:
        found = ", ".join(sorted(map(str, windows)))
        raise _refuse("target", "have one sliding window for all layers", found)
    _check_layers(model)
    embedding, head = model.get_input_embeddings().weight, model.lm_head.weight
    if embedding.shape[0] != config.vocab_size or head.shape[0] != config.vocab_size:
        got = f"{embedding.shape[0]} embeddings and {head.shape[0]} logits"
        raise _refuse("target", f"have vocab_size {config.vocab_size} rows in both ends", got)


def _check_sizes(config: Any) -> None:
    size = head_dim(config)
    if size not in HEAD_DIMS:
        raise _refuse("target", "have head_dim 64 or 128", size)
    if config.hidden_size % 64:
        raise _refuse("target", "have a hidden_size that is a multiple of 64", config.hidden_size)
    if config.num_hidden_layers > MAX_LAYERS:
        raise _refuse("target", f"have at most {MAX_LAYERS} layers", config.num_hidden_layers)
    if config.num_attention_heads % config.num_key_value_heads:
        got = f"{config.num_attention_heads} over {config.num_key_value_heads}"
        raise _refuse("target", "share key-value heads evenly among its heads", got)


def _check_layers(model: Any) -> None:
    """Refuses biases that the kernel does not add, and scores of another scale."""
    for index, layer in enumerate(model.model.layers):
        attention, mlp = layer.self_attn, layer.mlp
        for name, linear in (
            ("attention's output projection", attention.o_proj),
            ("gate projection", mlp.gate_proj),
            ("up projection", mlp.up_proj),
            ("down projection", mlp.down_proj),
        ):
            if linear.bias is not None:
                raise _refuse("target", f"have no bias in the {name}", f"one in layer {index}")
        projections = (attention.q_proj, attention.k_proj, attention.v_proj)
        if len({linear.bias is None for linear in projections}) > 1:
            rule = "have a bias in all of query, key and value or in none"
            raise _refuse("target", rule, f"some in layer {index}")
        if abs(attention.scaling * head_dim(model.config) ** 0.5 - 1.0) > 1e-6:
            rule = "scale scores by 1 / sqrt(head_dim)"
            raise _refuse("target", rule, f"{attention.scaling} in layer {index}")
    if model.lm_head.bias is not None:
        raise _refuse("target", "have no bias in the LM head", "one")


def check_config(config: ViaConfig) -> None:
    """Raises ValueError for settings that are decided on the host."""
    if config.agreement is not None:
        raise _refuse("config.agreement", "be None", config.agreement)
    if config.auto_tier:
        raise _refuse("config.auto_tier", "be False", config.auto_tier)


def run_config(
    config: ViaConfig, rows: int, num_nodes: int, hooks: list[RowHooks] | None, *, has_slim: bool
) -> ViaConfig:
    """The configuration with the backlog that fits one pass.

    Args:
        config: the caller's.
        rows: batch rows.
        num_nodes: drafted nodes of a step.
        hooks: per row; with stopping criteria only.
        has_slim: there is a backlog.

    Raises:
        ValueError: too many rows or tokens, or a hook has to see logits.
    """
    if any(row.reads_rows for row in hooks or ()):
        rule = "be unset"
        raise _refuse("logits_processor, output_scores and output_logits", rule, "a call per row")
    if rows > MAX_BATCH:
        raise _refuse("input_ids", f"have at most {MAX_BATCH} rows", rows)
    room = MAX_TOKENS // rows - 1 - num_nodes
    if room < 0:
        rule = f"have at most {MAX_TOKENS // rows - 1} nodes with {rows} rows"
        raise _refuse("config.tree or num_draft_tokens", rule, num_nodes)
    backlog = min(config.max_backlog, room)
    if has_slim and backlog < MIN_BACKLOG:
        raise _refuse(
            "config.max_backlog",
            f"be at least {MIN_BACKLOG}, at most {MAX_TOKENS} / rows - 1 - nodes = {room},",
            config.max_backlog,
        )
    return replace(config, max_backlog=max(backlog, 1))
