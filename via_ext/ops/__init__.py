# SPDX-License-Identifier: Apache-2.0
"""The native operations: verify, filtered_probs, draft_sample, tree_attention, compact_kv.

Inputs may have any strides in the leading dimensions; the last one is contiguous. All tensors of a
call share a device. Inputs are never written, except the caches of `tree_attention` and
`compact_kv`. Nothing here has a gradient. Errors come before any work, as
`<op>: <argument> must <rule>, got <value>`: TypeError for a dtype or an argument type, ValueError
for shape, device, range or an impossible combination, RuntimeError for CUDA failures and for CUDA
tensors that the build has no kernel for. Values inside tensors are checked where they are used:
`Verification.status` reports wrong ones; `tree_attention` and `compact_kv` leave their row out.

While torch traces (torch.compile, export, fake tensors) the same calls go through `torch.ops`.
"""

from via_ext.ops._attention import tree_attention
from via_ext.ops._compact import compact_kv
from via_ext.ops._filter import draft_sample, filtered_probs
from via_ext.ops._verification import Verification, empty_verification
from via_ext.ops._verify import verify

__all__ = [
    "Verification",
    "compact_kv",
    "draft_sample",
    "empty_verification",
    "filtered_probs",
    "tree_attention",
    "verify",
]
