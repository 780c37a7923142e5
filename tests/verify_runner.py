# SPDX-License-Identifier: Apache-2.0
"""Running `verify` for the tests: sentinels in the outputs, inputs compared, results on the CPU."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tests import simulation
from via_ext import ops, reference

PER_NODE = ("draft_token_ids", "draft_logits", "draft_probs", "draft_scores")
SENTINELS = (-7.0, 77, -77, -77, -77, -77, True, -7.0, -77)


def to_device(value: Any, device: str) -> Any:
    """Moves tensors, and the tensors of a `Verification`."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, tuple):
        return type(value)(*(to_device(item, device) for item in value))
    return value


def same_bits(a: Any, b: Any) -> bool:
    """Equality in which a NaN equals itself."""
    if isinstance(a, tuple):
        return all(same_bits(x, y) for x, y in zip(a, b, strict=True))
    if not isinstance(a, Tensor):
        return a is b or a == b
    if a.is_floating_point():
        return torch.equal(a.nan_to_num(nan=-12345.0), b.nan_to_num(nan=-12345.0))
    return torch.equal(a, b)


def prefilled(batch: int, nodes: int, device: str, ratios: bool) -> ops.Verification:
    """Outputs full of values that no call produces."""
    out = ops.empty_verification(batch, nodes, device, ratios=ratios)
    for field, sentinel in zip(out, SENTINELS, strict=True):
        if field is not None:
            field.fill_(sentinel)
    return out


def run_op(device: str) -> Callable[..., ops.Verification]:
    """`ops.verify` on a device with sentinel outputs; checks that no input was written."""

    def verify(ids: Tensor, logits: Tensor, *, rule: str, **arguments: Any) -> ops.Verification:
        given = {"draft_token_ids": ids, "logits": logits, **arguments}
        given = {name: to_device(value, device) for name, value in given.items()}
        kept = {name: clone(value) for name, value in given.items()}
        resume = arguments.get("resume")
        ratios = rule == "route" or (resume is not None and resume.ratios is not None)
        out = prefilled(*ids.shape, device, ratios)
        with simulation.active(device):
            result = ops.verify(**given, rule=rule, out=out)
        assert result is out
        for name, value in given.items():
            assert same_bits(value, kept[name]), f"input {name} was written"
        return to_device(result, "cpu")

    verify.device = device
    return verify


def clone(value: Any) -> Any:
    """A copy of tensors, and of the tensors of a `Verification`."""
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, tuple):
        return type(value)(*(clone(item) for item in value))
    return value


def run_reference(
    ids: Tensor, logits: Tensor, *, rule: str, **arguments: Any
) -> reference.Verification:
    """`reference.verify`, with the same signature as the runners of the op."""
    return reference.verify(ids, logits, rule=rule, **arguments)


def assert_same(got: Any, expected: Any, message: str = "") -> None:
    """Equal decisions; ratios and log-probabilities within float32 rounding.

    Ratios are one exp of float32 inputs. A log-probability also carries the rounding of a sum of
    float32 weights.
    """
    for name, a, b in zip(expected._fields, got, expected, strict=True):
        if b is None:
            assert a is None, f"{name}: expected None. {message}"
            continue
        assert a.dtype == b.dtype and a.shape == b.shape, f"{name}: {a.dtype} {a.shape}. {message}"
        if name == "ratios":
            torch.testing.assert_close(
                a, b, rtol=2e-6, atol=1e-37, msg=f"{name}: {a} {b} {message}"
            )
        elif name == "logprobs":
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5, msg=f"{name}: {a} {b} {message}")
        else:
            assert torch.equal(a, b), f"{name}: got {a.tolist()}, expected {b.tolist()}. {message}"


def decisions(result: Any, b: int) -> tuple[Any, ...]:
    """What was decided in row b, without the numbers."""
    tiers = None if result.tiers is None else tuple(result.tiers[b].tolist())
    whole = (
        result.num_accepted,
        result.next_token,
        result.next_row,
        result.escalate,
        result.status,
    )
    return (tiers, tuple(result.path[b].tolist()), *(field[b].item() for field in whole))


def is_shared(name: str, value: Any) -> bool:
    """True if an argument is the same for every batch row."""
    if name in ("parents", "router"):
        return not isinstance(value, Tensor) or value.ndim == 1
    return name == "draft_to_target"


def row_arguments(arguments: dict[str, Any], b: int, nodes: int | None = None) -> dict[str, Any]:
    """The arguments of row b alone, its node dimension cut to `nodes`."""
    taken: dict[str, Any] = {}
    for name, value in arguments.items():
        shared = is_shared(name, value)
        if isinstance(value, tuple):
            value = type(value)(*(None if field is None else field[b : b + 1] for field in value))
        elif isinstance(value, Tensor) and not shared:
            value = value[b : b + 1]
        if nodes is not None and name in PER_NODE:
            value = value[:, :nodes]
        elif nodes is not None and name in ("logits", "allowed"):
            value = value[:, : nodes + 1]
        elif nodes is not None and name == "parents":
            value = value[..., :nodes]
        taken[name] = value
    return taken


def log_rows(*rows: list[float]) -> Tensor:
    """[1, len(rows), V] logits whose softmax are the given rows (0 becomes -inf)."""
    return torch.tensor(rows).log()[None]


def mask_words(masks: Tensor) -> Tensor:
    """Bool masks [..., V] as int32 words, bit set = allowed."""
    size = masks.shape[-1]
    padded = torch.zeros(*masks.shape[:-1], -(-size // 32) * 32, dtype=torch.int64)
    padded[..., :size] = masks
    bits = padded.unflatten(-1, (-1, 32)) << torch.arange(32)
    words = bits.sum(-1)
    return torch.where(words >= 2**31, words - 2**32, words).to(torch.int32)
