# SPDX-License-Identifier: Apache-2.0
"""`Router`: predicted disagreement with the full model, in place of the paper's two thresholds.

Three logistic models say how likely a decision differs from the full model's first choice; a node
is accepted, regenerated or escalated by these probabilities (docs/design.md, section 12). The form
is fixed, so that a kernel can evaluate it: a bias and one weight for each of `FEATURES`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

#: What the models see of a node v with parent row u, in the order of their weights (after the
#: bias). s is the slim verifier's distribution of row u at the ratios' temperature, p the drafter's
#: at temperature 1. Logarithms are cut to [-LIMIT, 0], margins to [0, LIMIT].
FEATURES = (
    "log_ratio",  # ln s(v) - ln max s
    "log_max",  # ln max s
    "margin",  # ln of the largest over the second largest of s
    "log_draft",  # ln p(v)
    "draft_margin",  # ln of the largest over the second largest of p
    "depth",  # of the node: a child of the root has 1
    "same",  # 1 if v is the first choice of s, else 0
)
LIMIT = 20.0
NUM_WEIGHTS = 1 + len(FEATURES)
#: float32 values of a packed router: three models, then three thresholds.
PACKED_SIZE = 3 * NUM_WEIGHTS + 3
_LARGEST = torch.finfo(torch.float32).max
_DRAFT_FEATURES = (FEATURES.index("log_draft"), FEATURES.index("draft_margin"))


@dataclass(frozen=True)
class Router:
    """Three models and how much predicted error each kind of decision may have.

    At a row with a candidate v: accept v if P(v is not the full model's choice) <= `accept_error`;
    else regenerate if P(the slim verifier's first choice is not) <= `regenerate_error`; else
    escalate. At a row without a candidate the bonus token is emitted if its P <= `bonus_error`,
    else the step escalates. An error limit of 1 always passes, a negative one never does.

    Attributes:
        draft: bias and weights [8] for a drafted token.
        slim: bias and weights for the slim verifier's first choice beside a refused candidate.
        bonus: the same where there is no candidate: the features of v are 0, depth is that of a
            child.
        accept_error: in [0, 1], or negative for never.
        regenerate_error: likewise.
        bonus_error: likewise.

    Raises:
        TypeError: a field is no number, or no sequence of them.
        ValueError: a weight is not finite, there are not 8 of them, or a limit is NaN or above 1.
    """

    draft: tuple[float, ...]
    slim: tuple[float, ...]
    bonus: tuple[float, ...]
    accept_error: float
    regenerate_error: float
    bonus_error: float

    def __post_init__(self) -> None:
        """Check every field."""
        for name in ("draft", "slim", "bonus"):
            object.__setattr__(self, name, weights_of("Router", name, getattr(self, name)))
        for name in ("accept_error", "regenerate_error", "bonus_error"):
            limit = getattr(self, name)
            if isinstance(limit, bool) or not isinstance(limit, int | float):
                raise TypeError(f"Router: {name} must be a number, got {limit!r}")
            if not limit <= 1.0:
                raise ValueError(f"Router: {name} must be at most 1, got {limit}")

    @property
    def uses_draft(self) -> bool:
        """True if a model weighs the drafter's own scores."""
        models = (self.draft, self.slim, self.bonus)
        return any(model[1 + index] != 0.0 for model in models for index in _DRAFT_FEATURES)

    def packed(self) -> tuple[float, ...]:
        """The numbers of `pack`, on the host."""
        limits = map(_log_odds, (self.accept_error, self.regenerate_error, self.bonus_error))
        return (*self.draft, *self.slim, *self.bonus, *limits)

    def pack(self, device: torch.device | str = "cpu") -> torch.Tensor:
        """The router as `ops.verify` takes it: [27] float32.

        Weights of `draft`, `slim` and `bonus`, then the three limits as log-odds: a decision passes
        if bias + weights * features <= the limit.
        """
        return torch.tensor(self.packed(), dtype=torch.float32, device=device)


def weights_of(
    owner: str, name: str, values: object, count: int = NUM_WEIGHTS
) -> tuple[float, ...]:
    """`values` as `count` numbers that are finite as float32.

    Raises:
        TypeError: they are no numbers.
        ValueError: there are more or fewer, or one is not finite.
    """
    if not isinstance(values, tuple | list):
        raise TypeError(f"{owner}: {name} must be a sequence of {count} numbers, got {values!r}")
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TypeError(f"{owner}: {name} must hold numbers, got {value!r}")
        if not abs(value) <= _LARGEST:
            raise ValueError(f"{owner}: {name} must hold finite numbers, got {value}")
    if len(values) != count:
        raise ValueError(f"{owner}: {name} must hold {count} numbers, got {len(values)}")
    return tuple(map(float, values))


def _log_odds(probability: float) -> float:
    if probability <= 0.0:
        # Exactly 0 still passes a model that is certain, which a finite sum never is.
        return -math.inf
    return math.inf if probability >= 1.0 else math.log(probability / (1.0 - probability))
