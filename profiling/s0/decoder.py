# SPDX-License-Identifier: Apache-2.0
"""A Llama-shaped decoder with random weights in plain torch, for timing only.

One pass takes M tokens of a draft tree behind a cached context: rows of a key-value cache that is
filled with noise, then the M new positions under an ancestor mask. Skipped sublayers are left out
of the pass; the LM head never is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

MAX_TOKENS = 64


@dataclass(frozen=True)
class Shape:
    """Sizes, named as in HF configurations."""

    name: str
    num_hidden_layers: int
    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int = 128256

    @property
    def layer_bytes(self) -> tuple[int, int]:
        """Bfloat16 weights of (attention, MLP)."""
        heads = self.num_attention_heads + self.num_key_value_heads
        attention = 2 * self.hidden_size * self.head_dim * heads
        return 2 * attention, 2 * 3 * self.hidden_size * self.intermediate_size

    def pass_bytes(self, skipped: frozenset[int]) -> int:
        """Weights that one pass reads; sublayer 2 i is attention i, 2 i + 1 is MLP i."""
        kept = [i for i in range(2 * self.num_hidden_layers) if i not in skipped]
        sublayers = sum(self.layer_bytes[i % 2] for i in kept)
        return sublayers + 2 * self.hidden_size * self.vocab_size


SHAPES = (
    Shape("1B", 16, 2048, 8192, 32, 8, 64),
    Shape("8B", 32, 4096, 14336, 32, 8, 128),
)


def slim_mask(num_hidden_layers: int, fraction: float = 0.45) -> frozenset[int]:
    """Sublayers to skip: `fraction` of each kind, spread evenly, never in the first layer."""
    count = round(fraction * num_hidden_layers)
    layers = [1 + i * (num_hidden_layers - 1) // count for i in range(count)]
    return frozenset(2 * layer + kind for layer in layers for kind in (0, 1))


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of x [heads, M, head_dim]."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


class Attention(nn.Module):
    """Normalisation, QKV, rotation, attention over cache and new tokens, output."""

    def __init__(self, shape: Shape, context: int) -> None:
        """`context`: cached positions; room for MAX_TOKENS new ones follows them."""
        super().__init__()
        self.shape, self.context = shape, context
        kv_size = shape.num_key_value_heads * shape.head_dim
        q_size = shape.num_attention_heads * shape.head_dim
        self.sizes = [q_size, kv_size, kv_size]
        self.norm = nn.RMSNorm(shape.hidden_size, eps=1e-5)
        self.qkv = nn.Linear(shape.hidden_size, sum(self.sizes), bias=False)
        self.out = nn.Linear(q_size, shape.hidden_size, bias=False)
        cache = torch.empty(2, shape.num_key_value_heads, context + MAX_TOKENS, shape.head_dim)
        self.register_buffer("cache", cache)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> Tensor:
        """Adds the sublayer to x [M, hidden]; mask [M * group, positions] is additive."""
        tokens, heads = len(x), self.shape.num_key_value_heads
        parts = self.qkv(self.norm(x)).split(self.sizes, dim=-1)
        q, k, v = (part.view(tokens, -1, self.shape.head_dim).transpose(0, 1) for part in parts)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        # The query heads of a group become rows, so that keys are not repeated.
        rows = q.reshape(heads, -1, self.shape.head_dim)
        self.cache[0, :, self.context : self.context + tokens] = k
        self.cache[1, :, self.context : self.context + tokens] = v
        keys, values = self.cache[:, None, :, : mask.shape[1]]
        y = functional.scaled_dot_product_attention(rows[None], keys, values, attn_mask=mask)
        y = y[0].reshape(-1, tokens, self.shape.head_dim).transpose(0, 1).reshape(tokens, -1)
        return x + self.out(y)


class Mlp(nn.Module):
    """Normalisation and SwiGLU."""

    def __init__(self, shape: Shape) -> None:
        """Gate and up are one projection."""
        super().__init__()
        self.norm = nn.RMSNorm(shape.hidden_size, eps=1e-5)
        self.gate_up = nn.Linear(shape.hidden_size, 2 * shape.intermediate_size, bias=False)
        self.down = nn.Linear(shape.intermediate_size, shape.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Adds the sublayer to x [M, hidden]."""
        gate, up = self.gate_up(self.norm(x)).chunk(2, dim=-1)
        return x + self.down(functional.silu(gate) * up)


class Decoder(nn.Module):
    """Embedding, sublayers, LM head."""

    def __init__(self, shape: Shape, context: int) -> None:
        """`context`: cached positions."""
        super().__init__()
        self.shape, self.context = shape, context
        self.embed = nn.Embedding(shape.vocab_size, shape.hidden_size)
        self.sublayers = nn.ModuleList(
            Attention(shape, context) if i % 2 == 0 else Mlp(shape)
            for i in range(2 * shape.num_hidden_layers)
        )
        self.norm = nn.RMSNorm(shape.hidden_size, eps=1e-5)
        self.lm_head = nn.Linear(shape.hidden_size, shape.vocab_size, bias=False)

    def inputs(self, tokens: int, device: torch.device | str) -> dict[str, Tensor]:
        """A random chain of drafts: ids, rotation tables and the additive mask."""
        dtype = self.norm.weight.dtype
        positions = torch.arange(self.context, self.context + tokens, device=device)
        half = torch.arange(0, self.shape.head_dim, 2, device=device) / self.shape.head_dim
        angles = torch.outer(positions.float(), 500000.0**-half).repeat(1, 2)
        # The fused attention kernels want masks whose rows are a multiple of 8 long.
        length = self.context + (tokens + 7) // 8 * 8
        seen = torch.ones(tokens, length, dtype=torch.bool, device=device)
        seen[:, self.context :] = seen[:, self.context :].tril()
        mask = torch.zeros(seen.shape, dtype=dtype, device=device).masked_fill_(~seen, -math.inf)
        group = self.shape.num_attention_heads // self.shape.num_key_value_heads
        return {
            "ids": torch.randint(0, self.shape.vocab_size, (tokens,), device=device),
            "cos": angles.cos().to(dtype),
            "sin": angles.sin().to(dtype),
            "mask": mask.repeat(group, 1),
        }

    def forward(
        self, ids: Tensor, cos: Tensor, sin: Tensor, mask: Tensor, skipped: frozenset[int]
    ) -> Tensor:
        """Logits [M, vocab]."""
        x = self.embed(ids)
        for index, sublayer in enumerate(self.sublayers):
            if index not in skipped:
                x = sublayer(x, cos, sin, mask) if index % 2 == 0 else sublayer(x)
        logits: Tensor = self.lm_head(self.norm(x))
        return logits


def random_decoder(shape: Shape, context: int, device: torch.device | str) -> Decoder:
    """Bfloat16 weights of unit gain, so that activations stay finite through all layers."""
    with torch.device("meta"):
        model = Decoder(shape, context)
    model = model.to(torch.bfloat16).to_empty(device=device)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.fill_(1.0)
            else:
                parameter.normal_(std=parameter.shape[1] ** -0.5)
        for buffer in model.buffers():
            buffer.normal_()
    return model.requires_grad_(False)
