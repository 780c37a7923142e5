# SPDX-License-Identifier: Apache-2.0
"""What work for a CUDA graph must not do, checked without a GPU: on the meta device.

A value that the host reads is an error there anyway. The mode below also finds what CUDA would do
silently: tensors made on the host and copied to the device.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class DeviceOnly(TorchDispatchMode):
    """Raises for an operation on, or one that makes, a tensor that is not on the meta device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs the operation, then looks at its tensors."""
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves((args, kwargs, result)):
            if isinstance(leaf, torch.Tensor) and not leaf.is_meta:
                raise AssertionError(f"{func} touches the host: {leaf.shape} {leaf.dtype}")
        return result


def on_meta(*shape: int, dtype: torch.dtype = torch.int64) -> torch.Tensor:
    """A tensor without memory."""
    return torch.empty(shape, dtype=dtype, device="meta")


def meta_attention(query: torch.Tensor, *_: Any, return_lse: bool = False, **__: Any) -> Any:
    """Shapes of `ops.tree_attention`, which refuses tensors without memory."""
    out = torch.empty_like(query)
    return (out, out[..., 0].float()) if return_lse else out


def meta_sample(logits: torch.Tensor, *, out: Any, **_: Any) -> Any:
    """Checks the shapes that `ops.draft_sample`, which refuses tensors without memory, fills."""
    token_ids, probs = out
    assert token_ids.shape == logits.shape[:1] and probs.shape == logits.shape
    return out
