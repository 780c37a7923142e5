# SPDX-License-Identifier: Apache-2.0
"""The routes that a search may try, and how it moves among them."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import NamedTuple

from via_ext.route import SlimRoute

#: Indices of skipped sublayers in `RouteSpace.sublayers`.
Skips = frozenset[int]
_TRIES = 200


class Sublayer(NamedTuple):
    """One sublayer: its layer, and "attention" or "mlp"."""

    layer: int
    part: str


class RouteSpace:
    """Routes that keep the first layers and the last one whole.

    Attributes:
        num_layers: of the model.
        prefix: leading layers that every route keeps.
        sublayers: those that may be skipped, in the order of the pass.
        count: how many a route skips, None = any number from 1.
    """

    def __init__(self, num_layers: int, skip_ratio: float | None, prefix: int | None) -> None:
        """Checks that there are such routes.

        Raises:
            TypeError, ValueError: a number has the wrong type or range, or there is no such route.
        """
        if prefix is None:
            prefix = num_layers // 4
        if isinstance(prefix, bool) or not isinstance(prefix, int):
            raise TypeError(f"search_route: min_shared_prefix must be an int, got {prefix!r}")
        if not 0 <= prefix < num_layers:
            rule = f"be in [0, {num_layers})"
            raise ValueError(f"search_route: min_shared_prefix must {rule}, got {prefix}")
        self.num_layers = num_layers
        self.prefix = max(1, prefix)  # the first layer is kept in any case
        self.sublayers = [
            Sublayer(layer, part)
            for layer in range(self.prefix, num_layers - 1)
            for part in ("attention", "mlp")
        ]
        limit = len(self.sublayers)
        if not limit:
            rule = "leave a layer between it and the last one"
            raise ValueError(f"search_route: min_shared_prefix must {rule}, got {prefix}")
        self.count: int | None = None
        if skip_ratio is None:
            return
        if isinstance(skip_ratio, bool) or not isinstance(skip_ratio, int | float):
            raise TypeError(f"search_route: skip_ratio must be a number, got {skip_ratio!r}")
        if not 0.0 < skip_ratio < 1.0:
            raise ValueError(f"search_route: skip_ratio must be in (0, 1), got {skip_ratio}")
        self.count = int(2 * num_layers * skip_ratio + 0.5)
        if not 1 <= self.count <= limit:
            kept = f"layers 0..{self.prefix - 1} and the last are kept whole"
            rule = f"skip 1 to {limit} of {2 * num_layers} sublayers ({kept})"
            got = f"{skip_ratio} ({self.count} sublayers)"
            raise ValueError(f"search_route: skip_ratio must {rule}, got {got}")

    def route(self, skips: Skips) -> SlimRoute:
        """The route that skips these sublayers."""
        gone = {self.sublayers[index] for index in skips}
        attention, mlp = (
            tuple(Sublayer(layer, part) not in gone for layer in range(self.num_layers))
            for part in ("attention", "mlp")
        )
        return SlimRoute(attention, mlp)

    def skips(self, route: SlimRoute) -> Skips:
        """The skipped sublayers of a route.

        Raises:
            ValueError: a search with these settings may not return it.
        """
        if route.num_layers != self.num_layers:
            rule = f"have {self.num_layers} layers"
            raise ValueError(f"search_route: initial must {rule}, got {route.num_layers}")
        found = {
            index
            for index, (layer, part) in enumerate(self.sublayers)
            if not (route.keep_attention if part == "attention" else route.keep_mlp)[layer]
        }
        skipped = round(route.skip_ratio * 2 * self.num_layers)
        if len(found) != skipped:
            rule = f"keep layers 0..{self.prefix - 1} and the last whole"
            raise ValueError(f"search_route: initial must {rule}, got {route}")
        if not skipped or self.count not in (None, skipped):
            rule = f"skip {self.count or 'at least 1'} sublayers"
            raise ValueError(f"search_route: initial must {rule}, got {skipped}")
        return frozenset(found)

    def evenly(self) -> Skips:
        """A start without any knowledge: the skipped sublayers spread evenly."""
        limit = len(self.sublayers)
        count = self.count or max(1, round(0.45 * limit))
        return frozenset((2 * i + 1) * limit // (2 * count) for i in range(count))

    def uniform(self, rng: random.Random) -> Skips:
        """A route of the space, all of one number of skips being equally likely."""
        count = self.count or rng.randint(1, len(self.sublayers))
        return frozenset(rng.sample(range(len(self.sublayers)), count))


class Moves:
    """Random changes that prefer to skip what hurts little when it is skipped alone.

    Args:
        space: the routes.
        order: all sublayers, those that hurt least first.
        rng: of every draw.
    """

    def __init__(self, space: RouteSpace, order: Sequence[int], rng: random.Random) -> None:
        """Ranks the sublayers."""
        self._space, self._order, self._rng = space, list(order), rng
        self._rank = {index: rank for rank, index in enumerate(order)}

    def starts(self) -> list[Skips]:
        """The sublayers that hurt least; where the count is free, for eight counts."""
        limit = len(self._order)
        counts = [max(1, limit * part // 8) for part in range(1, 9)]
        if self._space.count is not None:
            counts = [self._space.count]
        return [frozenset(self._order[:count]) for count in dict.fromkeys(counts)]

    def neighbour(self, skips: Skips) -> Skips:
        """One or two swaps; where the count is free, or one skip more or less."""
        kind = self._rng.random()
        if self._space.count is None and kind < 0.5:
            one_more = len(skips) == 1 or (kind < 0.25 and len(skips) < len(self._order))
            return self._skip(skips) if one_more else self._keep(skips)
        for _ in range(2 if kind > 0.8 else 1):
            if len(skips) < len(self._order):
                skips = self._skip(self._keep(skips))
        return skips

    def restart(self, best: Skips) -> Skips:
        """Far from what was tried: in turn a random route, or the best one with many swaps."""
        if self._rng.random() < 0.5:
            return self._space.uniform(self._rng)
        for _ in range(max(2, len(best) // 3)):
            best = self.neighbour(best)
        return best

    def repaired(self, skips: Skips) -> Skips:
        """The nearest allowed number of skips."""
        low = self._space.count or 1
        while len(skips) < low:
            skips = self._skip(skips)
        while len(skips) > (self._space.count or len(self._order)):
            skips = self._keep(skips)
        return skips

    def _skip(self, skips: Skips) -> Skips:
        kept = [index for index in self._order if index not in skips]
        return skips | {self._draw(kept, lambda index: len(self._order) - self._rank[index])}

    def _keep(self, skips: Skips) -> Skips:
        return skips - {self._draw(sorted(skips), lambda index: 1 + self._rank[index])}

    def _draw(self, indices: list[int], weight: Callable[[int], int]) -> int:
        return self._rng.choices(indices, [weight(index) for index in indices])[0]


def unseen(seen: set[Skips], propose: Callable[..., Skips], *arguments: Skips) -> Skips | None:
    """A proposal that is new, None if there seems to be none left."""
    for _ in range(_TRIES):
        skips = propose(*arguments)
        if skips not in seen:
            return skips
    return None
