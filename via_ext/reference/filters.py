# SPDX-License-Identifier: Apache-2.0
"""From a logits row to the distribution that tokens are drawn from."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from via_ext.reference.philox import PURPOSE_DRAFTER, philox_uniform

_NEG_INF = -math.inf
PerRow = float | int | Tensor


class Filters(NamedTuple):
    """Sampling filters of one batch row; the defaults are greedy and keep everything."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0

    @property
    def are_valid(self) -> bool:
        """False for a NaN or a value outside its range."""
        return (
            0.0 <= self.temperature < math.inf
            and self.top_k >= 0
            and 0.0 < self.top_p <= 1.0
            and 0.0 <= self.min_p <= 1.0
        )


def per_row(value: PerRow, rows: int) -> list[float]:
    """A number or a tensor [rows] as one float32 value per batch row, the precision of the op."""
    numbers = torch.as_tensor(value, dtype=torch.float32).expand(rows)
    return [float(number) for number in numbers.tolist()]


def filters_per_row(
    rows: int, temperature: PerRow, top_k: PerRow, top_p: PerRow, min_p: PerRow
) -> list[Filters]:
    """The filters of every batch row."""
    counts = torch.as_tensor(top_k, dtype=torch.int64).expand(rows).tolist()
    columns = (per_row(value, rows) for value in (top_p, min_p))
    return [Filters(*row) for row in zip(per_row(temperature, rows), counts, *columns, strict=True)]


class Row(NamedTuple):
    """A logits row with its special values resolved.

    Attributes:
        logits: [V] float64; -inf where the mask forbids, where NaN stood, and, beside a +inf,
            everywhere but at the first +inf (which becomes 0): such a row is one-hot.
        has_nan: a NaN stood at an allowed id.
        fallback: lowest allowed id, else 0: the token of a row without any mass.
    """

    logits: Tensor
    has_nan: bool
    fallback: int

    @property
    def has_mass(self) -> bool:
        """False if no allowed logit is above -inf."""
        return bool((self.logits > _NEG_INF).any())

    @property
    def argmax(self) -> int:
        """Lowest id that holds the largest logit."""
        return int((self.logits == self.logits.max()).nonzero()[0])


