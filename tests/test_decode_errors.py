# SPDX-License-Identifier: Apache-2.0
"""Bad input to the decoder: a clear error before any work."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.models import VOCAB_SIZE, random_model
from via_ext.config import ViaConfig
from via_ext.decode import Decoder
from via_ext.drafters import DraftTokens, PromptLookupDrafter
from via_ext.drafters.model import ModelDrafter
from via_ext.route import SlimRoute
from via_ext.tree import Tree


def _decoder(**options: Any) -> Decoder:
    return Decoder(random_model("llama"), None, config=ViaConfig(max_new_tokens=8, **options))


@pytest.mark.parametrize(
    ("ids", "error", "text"),
    [
        ("hello", TypeError, "input_ids must be a tensor or a list"),
        (3, TypeError, "input_ids must be a tensor or a list"),
        ([[1, 2]], TypeError, r"input_ids\[0\] must be a tensor"),
        (torch.zeros(1, 4), TypeError, "int32 or int64, got torch.float32"),
        (torch.zeros(1, 1, 4, dtype=torch.int64), ValueError, "rank 1 or 2, got 3"),
        ([torch.zeros(1, 4, dtype=torch.int64)], ValueError, "rank 1, got 2"),
        (torch.zeros(1, 0, dtype=torch.int64), ValueError, "at least one token"),
        (torch.zeros(0, 4, dtype=torch.int64), ValueError, "at least one prompt"),
        ([], ValueError, "at least one prompt"),
        (torch.tensor([1, -2]), ValueError, r"ids in \[0, 96\), got -2"),
        (torch.tensor([1, VOCAB_SIZE]), ValueError, r"ids in \[0, 96\), got 96"),
        (torch.zeros(300, dtype=torch.int64), ValueError, "context of 256, got 300 tokens"),
        (torch.zeros(250, dtype=torch.int64), ValueError, "leave room for max_new_tokens = 8"),
        (torch.zeros(1, 4, dtype=torch.int64, device="meta"), TypeError, "must hold data"),
        (torch.eye(4).long().to_sparse(), TypeError, "must be dense"),
    ],
)
def test_bad_prompts(ids: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        _decoder().generate(ids)


def test_fake_prompts() -> None:
    from torch._subclasses import FakeTensorMode

    with FakeTensorMode():
        ids = torch.zeros(1, 4, dtype=torch.int64)
    with pytest.raises(TypeError, match="must hold data, got FakeTensor"):
        _decoder().generate(ids)


@pytest.mark.parametrize(
    ("mask", "error", "text"),
    [
        (torch.ones(1, 3), ValueError, r"shape \[1, 4\], got \[1, 3\]"),
        (torch.tensor([[1, 0, 1, 1]]), ValueError, "one run of ones"),
        (torch.tensor([[1, 2, 1, 1]]), ValueError, "only 0 and 1"),
        (torch.zeros(1, 4), ValueError, "at least one token"),
        ([1, 1, 1, 1], TypeError, "attention_mask must be a tensor"),
    ],
)
def test_bad_masks(mask: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        _decoder().generate(torch.tensor([[1, 2, 3, 4]]), mask)


def test_bad_decoder_arguments() -> None:
    model = random_model("llama")
    with pytest.raises(TypeError, match="target must be a transformers model"):
        Decoder("llama", None)
    with pytest.raises(TypeError, match="target must be a transformers model"):
        Decoder(torch.nn.Linear(2, 2), None)
    with pytest.raises(TypeError, match="drafter must be a Drafter"):
        Decoder(model, "small")
    with pytest.raises(TypeError, match="config must be a ViaConfig"):
        Decoder(model, None, config={"mode": "via"})  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="route must be a SlimRoute"):
        Decoder(model, None, route="route.json")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="route must have 4 layers, got 5"):
        Decoder(model, None, route=SlimRoute.evenly(5))
    with pytest.raises(ValueError, match="engine must be one of auto, torch, persistent"):
        Decoder(model, None, engine="magic")
    with pytest.raises(ValueError, match="tokenizer must be given"):
        Decoder(model, None, config=ViaConfig(stop_strings=("x",)))
    with pytest.raises(ValueError, match=r"eos_token_id must be in \[0, 96\)"):
        Decoder(model, None, config=ViaConfig(eos_token_id=96))
    with pytest.raises(ValueError, match="target's vocabulary of 96, got 90"):
        Decoder(model, random_model("llama", vocab_size=90))
    with pytest.raises(ValueError, match="temperature must be finite and at least 0"):
        ModelDrafter(model, temperature=-1.0)


def test_bad_weights() -> None:
    from torch._subclasses import FakeTensorMode

    with FakeTensorMode():
        fake = random_model("llama")
    with pytest.raises(TypeError, match="target must have dense local weights, got FakeTensor"):
        Decoder(fake, None)
    with pytest.raises(TypeError, match="drafter must have dense local weights, got FakeTensor"):
        Decoder(random_model("llama"), fake)
    partly = random_model("llama")
    partly.model.layers[3].to("meta")
    with pytest.raises(ValueError, match=r"target must be on the CPU .* got model\.layers\.3"):
        Decoder(partly, None)
    sparse = random_model("llama")
    weight = sparse.lm_head.weight.detach().to_sparse()
    sparse.lm_head.weight = torch.nn.Parameter(weight, requires_grad=False)
    with pytest.raises(TypeError, match="must have dense local weights, got Parameter of layout"):
        Decoder(sparse, None)


def test_distributed_weights() -> None:
    tensor = pytest.importorskip("torch.distributed.tensor")
    import torch.distributed as dist

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        mesh = dist.init_device_mesh("cpu", (1,))
        model = random_model("llama")
        whole = model.model.norm.weight.detach()
        model.model.norm.weight = torch.nn.Parameter(
            tensor.distribute_tensor(whole, mesh, [tensor.Replicate()])
        )
        with pytest.raises(TypeError, match=r"got DTensor .* as model\.norm\.weight"):
            Decoder(model, None)
        prompt = tensor.distribute_tensor(torch.tensor([[1, 2]]), mesh, [tensor.Replicate()])
        with pytest.raises(TypeError, match="input_ids must hold data, got DTensor"):
            _decoder().generate(prompt)
    finally:
        dist.destroy_process_group()


class _BadDrafter(PromptLookupDrafter):
    """Returns whatever it is given."""

    def __init__(self, proposal: Any) -> None:
        super().__init__()
        self._proposal = proposal

    def propose(self, tree: Tree, seed: torch.Tensor, position: torch.Tensor) -> Any:
        return self._proposal


@pytest.mark.parametrize(
    ("proposal", "error", "text"),
    [
        (torch.zeros(1, 5), TypeError, "proposal must be DraftTokens"),
        (
            DraftTokens(torch.zeros(2, 5, dtype=torch.int64)),
            ValueError,
            "token_ids must have shape",
        ),
        (DraftTokens(torch.zeros(1, 9, dtype=torch.int64)), ValueError, r"N <= 5\], got \[1, 9\]"),
        (
            DraftTokens(torch.zeros(1, 2, dtype=torch.int64), torch.tensor([1, -1])),
            ValueError,
            "parents",
        ),
        (
            DraftTokens(torch.zeros(1, 2, dtype=torch.int64), probs=torch.zeros(1, 1, 96)),
            ValueError,
            "probs must have shape",
        ),
    ],
)
def test_bad_proposals(proposal: Any, error: type[Exception], text: str) -> None:
    decoder = Decoder(random_model("llama"), _BadDrafter(proposal))
    with pytest.raises(error, match=text):
        decoder.generate(torch.tensor([1, 2, 3]))


def test_draft_ids_outside_the_vocabulary_are_rejected_with_a_status() -> None:
    """The request goes on with the full model's tokens; the caller can see that it happened."""
    model = random_model("llama")
    config = ViaConfig(mode="exact", max_new_tokens=6)
    bad = DraftTokens(torch.tensor([[500, 1, -1]]))
    result = Decoder(model, _BadDrafter(bad), config=config).generate(torch.tensor([1, 2, 3]))
    plain = Decoder(model, None, config=config).generate(torch.tensor([1, 2, 3]))
    assert torch.equal(result.sequences, plain.sequences)
    assert result.status.tolist() == [2]
