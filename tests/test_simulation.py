# SPDX-License-Identifier: Apache-2.0
"""The device "simt" is what it says: the tests that name it run the simulated kernels."""

import subprocess
import sys

import pytest
import torch

from tests import simulation
from tests.conftest import places
from via_ext.ops import _attention, _common, _compact, _filter, _verify

built = pytest.mark.skipif(
    simulation.module() is None, reason="no simulated module: `make simt`, which needs CUDA headers"
)


@built
def test_operations_are_exchanged_while_the_device_is_active():
    modules = {
        "compact_kv": _compact,
        "filtered_probs": _filter,
        "tree_attention": _attention,
        "verify": _verify,
    }
    assert set(simulation.SIMULATED) <= modules.keys()
    for device, expected in ((simulation.DEVICE, simulation.module()), ("cpu", _common._C)):
        with simulation.active(device):
            for op in simulation.SIMULATED:
                assert modules[op]._C is expected, (device, op)
    assert simulation.module().compact_kv is not _common._C.compact_kv
    assert all(module._C is _common._C for module in modules.values())


@built
def test_the_simulated_device_is_the_cpu_for_torch():
    assert torch.zeros(2, device=simulation.DEVICE).to(simulation.DEVICE).is_cpu
    assert simulation.is_simulated(places("compact_kv")["simt"])
    assert simulation.scaled(1000, simulation.DEVICE) < simulation.scaled(1000, "cpu") == 1000
    assert simulation.scaled(10, simulation.DEVICE, least=4) == 4


@built
def test_it_can_be_switched_off():
    code = "from tests import simulation; assert simulation.module() is None"
    environment = {"VIA_EXT_TEST_SIMT": "0", "PYTHONPATH": ":".join(sys.path)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
