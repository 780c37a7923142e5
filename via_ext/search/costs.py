# SPDX-License-Identifier: Apache-2.0
"""What each sublayer of a model costs in a pass: weight bytes, or measured seconds."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch

from via_ext.models.arena import KVArena
from via_ext.models.families import check_supported
from via_ext.models.passes import LayerPass, chain_block
from via_ext.models.view import KeptLayer
from via_ext.route import SlimRoute


@dataclass(frozen=True)
class SublayerCosts:
    """Costs of a model's sublayers, in one unit of any kind.

    Attributes:
        attention: one per layer.
        mlp: one per layer.
        rest: of what every pass does: LM head, and where measured embedding, norms and launches.
        unit: "bytes" or "seconds".
    """

    attention: tuple[float, ...]
    mlp: tuple[float, ...]
    rest: float
    unit: str

    @classmethod
    def from_bytes(cls, config: Any) -> SublayerCosts:
        """By weight bytes, counted as `SlimRoute.cost` counts them (its errors, too)."""
        layers = config.num_hidden_layers
        none = (False,) * layers
        first = (True, *none[1:])
        # Differences of routes, so that one function knows the sizes. A route keeps something.
        attention = SlimRoute(first, none).cost(config)
        mlp = SlimRoute(none, first).cost(config)
        both = SlimRoute(first, first).cost(config)
        rest = attention + mlp - both
        return cls((attention - rest,) * layers, (mlp - rest,) * layers, rest, "bytes")

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> SublayerCosts:
        """What `to_dict` made."""
        return cls(tuple(data["attention"]), tuple(data["mlp"]), data["rest"], data["unit"])

    def to_dict(self) -> dict[str, Any]:
        """Every field by name."""
        return asdict(self)

    @property
    def total(self) -> float:
        """A full pass."""
        return sum(self.attention) + sum(self.mlp) + self.rest

    def slim(self, route: SlimRoute) -> float:
        """A slim pass over a full one, in (0, 1]."""
        kept = [
            cost for cost, keep in zip(self.attention, route.keep_attention, strict=True) if keep
        ]
        kept += [cost for cost, keep in zip(self.mlp, route.keep_mlp, strict=True) if keep]
        return (sum(kept) + self.rest) / self.total

    def prefix(self, route: SlimRoute) -> float:
        """Share of a full pass that lies in the route's shared prefix, in [0, 1)."""
        depth = route.shared_prefix
        return (sum(self.attention[:depth]) + sum(self.mlp[:depth])) / self.total


def weight_bytes(model: Any) -> int:
    """Bytes of the weights that a pass reads: all but the embedding, unless it is the LM head."""
    embedding = model.get_input_embeddings().weight
    tied = model.lm_head.weight is embedding
    weights = {id(weight): weight for weight in model.parameters()}
    if not tied:
        del weights[id(embedding)]
    return sum(weight.numel() * weight.element_size() for weight in weights.values())


@torch.no_grad()
def sublayer_seconds(
    model: Any, *, num_tokens: int = 6, context: int = 256, repeats: int = 20
) -> SublayerCosts:
    """Measure each sublayer of a full pass on this machine.

    Args:
        model: a supported `transformers` causal language model.
        num_tokens: new tokens of a pass: the root and the draft.
        context: tokens before them.
        repeats: passes after a warm-up; the median of each sublayer counts.

    Returns:
        Seconds. What is in no sublayer is `rest`.

    Raises:
        TypeError, ValueError: the model is not supported, or a number is below 1.
    """
    check_supported(model)
    for name, value in (("num_tokens", num_tokens), ("context", context), ("repeats", repeats)):
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"sublayer_seconds: {name} must be an int, got {value!r}")
        if value < 1:
            raise ValueError(f"sublayer_seconds: {name} must be at least 1, got {value}")
    layers = model.config.num_hidden_layers
    arena = KVArena(model, 1, context + num_tokens)
    block = chain_block([0], [context], num_tokens)
    ids = torch.zeros((1, num_tokens), dtype=torch.int64)
    now, elapsed = _clock(arena.keys[0].device)
    marks: dict[tuple[int, str, bool], Any] = {}
    handles = []
    for index, layer in enumerate(model.model.layers):
        for kind, module in (("attention", layer.self_attn), ("mlp", layer.mlp)):
            for before in (True, False):
                handles.append(_watch(module, before, marks, (index, kind, before), now))
    taken: dict[tuple[int, str], list[float]] = {}
    totals = []
    try:
        part = LayerPass(model, [KeptLayer(index) for index in range(layers)])  # has the hooks
        for repeat in range(1 + repeats):
            begin = now()
            part(arena, block, token_ids=ids, num_logits=num_tokens)
            end = now()
            if repeat == 0:
                continue  # allocations and kernel selection
            totals.append(elapsed(begin, end))
            for index in range(layers):
                for kind in ("attention", "mlp"):
                    span = elapsed(marks[index, kind, True], marks[index, kind, False])
                    taken.setdefault((index, kind), []).append(span)
    finally:
        for handle in handles:
            handle.remove()
    attention, mlp = (
        tuple(statistics.median(taken[index, kind]) for index in range(layers))
        for kind in ("attention", "mlp")
    )
    rest = statistics.median(totals) - sum(attention) - sum(mlp)
    return SublayerCosts(attention, mlp, max(rest, 0.0), "seconds")


def _watch(
    module: torch.nn.Module, before: bool, marks: dict[Any, Any], key: Any, now: Callable[[], Any]
) -> Any:
    def mark(*_: Any) -> None:
        marks[key] = now()

    if before:
        return module.register_forward_pre_hook(mark)
    return module.register_forward_hook(mark)


def _clock(device: torch.device) -> tuple[Callable[[], Any], Callable[[Any, Any], float]]:
    """A time stamp and the seconds between two: of the stream on a GPU, else of the host."""
    if device.type != "cuda":
        return time.perf_counter, lambda begin, end: end - begin

    def now() -> Any:
        event: Any = torch.cuda.Event  # has no annotations
        stamp = event(enable_timing=True)
        stamp.record(torch.cuda.current_stream(device))
        return stamp

    def elapsed(begin: Any, end: Any) -> float:
        end.synchronize()
        return float(begin.elapsed_time(end)) / 1e3

    return now, elapsed
