# SPDX-License-Identifier: Apache-2.0
"""What the operations share: the native module, the tracing switch, argument helpers."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor

from via_ext._build import native

if TYPE_CHECKING:
    import via_ext._C as _C
else:
    _C = native()

__all__ = ["_C", "PerRow", "int32_rows", "require_tensor", "tracing"]

PerRow: TypeAlias = float | Tensor
"""One number for all rows, or a tensor [B] (float32; top_k: int32 or int64)."""

_INT32_MAX = 2**31 - 1
_dispatch_modes = torch._C._len_torch_dispatch_stack
_is_compiling = torch.compiler.is_compiling


def tracing() -> bool:
    """True while torch records operations: then calls go through `torch.ops`."""
    return _is_compiling() or _dispatch_modes() > 0


def require_tensor(op: str, name: str, value: object) -> None:
    """Raises TypeError unless `value` is a torch tensor of some kind."""
    if not isinstance(value, Tensor):
        got = type(value).__name__
        raise TypeError(f"{op}: {name} must be a dense tensor (torch >= 2.10), got {got}")


def int32_rows(top_k: int | Tensor) -> int | Tensor:
    """The native module takes int32 rows; out-of-range values keep their meaning."""
    if isinstance(top_k, Tensor) and top_k.dtype == torch.int64:
        return top_k.clamp(-1, _INT32_MAX).to(torch.int32)
    return top_k
