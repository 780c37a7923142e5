# SPDX-License-Identifier: Apache-2.0
"""Shared fixtures: seeds, devices, and the implementations that must agree."""

from collections.abc import Iterator
from functools import cache

import pytest
import torch

from tests import simulation

# The cases are small: more threads would only wait for each other.
torch.set_num_threads(1)


@cache
def devices() -> tuple[str, ...]:
    """Where the operations run: the CPU, and CUDA if a GPU is there and the build has kernels."""
    from via_ext import build_info

    if not torch.cuda.is_available() or not build_info()["cuda"]:
        return ("cpu",)
    return ("cpu", "cuda")


def places(op: str) -> dict[str, str]:
    """Devices by the name that a test shows: those of the machine, and the simulation for `op`."""
    found = {device: device for device in devices()}
    if simulation.covers(op):
        found["simt"] = simulation.DEVICE
    return found


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`device`: one run per device. `verify`: one per device, and one against the reference."""
    if "device" in metafunc.fixturenames:
        module = metafunc.module.__name__.rpartition("test_")[2]
        op = next((op for op in simulation.OPERATIONS if module.startswith(op)), "")
        # The drop-ins are calls of verify.
        op = "verify" if module.startswith("compat") else op
        found = places(op)
        metafunc.parametrize("device", found.values(), ids=found.keys())
    if "verify" in metafunc.fixturenames:
        from tests.verify_runner import run_op, run_reference

        runners = {f"ops-{name}": run_op(device) for name, device in places("verify").items()}
        runners["reference"] = run_reference
        metafunc.parametrize("verify", runners.values(), ids=runners.keys())


@pytest.fixture(autouse=True)
def _simulate(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test on the simulated device calls the operations of the simulated module."""
    callspec = getattr(request.node, "callspec", None)
    with simulation.active(callspec.params.get("device") if callspec else None):
        yield


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(20260612)


@pytest.fixture
def generator() -> torch.Generator:
    """Random numbers that do not depend on which tests ran before."""
    return torch.Generator().manual_seed(20260612)
