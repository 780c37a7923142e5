# SPDX-License-Identifier: Apache-2.0
"""Times `tree_attention` beside other ways to the same result.

    python profiling/bench_attention.py [--device cpu] [--quick] [--budget-s 60] [--out FILE]

`bench_ops.py --device cuda` runs these cases too, and bench_cuda.py says what the columns mean. A
call is one layer: M new tokens per request, a tree in which token i hangs under (i - 1) // 2, over
a cache of `context` positions. Others find the new keys and values in the cache already; ours puts
them there. sdpa, sdpa_gqa: PyTorch with a boolean mask, heads repeated or shared; flex_attention:
compiled; flashinfer: one request, a mask of its own; flash_attn: as a chain, for it has no trees.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from bench_cases import DTYPES
from peers import Peer, Unfit
from torch import Tensor
from torch.nn import functional

from via_ext import ops

# Query heads, KV heads, head size of one layer.
MODELS = {"llama-3.2-1b": (32, 8, 64), "llama-3.1-8b": (32, 8, 128)}
TOKENS, CONTEXTS, BATCHES = (1, 6, 16, 64), (1024, 4096, 16384), (1, 4)
TOLERANCE = 0.03  # of the largest value, about 4: bfloat16 results of two orders of summation


@dataclass(frozen=True)
class AttentionCase:
    """One call, caches [B, S, Hkv, D]."""

    model: str
    batch: int
    tokens: int
    context: int
    dtype: str = "bfloat16"
    rule: str = "tree_attention"

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Query heads, KV heads, head size."""
        return MODELS[self.model]

    @property
    def floor_bytes(self) -> int:
        """Keys and values once, and what belongs to the new tokens."""
        heads, kv_heads, size = self.sizes
        new = self.tokens * (2 * heads + 4 * kv_heads)
        row = 2 * self.context * kv_heads + new
        return self.batch * row * size * DTYPES[self.dtype].itemsize

    def goal_us(self, bytes_per_us: float) -> float:
        """Time that a GPU with this copy bandwidth is to need at most."""
        return self.floor_bytes / (0.85 * bytes_per_us) + 4.0

    def columns(self) -> dict[str, Any]:
        """What the case is, for a CSV."""
        sizes = {"B": self.batch, "N": self.tokens, "V": "", "dtype": self.dtype}
        extra = {"right": "", "filters": f"context={self.context}"}
        return {"rule": self.rule, "drafts": self.model, **sizes, **extra}


@dataclass
class AttentionInputs:
    """Tensors of one case."""

    case: AttentionCase
    query: Tensor  # [B, M, Hq, D]
    key: Tensor  # [B, M, Hkv, D]
    value: Tensor
    key_cache: Tensor  # [B, S, Hkv, D], the new tokens at the end
    value_cache: Tensor
    context_lens: Tensor
    parents: Tensor
    mask: Tensor  # [M, S] bool: what a token sees