def read_row(logits: Tensor, allowed: Tensor | None = None) -> Row:
    """Resolves mask, NaN and +inf of one row.

    Args:
        logits: [V] float32, float16 or bfloat16.
        allowed: [ceil(V/32)] int32: bit v % 32 of word v // 32 set = id v is allowed.
    """
    values = logits.double()
    ids = torch.arange(len(values))
    if allowed is None:
        mask = torch.ones(len(values), dtype=torch.bool)
    else:
        words = allowed.to("cpu", torch.int64)
        mask = (words[ids // 32] >> (ids % 32)) & 1 == 1
    values = values.cpu().masked_fill(~mask, _NEG_INF)
    has_nan = bool(values.isnan().any())
    values = values.nan_to_num(nan=_NEG_INF, posinf=math.inf, neginf=_NEG_INF)
    infinite = (values == math.inf).nonzero()
    if len(infinite):
        values = torch.full_like(values, _NEG_INF)
        values[infinite[0]] = 0.0
    return Row(values, has_nan, int(ids[mask][0]) if mask.any() else 0)


def _kept(row: Row, filters: Filters) -> Tensor:
    """[V] bool: the ids that top-k, top-p and min-p leave, in this order. Keeps an argmax."""
    logits = row.logits
    kept = logits > _NEG_INF
    if 0 < filters.top_k < len(logits):
        # All ties of the k-th value stay.
        kept &= logits >= logits.topk(filters.top_k).values[-1]
    if filters.top_p < 1.0:
        # Mass is that of the distribution top-k left, in order of (probability, id).
        order = logits.sort(descending=True, stable=True).indices
        mass = _softmax(logits.masked_fill(~kept, _NEG_INF), filters.temperature)[order]
        before = mass.cumsum(0) - mass
        before[0] = 0.0
        kept &= torch.zeros_like(kept).scatter(0, order, before < filters.top_p)
    if filters.min_p > 0.0:
        kept &= ((logits - logits.max()) / filters.temperature).exp() >= filters.min_p
    return kept


def _softmax(logits: Tensor, temperature: float) -> Tensor:
    weights = ((logits - logits.max()) / temperature).exp()
    return weights / weights.sum()


def probabilities(row: Row, filters: Filters) -> Tensor:
    """[V] float64: the filtered distribution of a row.

    One-hot at the argmax for temperature 0; one-hot at the fallback id for a row without mass.
    """
    one_hot = torch.zeros_like(row.logits)
    if not row.has_mass:
        one_hot[row.fallback] = 1.0
        return one_hot
    if filters.temperature == 0.0:
        one_hot[row.argmax] = 1.0
        return one_hot
    kept = _kept(row, filters)
    return _softmax(row.logits.masked_fill(~kept, _NEG_INF), filters.temperature)


def log_probability(row: Row, filters: Filters, token: int) -> float:
    """Log of the filtered probability; at temperature 0 the log-softmax at temperature 1.

    -inf for a token outside the filters and for every token of a row without mass.
    """
    if filters.temperature == 0.0:
        filters = Filters(temperature=1.0)
    if not row.has_mass or not _kept(row, filters)[token]:
        return _NEG_INF
    logits = row.logits.masked_fill(~_kept(row, filters), _NEG_INF) / filters.temperature
    return float(logits[token] - logits.logsumexp(0))


def draw(weights: Tensor, uniform: float) -> int:
    """The smallest id t with cumsum(weights)[t] > uniform * sum(weights)."""
    sums = weights.cumsum(0)
    return int((sums > uniform * sums[-1]).nonzero()[0])


def filtered_probs(
    logits: Tensor,
    *,
    temperature: PerRow = 1.0,
    top_k: PerRow = 0,
    top_p: PerRow = 1.0,
    min_p: PerRow = 0.0,
    allowed: Tensor | None = None,
) -> Tensor:
    """The filtered distribution of every row.

    Order: grammar mask, temperature, top-k (keeps all ties of the k-th value), top-p (smallest set,
    by probability descending then id ascending, such that the mass before each kept token is
    < top_p), min-p. A row whose parameters are out of range is greedy.

    Args:
        logits: [..., V] float32, float16 or bfloat16.
        temperature: number or [...], finite >= 0; 0 = one-hot at the argmax.
        top_k: number or [...], >= 0; 0 = off.
        top_p: number or [...], in (0, 1]; 1 = off.
        min_p: number or [...], in [0, 1]; 0 = off.
        allowed: [..., ceil(V/32)] int32, bit set = allowed.

    Returns:
        [..., V] float32.
    """
    lead = logits.shape[:-1]
    flat = [
        torch.as_tensor(value).expand(lead).flatten()
        for value in (temperature, top_k, top_p, min_p)
    ]
    rows = logits.reshape(-1, logits.shape[-1])
    words = None if allowed is None else allowed.reshape(len(rows), -1)
    filters = filters_per_row(len(rows), *flat)
    probs = torch.empty(rows.shape, dtype=torch.float32, device=logits.device)
    for r in range(len(rows)):
        row = read_row(rows[r], None if words is None else words[r])
        probs[r] = probabilities(row, filters[r] if filters[r].are_valid else Filters())
    return probs.view(logits.shape)


def draft_sample(
    logits: Tensor,
    *,
    seed: Tensor | None = None,
    position: Tensor | None = None,
    column: int = 0,
    temperature: PerRow = 1.0,
    top_k: PerRow = 0,
    top_p: PerRow = 1.0,
    min_p: PerRow = 0.0,
    allowed: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """One token per row from its filtered distribution, with the drafter's own random stream.

    Args:
        logits: [R, V] float32, float16 or bfloat16.
        seed: [R] int64; needed unless every temperature is 0.
        position: [R] int64; needed unless every temperature is 0.
        column: counter word 2, by custom the node being drafted.
        temperature: as in `filtered_probs`, and so the other filters and `allowed`.
        top_k: see `filtered_probs`.
        top_p: see `filtered_probs`.
        min_p: see `filtered_probs`.
        allowed: see `filtered_probs`.

    Returns:
        token_ids [R] int64 and probs [R, V] float32, the distribution they were drawn from.
    """
    probs = filtered_probs(
        logits, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, allowed=allowed
    )
    tokens = []
    for r in range(len(logits)):
        uniform = 0.0
        if seed is not None and position is not None:
            uniform = philox_uniform(int(seed[r]), int(position[r]), column, PURPOSE_DRAFTER)
        tokens.append(draw(probs[r].double().cpu(), uniform))
    return torch.tensor(tokens, dtype=torch.int64, device=logits.device), probs
