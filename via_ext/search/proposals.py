# SPDX-License-Identifier: Apache-2.0
"""Which route a search tries next: sensitivity first, then swaps, restarts and TPE."""

from __future__ import annotations

import random
import warnings
from collections.abc import Generator
from typing import Any, NamedTuple

from via_ext.search.space import Moves, RouteSpace, Skips, unseen

#: Every so many proposals after the sensitivity pass, one comes from TPE.
THETA = 4


class Proposal(NamedTuple):
    """A route to score, and why."""

    kind: str
    skips: Skips


def propose(
    space: RouteSpace, initial: Skips, seed: int, with_tpe: bool
) -> Generator[Proposal, float, None]:
    """Proposes routes; `send` it the value of each.

    The order does not depend on how many will be asked for. It ends when no route is left.

    Args:
        space: the routes.
        initial: the first one.
        seed: of all draws.
        with_tpe: every `THETA`-th proposal comes from a tree-structured Parzen estimator that
            knows all routes scored so far.
    """
    rng = random.Random(seed)
    tpe = Tpe(space, seed) if with_tpe else None
    seen: set[Skips] = set()
    count = len(space.sublayers)

    def scored(skips: Skips, value: float) -> None:
        seen.add(skips)
        if tpe is not None:
            tpe.learn(skips, value)

    current, current_value = initial, (yield Proposal("initial", initial))
    scored(initial, current_value)
    best, best_value = current, current_value
    alone = []
    for index in range(count):
        skips = frozenset([index])
        alone.append((yield Proposal("sensitivity", skips)))
        if space.count in (None, 1):
            scored(skips, alone[-1])
            if alone[-1] < best_value:
                best, best_value = skips, alone[-1]
    current, current_value = best, best_value
    moves = Moves(space, sorted(range(count), key=alone.__getitem__), rng)
    for skips in moves.starts():
        if skips not in seen:
            value = yield Proposal("start", skips)
            scored(skips, value)
            if value < current_value:
                current, current_value = skips, value
    best, best_value = current, current_value
    stuck, proposals = 0, 0
    while True:
        proposals += 1
        found: Skips | None = None
        kind = "swap"
        if tpe is not None and proposals % THETA == 0:
            kind, found = "tpe", unseen(seen, lambda: tpe.suggest(moves))
        elif stuck < 2 * count:
            found = unseen(seen, moves.neighbour, current)
        if found is None:
            kind, found = "restart", unseen(seen, moves.restart, best)
        if found is None:
            return
        value = yield Proposal(kind, found)
        scored(found, value)
        stuck += 1
        if value < current_value or kind == "restart":
            current, current_value, stuck = found, value, 0
        if value < best_value:
            best, best_value = found, value


class Tpe:
    """Optuna's TPE sampler over one bit per sublayer, told of every route that was scored."""

    def __init__(self, space: RouteSpace, seed: int) -> None:
        """Makes a study in memory.

        Raises:
            ImportError: optuna is not installed.
        """
        self._optuna = optuna = require_optuna()
        bit = optuna.distributions.CategoricalDistribution([False, True])
        self._bits = {f"skip_{index}": bit for index in range(len(space.sublayers))}
        verbosity = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        with warnings.catch_warnings():
            # Optuna 4 calls multivariate TPE experimental.
            warnings.simplefilter("ignore")
            sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True, n_startup_trials=0)
            self._study = optuna.create_study(sampler=sampler)
        optuna.logging.set_verbosity(verbosity)

    def learn(self, skips: Skips, value: float) -> None:
        """Adds a scored route."""
        bits = {name: index in skips for index, name in enumerate(self._bits)}
        make = self._optuna.trial.create_trial
        self._study.add_trial(make(params=bits, distributions=self._bits, value=value))

    def suggest(self, moves: Moves) -> Skips:
        """A promising route, repaired where it skips too many sublayers or too few."""
        trial = self._study.ask(self._bits)
        found = frozenset(i for i, name in enumerate(self._bits) if trial.params[name])
        # What is scored in its place is told by `learn`.
        self._study.tell(trial, state=self._optuna.trial.TrialState.FAIL)
        return moves.repaired(found)


def require_optuna() -> Any:
    """The optuna module.

    Raises:
        ImportError: it is not installed; names the extra.
    """
    try:
        import optuna
    except ImportError as error:
        raise ImportError(
            'search_route needs optuna for proposals = "bayes": pip install "via_ext[search]"',
            name="optuna",
        ) from error
    return optuna
