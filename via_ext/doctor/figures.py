# SPDX-License-Identifier: Apache-2.0
"""What the cost model of `diagnose` takes: pass times, token statistics, counts of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise


@dataclass(frozen=True)
class Times:
    """Seconds of the passes, as curves over the number of tokens in them.

    Attributes:
        curves: per kind of pass, (tokens, seconds) by rising tokens; between them and beyond the
            last two it is a straight line. Kinds: full, slim, tail (resumed after a slim pass),
            prefix (the shared layers alone), draft (over drafted tokens).
        host: seconds of a step outside the passes: plain, two (tiers), slim.
    """

    curves: Mapping[str, tuple[tuple[int, float], ...]]
    host: Mapping[str, float]

    def at(self, kind: str, tokens: float) -> float:
        """Seconds of a pass over so many tokens."""
        points = self.curves[kind]
        if len(points) == 1:
            return points[0][1]
        pairs = list(pairwise(points))
        low, high = next((pair for pair in pairs if tokens <= pair[1][0]), pairs[-1])
        slope = (high[1] - low[1]) / (high[0] - low[0])
        return max(0.0, low[1] + slope * (tokens - low[0]))

    def scaled(self, factors: Mapping[str, float]) -> Times:
        """The same with the curves of some kinds multiplied."""
        curves = {
            kind: tuple((tokens, factors.get(kind, 1.0) * value) for tokens, value in points)
            for kind, points in self.curves.items()
        }
        return replace(self, curves=curves)


@dataclass(frozen=True)
class Tokens:
    """What drafts and slim verifier are worth on the model's own text.

    Attributes:
        accepted: P(the first j drafted tokens are the full model's) for j = 1, 2, ...
        slim_accepted: the same against the slim verifier.
        agreement: P(the slim verifier's first choice is the full model's).
        persistence: the same after a token where it was: errors come in clusters.
    """

    accepted: tuple[float, ...]
    slim_accepted: tuple[float, ...] = ()
    agreement: float = 0.0
    persistence: float = 0.0

    def gain(self, drafted: int) -> float:
        """Expected tokens of a step that the full model judges: accepted ones and its own."""
        return 1.0 + sum(self.accepted[:drafted])

    def slim_gain(self, drafted: int) -> float:
        """The same of the slim verifier."""
        return 1.0 + sum(self.slim_accepted[:drafted])

    def survival(self, tokens: float) -> float:
        """P(so many tokens of the slim verifier in a row are all right), equation (33)."""
        if tokens < 1.0:
            return 1.0 - tokens * (1.0 - self.agreement)
        return float(self.agreement * self.persistence ** (tokens - 1.0))

    def kept(self, tokens: float) -> float:
        """Expected number of them before the first that is wrong."""
        whole = int(tokens)
        certain = sum(self.survival(count) for count in range(1, whole + 1))
        return certain + (tokens - whole) * self.survival(whole + 1)

    def with_agreement(self, agreement: float) -> Tokens:
        """Another agreement, all that follows from errors changed in proportion to them.

        At 1 the slim verifier takes the drafts that the full model takes.
        """
        scale = (1.0 - agreement) / max(1e-9, 1.0 - self.agreement)
        pairs = zip(self.accepted, self.slim_accepted, strict=True)
        taken = [min(1.0, max(0.0, full + scale * (slim - full))) for full, slim in pairs]
        persistence = max(0.0, 1.0 - scale * (1.0 - self.persistence))
        return Tokens(self.accepted, tuple(taken), agreement, persistence)


@dataclass(frozen=True)
class Counts:
    """What a run did: everything equation (36) needs of it.

    Attributes:
        tokens: emitted.
        steps: decoding steps.
        slim_passes: slim passes.
        full_passes: full passes.
        drafted: drafted tokens.
        slim_tokens: emitted tokens that the slim verifier decided.
        agreed: emitted tokens that are the full model's first choice in their context.
    """

    tokens: int = 0
    steps: int = 0
    slim_passes: int = 0
    full_passes: int = 0
    drafted: int = 0
    slim_tokens: int = 0
    agreed: int = 0

    @property
    def straight(self) -> int:
        """Full passes without a slim pass before them."""
        return self.steps - self.slim_passes

    @property
    def escalated(self) -> int:
        """Full passes after a slim pass of the same step."""
        return self.full_passes - self.straight

    @property
    def escalation_rate(self) -> float:
        """Steps with both passes, of those with a slim pass."""
        return self.escalated / self.slim_passes if self.slim_passes else 0.0

    @property
    def draft(self) -> float:
        """Drafted tokens per step."""
        return self.drafted / self.steps if self.steps else 0.0

    @property
    def agreement(self) -> float:
        """Share of emitted tokens that are the full model's choice."""
        return self.agreed / self.tokens if self.tokens else 0.0

    def plus(self, other: Counts) -> Counts:
        """Field by field."""
        names = self.__dataclass_fields__
        return Counts(**{name: getattr(self, name) + getattr(other, name) for name in names})
