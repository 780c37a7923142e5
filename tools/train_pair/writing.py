# SPDX-License-Identifier: Apache-2.0
"""Text that a network writes itself, in batches, with a key-value cache."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from network import EPSILON, Layer, Network
from torch import Tensor


@torch.no_grad()
def write(
    network: Network, prompts: Tensor, count: int, sampled: int, random: torch.Generator
) -> Tensor:
    """Continue prompts [B, P] by `count` tokens in float32, full model.

    Args:
        network: the model.
        prompts: ids, all of one length.
        count: tokens to add.
        sampled: the last so many rows are sampled at temperature 1, the others are greedy.
        random: of the samples.

    Returns:
        ids [B, P + count].
    """
    rows, length = prompts.shape
    shape = network.shape
    heads, size = shape.num_attention_heads, shape.hidden_size // shape.num_attention_heads
    total = length + count
    caches = torch.zeros(shape.num_hidden_layers, 2, rows, heads, total, size)
    ids = torch.empty(rows, total, dtype=torch.int64)
    ids[:, :length] = prompts
    first = 0
    for last in range(length, total):
        x = network.embed(ids[:, first:last])
        for index, module in enumerate(network.layers):
            layer: Layer = module  # type: ignore[assignment]
            x = x + _attend(network, layer, x, caches[index], first, last)
            gate, up = F.linear(_norm(x, layer.mlp_norm), layer.gate_up).chunk(2, -1)
            x = x + F.linear(F.silu(gate) * up, layer.down)
        logits = F.linear(_norm(x[:, -1], network.norm), network.embedding)
        ids[:, last] = logits.argmax(-1)
        if sampled:
            drawn = logits[rows - sampled :].softmax(-1).multinomial(1, generator=random)
            ids[rows - sampled :, last] = drawn[:, 0]
        first = last
    return ids


def _norm(x: Tensor, weight: Tensor) -> Tensor:
    return F.rms_norm(x, (x.shape[-1],), weight, EPSILON)


def _attend(
    network: Network, layer: Layer, x: Tensor, cache: Tensor, first: int, last: int
) -> Tensor:
    """Attention of rows [first, last), whose keys and values are written to the cache."""
    rows, new, hidden = x.shape
    cos, sin = network.cos[first:last], network.sin[first:last]
    y = F.linear(_norm(x, layer.attention_norm), layer.qkv)
    y = y.view(rows, new, 3, -1, cos.shape[-1]).permute(2, 0, 3, 1, 4)
    query, key, value = y.unbind(0)
    half = cos.shape[-1] // 2

    def rotate(part: Tensor) -> Tensor:
        return part * cos + torch.cat([-part[..., half:], part[..., :half]], -1) * sin

    cache[0, :, :, first:last], cache[1, :, :, first:last] = rotate(key), value
    keys, values = cache[:, :, :, :last].unbind(0)
    # One row sees the whole cache; the first call, with all rows of the prompt, starts it.
    y = F.scaled_dot_product_attention(rotate(query), keys, values, is_causal=new > 1)
    return F.linear(y.transpose(1, 2).reshape(rows, new, hidden), layer.out)
