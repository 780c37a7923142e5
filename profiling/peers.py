# SPDX-License-Identifier: Apache-2.0
"""Others that make the same decision, as calls from logits to tokens on the tensors of a case.

An adapter takes the inputs of a case and returns the call to time, or raises `Unfit` with the
reason why this peer cannot do this case. What a peer wants prepared from the draft alone (ids,
offsets, draft distributions) is made outside the timed call; what depends on the logits is inside.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
from bench_cases import Inputs
from eager_ops import eager_greedy, eager_route, eager_sample, filtered

from via_ext import ops

Call = Callable[[], Any]


class Unfit(Exception):
    """The peer cannot do this case; the text says why."""


class Peer(NamedTuple):
    """A way to decide, and whether a CUDA graph can hold it."""

    name: str
    adapt: Callable[[Inputs], Call]
    capturable: bool = True
    setup_s: float = 0.0  # compilation per case
    weight: float = 1.0  # share of the time that is left


def ours(inputs: Inputs) -> Call:
    """`ops.verify` with its results kept at fixed addresses."""
    call = {**inputs.call, **inputs.case.filters}
    batch, nodes = call["draft_token_ids"].shape
    ratios = inputs.case.rule == "route"
    out = ops.empty_verification(batch, nodes, call["logits"].device, ratios=ratios)
    return lambda: ops.verify(**call, out=out)


def decision(inputs: Inputs) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """The function of plain PyTorch that decides this case, and its arguments."""
    call, case = inputs.call, inputs.case
    ids, logits = call["draft_token_ids"], call["logits"]
    if case.rule == "route":
        return eager_route, (ids, logits, call.get("parents"))
    if case.rule == "greedy":
        return eager_greedy, (ids, logits, call.get("parents"))

    def sample(ids: Any, logits: Any, coins: Any, drawn_from: Any) -> Any:
        return eager_sample(ids, filtered(logits, **case.filters), coins, drawn_from)

    return sample, (ids, logits, call["uniform_samples"], call.get("draft_probs"))


def eager(inputs: Inputs) -> Call:
    """Plain PyTorch."""
    function, arguments = decision(inputs)
    return lambda: function(*arguments)


def compiled(inputs: Inputs) -> Call:
    """The same functions under torch.compile."""
    if inputs.case.drafts == "tree":
        raise Unfit("chains only: a tree is unrolled node by node and compiles for minutes")
    function, arguments = decision(inputs)
    torch._dynamo.reset()
    fused = torch.compile(function, dynamic=False)
    return lambda: fused(*arguments)


def need_sampled_chain(inputs: Inputs, filters: bool = False) -> None:
    """Most peers do lossless acceptance of a chain, some from probabilities that are given."""
    if inputs.case.rule != "sample" or inputs.case.drafts == "tree":
        raise Unfit("lossless acceptance of a chain only")
    if inputs.case.filters and not filters:
        raise Unfit("no top-k or top-p inside")


def draft_distribution(inputs: Inputs) -> torch.Tensor:
    """[B, N, V] float32: as drawn, or one-hot at the drafted tokens."""
    given = inputs.call.get("draft_probs")
    if given is not None:
        return given
    ids, case = inputs.call["draft_token_ids"], inputs.case
    probs = torch.zeros(case.batch, case.nodes, case.vocab, device=ids.device)
    return probs.scatter_(2, ids[..., None], 1.0)


def transformers(inputs: Inputs) -> Call:
    """`_speculative_sampling` of Hugging Face; it waits for the device, so no graph can hold it."""
    from transformers.generation.utils import _speculative_sampling

    need_sampled_chain(inputs)
    case, ids = inputs.case, inputs.call["draft_token_ids"]
    if case.batch != 1:
        raise Unfit("one request only")
    arguments = {
        "candidate_input_ids": ids,
        "candidate_logits": draft_distribution(inputs).log(),
        "candidate_length": case.nodes,
        "new_logits": inputs.logits,
        "is_done_candidate": False,
    }
    known = inspect.signature(_speculative_sampling).parameters
    arguments = {name: value for name, value in arguments.items() if name in known}
    # The generation loop hands over float32.
    return lambda: _speculative_sampling(**{**arguments, "new_logits": inputs.logits.float()})


def flashinfer(inputs: Inputs) -> Call:
    """FlashInfer: softmax, renormalisation, `chain_speculative_sampling`."""
    from flashinfer import sampling

    need_sampled_chain(inputs, filters=True)
    case, probs = inputs.case, draft_distribution(inputs)
    ids = inputs.call["draft_token_ids"].int()
    rows = inputs.logits.flatten(0, 1)

    def call() -> Any:
        target = torch.softmax(rows.float(), -1)
        if case.top_k:
            target = sampling.top_k_renorm_probs(target, case.top_k)
        if case.top_p < 1.0:
            target = sampling.top_p_renorm_probs(target, case.top_p)
        return sampling.chain_speculative_sampling(probs, ids, target.view_as(inputs.logits))

    return call


def vllm(inputs: Inputs) -> Call:
    """The Triton kernels of vLLM's model runner that verify from logits."""
    from vllm.v1.worker.gpu.spec_decode.rejection_sampler_utils import rejection_sample

    if inputs.case.rule == "route" or inputs.case.drafts == "tree":
        raise Unfit("greedy and lossless acceptance of a chain only")
    if inputs.case.filters:
        raise Unfit("no top-k or top-p inside")
    case, ids = inputs.case, inputs.call["draft_token_ids"]
    rows, steps = case.nodes + 1, case.nodes
    device = ids.device
    root = torch.zeros(case.batch, 1, dtype=ids.dtype, device=device)
    requests = torch.arange(case.batch, dtype=torch.int32, device=device)
    given = {
        "target_logits": inputs.logits.flatten(0, 1),
        "draft_logits": inputs.call["draft_probs"].log() if "draft_probs" in inputs.call else None,
        "draft_sampled": torch.cat([root, ids], 1).flatten(),
        "cu_num_logits": torch.arange(case.batch + 1, dtype=torch.int32, device=device) * rows,
        "pos": torch.arange(case.batch * rows, device=device),
        "idx_mapping": requests,
        "expanded_idx_mapping": requests.repeat_interleave(rows),
        "expanded_local_pos": torch.arange(rows, dtype=torch.int32, device=device).repeat(
            case.batch
        ),
        "temperature": torch.full((case.batch,), float(case.rule == "sample"), device=device),
        "seed": torch.arange(case.batch, device=device),
        "num_speculative_steps": steps,
    }
    return lambda: rejection_sample(**given)


PEERS = (
    Peer("eager", eager, weight=2.0),
    Peer("torch.compile", compiled, setup_s=10.0, weight=3.0),
    Peer("vllm", vllm, setup_s=5.0, weight=2.0),
    Peer("flashinfer", flashinfer, setup_s=5.0, weight=2.0),
    Peer("transformers", transformers, capturable=False, weight=0.5),
)
MODULES = {name: name for name in ("vllm", "flashinfer", "flash_attn", "transformers")}


@cache
def absence(name: str) -> str:
    """Why a peer's package cannot be imported here, or ""."""
    module = MODULES.get(name)
    if module is None:
        return ""
    try:
        __import__(module)
    except Exception as error:  # a broken package may raise anything
        return f"{type(error).__name__}: {error}"
    return ""
