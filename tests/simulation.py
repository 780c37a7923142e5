# SPDX-License-Identifier: Apache-2.0
"""The device "simt": operations whose CUDA kernels run in the simulation, on CPU tensors.

`make simt` builds the module into build/simt/; without it, or with VIA_EXT_TEST_SIMT=0, these runs
do not exist. The simulation is a hundred times slower than native code: see `scaled`.
"""

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

# The operations that the simulated module runs as kernels, and where Python calls them.
OPERATIONS = {"compact_kv": "via_ext.ops._compact", "verify": "via_ext.ops._verify"}
SIMULATED = ("compact_kv", "verify")
FOLDER = Path(__file__).parent.parent / "build" / "simt"
SLOWNESS = 20


class SimulatedDevice(str):
    """The word "cpu", for torch; the simulation, for the helpers of this module."""


DEVICE = SimulatedDevice("cpu")


@cache
def module() -> ModuleType | None:
    """The simulated native module, if it was built and is wanted."""
    found = sorted(FOLDER.glob("_C.*.so"))
    if not found or os.environ.get("VIA_EXT_TEST_SIMT") == "0":
        return None
    spec = importlib.util.spec_from_file_location("via_ext_simt._C", found[0])
    native = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(native)
    return native


def covers(op: str) -> bool:
    """True if tests of `op` can run on the simulated device."""
    return op in SIMULATED and module() is not None


@contextmanager
def active(device: str | None) -> Iterator[None]:
    """Sends the simulated operations to the simulation while `device` is the simulated one."""
    with pytest.MonkeyPatch.context() as patch:
        if isinstance(device, SimulatedDevice):
            for op in SIMULATED:
                patch.setattr(f"{OPERATIONS[op]}._C", module())
        yield


def scaled(count: int, place: Any) -> int:
    """`count` repetitions or rows; fewer in the simulation.

    Args:
        count: for native code.
        place: a device, or a runner from `run_op`.
    """
    device = getattr(place, "device", place)
    return max(1, count // SLOWNESS) if isinstance(device, SimulatedDevice) else count
