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
OPERATIONS = {
    "compact_kv": "via_ext.ops._compact",
    "tree_attention": "via_ext.ops._attention",
    "verify": "via_ext.ops._verify",
}
SIMULATED = ("compact_kv", "tree_attention", "verify")
FOLDER = Path(__file__).parent.parent / "build" / "simt"
SLOWNESS = 100


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
    return op in SIMULATED and hasattr(module(), op)


@contextmanager
def active(device: str | None) -> Iterator[None]:
    """Sends the simulated operations to the simulation while `device` is the simulated one."""
    with pytest.MonkeyPatch.context() as patch:
        if is_simulated(device):
            for op in SIMULATED:
                patch.setattr(f"{OPERATIONS[op]}._C", module())
        yield


def is_simulated(place: Any) -> bool:
    """True for the simulated device, and for a runner (`run_op`) on it."""
    return isinstance(getattr(place, "device", place), SimulatedDevice)


def scaled(count: int, place: Any, least: int = 1) -> int:
    """`count` repetitions or rows; fewer, but at least `least`, in the simulation."""
    return max(least, count // SLOWNESS) if is_simulated(place) else count
