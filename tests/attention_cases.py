# SPDX-License-Identifier: Apache-2.0
"""Cases for tree_attention: inputs, the op beside the reference, and plain PyTorch as the ruler."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from via_ext import ops, reference

FLOATS = (torch.float32, torch.float16, torch.bfloat16)
NAMES = ("query", "key", "value", "key_cache", "value_cache", "context_lens")


@dataclass
class Case:
    """The arguments of one call, on the CPU."""

    tensors: dict[str, Tensor]
    options: dict[str, Any] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def moved(self, device: str) -> tuple[list[Tensor], dict[str, Any]]:
        """Copies with the same strides on a device."""

        def move(value: Any) -> Any:
            if not isinstance(value, Tensor):
                return value
            return value.clone(memory_format=torch.preserve_format).to(device)

        options = {name: move(value) for name, value in self.options.items()}
        return [move(self.tensors[name]) for name in NAMES], options


def make_case(
    generator: torch.Generator,
    contexts: list[int],
    *,
    tokens: int = 5,
    heads: tuple[int, int] = (4, 2),
    dim: int = 64,
    capacity: int | None = None,
    dtype: torch.dtype = torch.float32,
    **options: Any,
) -> Case:
    """Random tensors; `heads` are (Hq, Hkv), `capacity` is just enough if not given."""
    batch = len(contexts)
    capacity = max(contexts) + tokens if capacity is None else capacity
    shapes = {
        "query": (batch, tokens, heads[0], dim),
        "key": (batch, tokens, heads[1], dim),
        "value": (batch, tokens, heads[1], dim),
        "key_cache": (batch, capacity, heads[1], dim),
        "value_cache": (batch, capacity, heads[1], dim),
    }
    tensors = {
        name: torch.randn(shape, generator=generator).to(dtype) for name, shape in shapes.items()
    }
    return Case({**tensors, "context_lens": torch.tensor(contexts)}, options)


def random_parents(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Forests: any earlier token, or none, is the parent."""
    chosen = torch.rand(shape, generator=generator) * (torch.arange(shape[-1]) + 1)
    return chosen.long() - 1


def paged(case: Case, page_size: int, generator: torch.Generator) -> Case:
    """The same caches as pages in random order, a few of them unused."""
    batch, capacity = case["key_cache"].shape[:2]
    per_row = -(-capacity // page_size)
    count = batch * per_row + 3
    table = torch.randperm(count, generator=generator)[: batch * per_row].reshape(batch, per_row)
    tensors = dict(case.tensors)
    for name in ("key_cache", "value_cache"):
        rows = case[name]
        pool = torch.randn(count, page_size, *rows.shape[2:], generator=generator).to(rows.dtype)
        places = torch.arange(capacity)
        for b in range(batch):
            pool[table[b, places // page_size], places % page_size] = rows[b]
        tensors[name] = pool
    return Case(tensors, {**case.options, "page_table": table.int()})


def plain(case: Case, after: list[Tensor], rows: list[int]) -> tuple[Tensor, Tensor]:
    """Eager PyTorch for well-formed rows: out in the dtype of the case, lse in float32.

    `after` are the caches with the new tokens.
    """
    query, options = case["query"], case.options
    out = torch.zeros_like(query)
    lse = torch.full(query.shape[:3], -torch.inf)
    group = query.shape[2] // case["key"].shape[2]
    for b in rows:
        context = int(case["context_lens"][b])
        count = int(options["num_tokens"][b]) if "num_tokens" in options else query.shape[1]
        places = torch.arange(context + count)
        at: tuple[Any, Any] = (b, places)
        if "page_table" in options:
            size = after[0].shape[1]
            at = (options["page_table"][b].long()[places // size], places % size)
        keys, values = (cache[at].repeat_interleave(group, 1) for cache in after)
        parents = options.get("parents", torch.arange(-1, query.shape[1] - 1))
        parents = parents.expand(len(query), -1)[b].tolist()
        mask = torch.zeros(count, context + count, dtype=torch.bool)
        depth = torch.zeros(context + count, dtype=torch.long)
        depth[:context] = torch.arange(-context, 0)
        for i in range(count):
            mask[i, :context] = True
            if parents[i] >= 0:
                mask[i] |= mask[parents[i]]
                depth[context + i] = depth[context + parents[i]] + 1
            mask[i, context + i] = True
        if options.get("window"):
            mask &= depth > depth[context:, None] - options["window"]

        def scores(dtype: torch.dtype, b=b, count=count, keys=keys, mask=mask) -> Tensor:
            dots = torch.einsum("mhd,nhd->hmn", query[b, :count].to(dtype), keys.to(dtype))
            dots = dots * options.get("scale", query.shape[-1] ** -0.5)
            if options.get("softcap"):
                dots = options["softcap"] * (dots / options["softcap"]).tanh()
            return dots.masked_fill(~mask, -torch.inf)

        weights = scores(query.dtype).softmax(-1)
        out[b, :count] = torch.einsum("hmn,nhd->mhd", weights, values)
        lse[b, :count] = scores(torch.float32).logsumexp(-1).t()
    return out, lse


def check(
    device: str, case: Case, *, ruler: bool = True, slack: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Runs the op against the reference; returns its out and lse, on the CPU.

    Caches must agree bit for bit, so nothing else was written. With `ruler` the error of `out` is
    at most twice that of plain PyTorch in the same dtype, plus one rounding of float32.
    """
    given, options = case.moved(device)
    out, lse = ops.tree_attention(*given, **options, return_lse=True)
    wanted, wanted_options = case.moved("cpu")
    exact, exact_lse = reference.tree_attention(*wanted, **wanted_options, return_lse=True)
    for name, mine, theirs in zip(NAMES, given, wanted, strict=True):
        assert torch.equal(mine.cpu(), theirs), name
    assert out.dtype == case["query"].dtype and out.shape == case["query"].shape
    assert lse.dtype == torch.float32 and out.is_contiguous() and lse.is_contiguous()
    out, lse = out.cpu(), lse.cpu()
    seen = exact_lse > -torch.inf
    assert torch.equal(lse > -torch.inf, seen) and not out[~seen].any()
    if not seen.any():
        return out, lse
    size, lse_size = exact.abs().max().clamp(min=1e-3), exact_lse[seen].abs().max().clamp(min=1)
    allowed = [size * 4 * torch.finfo(out.dtype).eps, 1e-5 * lse_size]
    if ruler:
        rows = [b for b in range(len(seen)) if seen[b].any()]
        theirs, their_lse = plain(case, wanted[3:5], rows)
        rounding = 2**-22
        allowed = [
            2 * (theirs.double() - exact).abs().max() + size * rounding,
            2 * (their_lse.double() - exact_lse)[seen].abs().max() + lse_size * rounding,
        ]
    errors = [(out.double() - exact).abs().max(), (lse.double() - exact_lse)[seen].abs().max()]
    allowed = [allowed[0] + 2 * slack * size, allowed[1] + slack]
    assert errors[0] <= allowed[0] and errors[1] <= allowed[1], (errors, allowed)
    return out, lse
