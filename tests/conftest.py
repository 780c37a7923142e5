# SPDX-License-Identifier: Apache-2.0
"""Shared fixtures: seeds, devices, and the implementations that must agree."""

from functools import cache

import pytest
import torch

# The cases are small: more threads would only wait for each other.
torch.set_num_threads(1)


@cache
def devices() -> tuple[str, ...]:
    """Where the operations run: the CPU, and CUDA if a GPU is there and the build has kernels."""
    if not torch.cuda.is_available():
        return ("cpu",)
    from via_ext import ops

    ids = torch.zeros(1, 0, dtype=torch.int64, device="cuda")
    try:
        ops.verify(ids, torch.zeros(1, 1, 2, device="cuda"), rule="greedy")
    except RuntimeError as error:
        # Any other failure on a visible GPU is one that the tests have to show.
        if "without CUDA" in str(error) or "not part of this build" in str(error):
            return ("cpu",)
        raise
    return ("cpu", "cuda")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`device`: one run per device. `verify`: one per device, and one against the reference."""
    if "device" in metafunc.fixturenames:
        metafunc.parametrize("device", devices())
    if "verify" in metafunc.fixturenames:
        from tests.verify_runner import run_op, run_reference

        runners = {f"ops-{device}": run_op(device) for device in devices()}
        runners["reference"] = run_reference
        metafunc.parametrize("verify", runners.values(), ids=runners.keys())


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(20260612)


@pytest.fixture
def generator() -> torch.Generator:
    """Random numbers that do not depend on which tests ran before."""
    return torch.Generator().manual_seed(20260612)
