# SPDX-License-Identifier: Apache-2.0
"""Drop-ins for vLLM's rejection samplers: `v1` (GPU model runner) and `v2` (model runner V2)."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from via_ext.compat.vllm import v1, v2

__all__ = ["rejection_sample", "rejection_sample_v1", "rejection_sample_v2", "v1", "v2"]

rejection_sample_v1 = v1.rejection_sample
rejection_sample_v2 = v2.rejection_sample


def rejection_sample(*args: Any, **kwargs: Any) -> Any:
    """The function of V1 or V2, whichever the first argument belongs to.

    V2 starts with `target_logits` (floating point), V1 with `draft_token_ids` (integers).

    Args:
        args: of `v1.rejection_sample` or `v2.rejection_sample`.
        kwargs: likewise.

    Returns:
        What that function returns.
    """
    first = args[0] if args else kwargs.get("target_logits")
    is_v2 = isinstance(first, Tensor) and first.is_floating_point()
    return (v2 if is_v2 else v1).rejection_sample(*args, **kwargs)