def build(case: AttentionCase, device: str) -> AttentionInputs:
    """Noise."""
    heads, kv_heads, size = case.sizes
    batch, tokens, dtype = case.batch, case.tokens, DTYPES[case.dtype]

    def noise(positions: int, count: int) -> Tensor:
        shape = (batch, positions, count, size)
        return torch.empty(shape, dtype=dtype, device=device).normal_()

    query, key, value = noise(tokens, heads), noise(tokens, kv_heads), noise(tokens, kv_heads)
    caches = [noise(case.context + tokens, kv_heads) for _ in range(2)]
    caches[0][:, case.context :] = key
    caches[1][:, case.context :] = value
    parents = [(i - 1) // 2 for i in range(tokens)]
    sees = torch.zeros(tokens, tokens, dtype=torch.bool)
    for i, parent in enumerate(parents):
        if parent >= 0:
            sees[i] = sees[parent]
        sees[i, i] = True
    mask = torch.cat([torch.ones(tokens, case.context, dtype=torch.bool), sees], 1).to(device)
    lens = torch.full((batch,), case.context, dtype=torch.int32, device=device)
    ids = torch.tensor(parents, dtype=torch.int32, device=device)
    return AttentionInputs(case, query, key, value, *caches, lens, ids, mask)


def ours(inputs: AttentionInputs) -> Callable[[], Any]:
    """`ops.tree_attention`, after one call whose result is compared with PyTorch's."""
    caches = (inputs.key_cache, inputs.value_cache)

    def call() -> Tensor:
        return ops.tree_attention(
            inputs.query,
            inputs.key,
            inputs.value,
            *caches,
            inputs.context_lens,
            parents=inputs.parents,
        )

    wrong = (call() - sdpa_gqa(inputs)().transpose(1, 2)).abs().max().item()
    if not wrong <= TOLERANCE:
        raise RuntimeError(f"off by {wrong:.3g}, at most {TOLERANCE} expected")

    def timed() -> None:
        call()

    return timed


def views(inputs: AttentionInputs) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key and value as [B, H, T, D]."""
    tensors = (inputs.query, inputs.key_cache, inputs.value_cache)
    query, key, value = (tensor.transpose(1, 2) for tensor in tensors)
    return query, key, value


def sdpa(inputs: AttentionInputs) -> Callable[[], Any]:
    """Keys and values repeated for every query head, as transformers does with a mask."""
    query, key, value = views(inputs)
    group = query.shape[1] // key.shape[1]

    def call() -> Tensor:
        keys, values = (x.repeat_interleave(group, 1) for x in (key, value))
        return functional.scaled_dot_product_attention(query, keys, values, attn_mask=inputs.mask)

    return call


def sdpa_gqa(inputs: AttentionInputs) -> Callable[[], Any]:
    """Heads shared inside."""
    query, key, value = views(inputs)
    return lambda: functional.scaled_dot_product_attention(
        query, key, value, attn_mask=inputs.mask, enable_gqa=True
    )


def flex(inputs: AttentionInputs) -> Callable[[], Any]:
    """`flex_attention`; the block mask is made outside the timed call."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    query, key, value = views(inputs)
    if not query.is_cuda:
        raise Unfit("compiled for a GPU only")
    mask = inputs.mask
    block_mask = create_block_mask(
        lambda b, h, q, kv: mask[q, kv], None, None, *mask.shape, device=query.device
    )
    torch._dynamo.reset()
    fused = torch.compile(flex_attention, dynamic=False)
    return lambda: fused(query, key, value, block_mask=block_mask, enable_gqa=True)


def flashinfer(inputs: AttentionInputs) -> Callable[[], Any]:
    """`single_prefill_with_kv_cache`."""
    import flashinfer as package

    if inputs.case.batch != 1:
        raise Unfit("one request only")
    query, key, value = inputs.query[0], inputs.key_cache[0], inputs.value_cache[0]
    return lambda: package.single_prefill_with_kv_cache(query, key, value, custom_mask=inputs.mask)


def flash_attn(inputs: AttentionInputs) -> Callable[[], Any]:
    """`flash_attn_with_kvcache`."""
    from flash_attn import flash_attn_with_kvcache

    lens = inputs.context_lens + inputs.case.tokens
    caches = (inputs.key_cache, inputs.value_cache)
    return lambda: flash_attn_with_kvcache(inputs.query, *caches, cache_seqlens=lens, causal=True)


OURS = Peer("via_ext", ours)
PEERS = (
    Peer("sdpa", sdpa),
    Peer("sdpa_gqa", sdpa_gqa),
    Peer("flashinfer", flashinfer, setup_s=5.0),
    Peer("flash_attn", flash_attn),
    Peer("flex_attention", flex, setup_s=10.0),
)


def cases(quick: bool = False) -> list[AttentionCase]:
    """Short contexts and small batches first."""
    contexts, tokens = (CONTEXTS[:1], TOKENS[:2]) if quick else (CONTEXTS, TOKENS)
    return [
        AttentionCase(model, batch, count, context)
        for context in contexts
        for batch in BATCHES
        for model in MODELS
        for count in tokens
    ]


def main() -> int:
    """Runs the cases of a device and writes the CSV."""
    import bench_cuda
    import machine
    from bench_timers import CopyBandwidth, EventTimer, HostTimer

    parser = argparse.ArgumentParser(description="Time tree_attention beside others.")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--quick", action="store_true", help="context 1024, at most 6 tokens")
    parser.add_argument("--budget-s", type=float, default=60.0, help="seconds for everything")
    parser.add_argument("--out", type=Path, help="CSV file")
    options = parser.parse_args()
    on_cpu = options.device == "cpu"
    folder = Path(__file__).parent / "results"
    out = options.out or folder / f"bench_attention_{options.device}.csv"
    timer = HostTimer() if on_cpu else EventTimer()
    copy = CopyBandwidth(options.device, *((1 << 26,) if on_cpu else ()))
    facts = {"torch": torch.__version__, "commit": machine.commit()}
    with out.open("w", newline="") as file:
        write = bench_cuda.writer(file, facts, header=True)
        runner = bench_cuda.Runner(options.device, timer, copy, write)
        end = runner.clock() + options.budget_s
        bench_cuda.run_attention(runner, cases(options.quick), end)
    return 1 if runner.wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
