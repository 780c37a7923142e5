# SPDX-License-Identifier: Apache-2.0
"""The drop-ins everywhere: the tokens of the CPU, no host synchronisation, lazy imports."""

import subprocess
import sys

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.sglang_trees import prepare, random_links
from tests.test_compat_vllm import metadata
from tests.test_compat_vllm_v2 import inputs
from via_ext.compat import flashinfer, sglang, vllm

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


def flashinfer_call():
    ids = torch.randint(-1, 40, (6, 3))
    draft, target = softmaxed(6, 3, 40), softmaxed(6, 4, 40)
    seeds = torch.arange(6)

    def call(device):
        moved = [tensor.to(device) for tensor in (draft, ids, target)]
        given = {"seed": seeds.to(device), "offset": seeds.to(device)}
        return flashinfer.chain_speculative_sampling(*moved, **given)

    return call


def sglang_call():
    _, given = random_links(6, 9, 12)
    probs, coins = softmaxed(6, 9, 12), torch.rand(6, 9)

    def call(device):
        outputs, tensors = prepare(given, 4, device)
        moved = [coins.to(device), coins[:, 0].to(device), probs.to(device)]
        sglang.tree_speculative_sampling_target_only(*outputs, *tensors, *moved, None, 0.6, 0.8)
        return outputs

    return call


def greedy_call():
    _, given = random_links(6, 9, 3)
    predict = torch.randint(3, (6, 9))

    def call(device):
        outputs, tensors = prepare(given, 4, device)
        sglang.verify_tree_greedy(*outputs, *tensors, predict.to(device))
        return outputs

    return call


def vllm_call(draft):
    counts = [3, 0, 2, 1]
    target, drawn = softmaxed(6, 40), softmaxed(6, 40)
    ids = torch.randint(40, (6,))

    def call(device):
        moved = [
            ids.to(device),
            counts,
            3,
            torch.tensor(counts).cumsum(0).to(device),
            drawn.to(device) if draft else None,
            target.to(device),
            torch.tensor([[1], [2], [3], [4]]).to(device),
        ]
        sampling = metadata(torch.tensor([1.0, 1.0, 0.0, 1.0]).to(device), all_random=False)
        torch.manual_seed(0)
        return [vllm.v1.rejection_sample(*moved, sampling)]

    return call


def vllm_v2_call(vocab, heat):
    torch.manual_seed(3)
    given = inputs(torch.randn(40) * 2, torch.randn(40)[:vocab], 3, 0.7, 6, "cpu")

    def call(device):
        moved = {k: v.to(device) if hasattr(v, "to") else v for k, v in given.items()}
        return vllm.v2.rejection_sample(**moved, draft_temperature=heat)

    return call


CALLS = {
    "flashinfer": flashinfer_call,
    "sglang": sglang_call,
    "sglang-greedy": greedy_call,
    "vllm-v1": lambda: vllm_call(False),
    "vllm-v1-draft": lambda: vllm_call(True),
    "vllm-v2": lambda: vllm_v2_call(40, False),
    "vllm-v2-small": lambda: vllm_v2_call(25, True),
}


@pytest.mark.parametrize("name", CALLS)
def test_every_device_gives_the_tokens_of_the_cpu(device, name):
    if device == "cuda" and name.startswith("vllm-v1"):
        pytest.skip("torch.rand draws other numbers on CUDA")
    call = CALLS[name]()
    got = [part.cpu() for part in call(device)]
    with pytest.MonkeyPatch.context() as patch:
        from via_ext.ops import _common

        patch.setattr("via_ext.ops._verify._C", _common._C)
        expected = call("cpu")
    for a, b in zip(got, expected, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", CALLS)
def test_the_host_never_waits(name):
    call = CALLS[name]()
    expected = [part.clone() for part in call("cpu")]
    with NoWaiting():
        got = call("cpu")
    for a, b in zip(got, expected, strict=True):
        assert torch.equal(a, b)


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
