# SPDX-License-Identifier: Apache-2.0
"""The drop-ins everywhere: the tokens of the CPU, no host synchronisation, lazy imports."""

import subprocess
import sys

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.conftest import devices
from tests.sglang_trees import UNWRITTEN, prepare, random_links
from tests.test_compat_vllm import metadata
from tests.test_compat_vllm_v2 import inputs
from via_ext.compat import flashinfer, sglang, vllm
from via_ext.ops import _common

# Operators that make the host wait for a GPU: values, or shapes that depend on them.
WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "item", "is_nonzero")


class NoWaiting(TorchDispatchMode):
    """Fails where an operator would read the device from the host."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = str(func)
        assert not any(word in name for word in WAITING), name
        if "index" in name and "put" not in name:
            dtypes = [t.dtype for t in args[1] if isinstance(t, torch.Tensor)]
            assert torch.bool not in dtypes, f"{name} by a mask"
        return func(*args, **(kwargs or {}))


def softmaxed(*shape):
    return torch.softmax(torch.randn(*shape) * 2, -1)


# Each makes a case: prepare(device) moves its inputs there, and returns what is to be run.
def flashinfer_call():
    ids = torch.randint(-1, 40, (6, 3))
    draft, target = softmaxed(6, 3, 40), softmaxed(6, 4, 40)
    seeds = torch.arange(6)

    def prepare_on(device):
        moved = [tensor.to(device) for tensor in (draft, ids, target)]
        given = {"seed": seeds.to(device), "offset": seeds.to(device)}
        return lambda: flashinfer.chain_speculative_sampling(*moved, **given)

    return prepare_on


def sglang_call():
    _, given = random_links(6, 9, 12)
    probs, coins = softmaxed(6, 9, 12), torch.rand(6, 9)

    def prepare_on(device):
        outputs, tensors = prepare(given, 4, device)
        moved = [coins.to(device), coins[:, 0].to(device), probs.to(device)]

        def run():
            sglang.tree_speculative_sampling_target_only(*outputs, *tensors, *moved, None, 0.6, 0.8)
            return outputs

        return run

    return prepare_on


def greedy_call():
    _, given = random_links(6, 9, 3)
    predict = torch.randint(3, (6, 9))

    def prepare_on(device):
        outputs, tensors = prepare(given, 4, device)
        moved = predict.to(device)

        def run():
            sglang.verify_tree_greedy(*outputs, *tensors, moved)
            return outputs

        return run

    return prepare_on


def vllm_call(draft, all_greedy=False):
    counts = [3, 0, 2, 1]
    target, drawn = softmaxed(6, 40), softmaxed(6, 40)
    ids = torch.randint(40, (6,))

    def prepare_on(device):
        moved = [
            ids.to(device),
            counts,
            3,
            torch.tensor(counts).cumsum(0).to(device),
            drawn.to(device) if draft else None,
            target.to(device),
            torch.tensor([[1], [2], [3], [4]]).to(device),
        ]
        heat = None if all_greedy else torch.tensor([1.0, 1.0, 0.0, 1.0]).to(device)
        sampling = metadata(heat, all_random=False)
        torch.manual_seed(0)
        return lambda: [vllm.v1.rejection_sample(*moved, sampling)]

    return prepare_on


def vllm_v2_call(vocab, heat):
    given = inputs(torch.randn(40) * 2, torch.randn(40)[:vocab], 3, 0.7, 6, "cpu")

    def prepare_on(device):
        moved = {k: v.to(device) if hasattr(v, "to") else v for k, v in given.items()}
        return lambda: vllm.v2.rejection_sample(**moved, draft_temperature=heat)

    return prepare_on


CALLS = {
    "flashinfer": flashinfer_call,
    "sglang": sglang_call,
    "sglang-greedy": greedy_call,
    "vllm-v1-greedy": lambda: vllm_call(False, all_greedy=True),
    "vllm-v1-random": lambda: vllm_call(False),
    "vllm-v1-random-draft": lambda: vllm_call(True),
    "vllm-v2": lambda: vllm_v2_call(40, False),
    "vllm-v2-small": lambda: vllm_v2_call(25, True),
}


@pytest.mark.parametrize("name", CALLS)
def test_every_device_gives_the_tokens_of_the_cpu(device, name):
    if device == "cuda" and "random" in name:
        pytest.skip("torch.rand draws other numbers on CUDA")
    prepare_on = CALLS[name]()
    got = [part.cpu() for part in prepare_on(device)()]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("via_ext.ops._verify._C", _common._C)
        expected = prepare_on("cpu")()
    for a, b in zip(got, expected, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", CALLS)
def test_the_host_never_waits(name):
    prepare_on = CALLS[name]()
    expected = [part.clone() for part in prepare_on("cpu")()]
    run = prepare_on("cpu")
    with NoWaiting():
        got = run()
    for a, b in zip(got, expected, strict=True):
        assert torch.equal(a, b)


@pytest.mark.skipif("cuda" not in devices(), reason="needs a GPU and a build with CUDA kernels")
@pytest.mark.parametrize("name", [name for name in CALLS if "random" not in name])
def test_cuda_graphs_replay(name):
    run = CALLS[name]()("cuda")
    expected = [part.clone() for part in run()]
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        run()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = run()
    # FlashInfer's counters are made, and start from zero, within the graph.
    for part in got:
        part.fill_(-9)
    graph.replay()
    torch.cuda.synchronize()
    for a, b in zip(got, expected, strict=True):
        assert torch.equal(a[b != UNWRITTEN], b[b != UNWRITTEN])


def test_import_is_lazy():
    code = (
        "import sys, via_ext; assert 'via_ext.compat' not in sys.modules; via_ext.compat; "
        "assert 'via_ext.compat.vllm' not in sys.modules; via_ext.compat.vllm.v2; "
        "assert 'transformers' not in sys.modules and 'via_ext.compat.sglang' not in sys.modules; "
        "import torch; assert not torch.cuda.is_initialized(); "
        "print(sorted(dir(via_ext.compat)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['flashinfer', 'sglang', 'vllm']"
