# SPDX-License-Identifier: Apache-2.0
"""Candidate settings and the frontier of the best of them, by replay (docs/design.md, section 14).

Whole grids where they are small; else a seeded sample of the grid, then the neighbours of the best
for each agreement, round by round. The same seed gives the same settings.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from itertools import product
from typing import Any, NamedTuple

from via_ext.calibration.replay import Replay
from via_ext.calibration.stored import Setting

_STOPS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
_MATCHES = (0.0, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, math.inf)
_RATIOS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.15, 0.1, 0.05, 0.02)
_ERRORS = (
    -1.0,
    0.005,
    0.01,
    0.02,
    0.03,
    0.05,
    0.07,
    0.1,
    0.14,
    0.2,
    0.27,
    0.35,
    0.45,
    0.6,
    0.8,
    1.0,
)
#: Grid of each field of a lossy setting, of a two-tier one and of an exact one.
_LOSSY: dict[str, tuple[float, ...]] = {
    "accept_error": _ERRORS,
    "regenerate_error": _ERRORS,
    "bonus_error": _ERRORS,
    "draft_stop": _STOPS,
    "full_matches": _MATCHES,
    "full_ratio": _RATIOS,
}
_TWO_TIER: dict[str, tuple[float, ...]] = {
    "draft_stop": _STOPS,
    "full_matches": (0.0,),
    "full_ratio": _RATIOS,
}
_EXACT: dict[str, tuple[float, ...]] = {
    "draft_stop": _STOPS,
    "full_matches": _MATCHES,
    "audit_survival": (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98),
}
_ROUNDS, _REACH, _BEST, _AT_ONCE = 6, 2, 3, 256


class Point(NamedTuple):
    """A setting and what the replay says of it; cost in full passes per token."""

    setting: Setting
    agreement: float
    cost: float


def exact_points(replay: Replay, has_slim: bool, seed: int) -> list[Point]:
    """Settings of mode "exact"; without a slim verifier only the draft's length is free."""
    if not has_slim:
        return _search(replay, _TWO_TIER | {"full_ratio": (1.0,)}, (1.0,), seed, 128)
    # Where 0 matches are enough, no slim pass is made: two tiers are among the candidates.
    return _search(replay, _EXACT, (1.0,), seed, 48, exact=True)


def two_tier_points(replay: Replay) -> list[Point]:
    """Settings of mode "via" without slim passes: the whole grid."""
    return _search(replay, _TWO_TIER, (), 0, len(_STOPS) * len(_RATIOS))


def lossy_points(replay: Replay, agreements: Sequence[float], seed: int) -> list[Point]:
    """Settings of mode "via" with three tiers, around the best for each agreement below 1."""
    return _search(replay, _LOSSY, agreements, seed, 256)


def _search(
    replay: Replay,
    grid: dict[str, tuple[float, ...]],
    agreements: Sequence[float],
    seed: int,
    sample: int,
    exact: bool = False,
) -> list[Point]:
    """Replays `sample` settings of a grid, then neighbours of the best for each agreement."""
    sizes = [len(values) for values in grid.values()]
    if sample >= math.prod(sizes):
        fresh = list(product(*map(range, sizes)))
    else:
        generator = random.Random(seed)
        chosen: dict[tuple[int, ...], None] = {}
        while len(chosen) < sample:
            chosen[tuple(map(generator.randrange, sizes))] = None
        fresh = list(chosen)
    found: dict[tuple[int, ...], Point] = {}
    for _ in range(_ROUNDS):
        found |= zip(
            fresh, _points(replay, [_setting(grid, key) for key in fresh], exact), strict=True
        )
        near = []
        for agreement in agreements:
            good = [key for key, point in found.items() if point.agreement >= agreement]
            for best in sorted(good, key=lambda key: found[key].cost)[:_BEST]:
                near += _neighbours(best, sizes)
        fresh = [key for key in dict.fromkeys(near) if key not in found]
        if not fresh:
            break
    return list(found.values())


def _setting(grid: dict[str, tuple[float, ...]], key: tuple[int, ...]) -> Setting:
    fields: dict[str, Any] = {n: grid[n][i] for n, i in zip(grid, key, strict=True)}
    return Setting(1.0, **fields)


def _neighbours(key: tuple[int, ...], sizes: Sequence[int]) -> list[tuple[int, ...]]:
    near = []
    for axis, size in enumerate(sizes):
        for step in range(-_REACH, _REACH + 1):
            place = key[axis] + step
            if step and 0 <= place < size:
                near.append((*key[:axis], place, *key[axis + 1 :]))
    return near


def _points(replay: Replay, settings: Sequence[Setting], exact: bool) -> list[Point]:
    points: list[Point] = []
    for first in range(0, len(settings), _AT_ONCE):
        part = settings[first : first + _AT_ONCE]
        replayed = replay.run(part, exact)
        numbers = zip(replayed.agreement.tolist(), replayed.cost_per_token.tolist(), strict=True)
        points += [Point(s, a, c) for s, (a, c) in zip(part, numbers, strict=True)]
    return points


def cheapest(points: Sequence[Point]) -> Point:
    """The point of least cost, the first of equals."""
    return min(points, key=lambda point: point.cost)


def frontier(points: Sequence[Point], lowest: float, size: int) -> list[Point]:
    """The points that no other beats in both, agreement and cost falling along the list.

    Args:
        points: candidates.
        lowest: agreements under this are left out.
        size: most points, evenly taken; at least 2.
    """
    best: list[Point] = []
    for point in sorted(points, key=lambda point: (-point.agreement, point.cost)):
        if point.agreement >= lowest and (not best or point.cost < best[-1].cost):
            best.append(point)
    if len(best) <= size:
        return best
    return [best[i * (len(best) - 1) // (size - 1)] for i in range(size)]
