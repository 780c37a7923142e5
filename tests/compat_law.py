# SPDX-License-Identifier: Apache-2.0
"""Laws for the drop-ins' tests: does a sample follow a distribution."""

import math

import pytest
import torch
from torch import Tensor

from tests import simulation

LEAST_EXPECTED = 5.0


def assert_follows(tokens: Tensor, probs: Tensor, label: str = "") -> None:
    """Chi-square with ten standard deviations of room, so that only a wrong law fails.

    Tokens expected less than five times share one bin.
    """
    observed = torch.bincount(tokens.cpu().long(), minlength=len(probs)).double()
    expected = probs.cpu().double() * len(tokens)
    assert len(observed) == len(probs), f"{label}: a token outside the vocabulary"
    assert (observed[expected == 0] == 0).all(), f"{label}: a token of probability 0"
    common = expected >= LEAST_EXPECTED
    bins = torch.cat([observed[common], observed[~common].sum()[None]])
    means = torch.cat([expected[common], expected[~common].sum()[None]])
    kept = means >= LEAST_EXPECTED
    freedom = int(kept.sum()) - 1
    assert freedom >= 1, f"{label}: too few samples to judge"
    chi2 = ((bins - means)[kept] ** 2 / means[kept]).sum().item()
    assert chi2 < freedom + 10 * math.sqrt(2 * freedom), f"{label}: chi2 {chi2} of {freedom}"


def samples(count: int, device: str) -> int:
    """`count`; skips the test in the simulation, which is compared token by token elsewhere."""
    if simulation.is_simulated(device):
        pytest.skip(f"{count} samples: too slow for the simulation")
    return count
