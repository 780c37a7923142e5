# SPDX-License-Identifier: Apache-2.0
"""The specification of the operations in plain PyTorch: slow, readable, the judge of all back ends.

One file per stage: `filters` (mask, temperature, top-k, top-p, min-p, draws), `philox` (uniforms
from seeds), `draft` (what one request brings), `route` (ratios and tiers), `router` (predicted
disagreement in place of thresholds), `accept` (greedy and lossless acceptance), `walk` (over the
tree of one request), `call` (`verify`), `compact` (`compact_kv`), `attention` (`tree_attention`).

Everything that decides is computed in float64, one batch row after the other; nothing here uses
the native module. CPU and CUDA must give the same decisions wherever no comparison is so close
that float32 rounding could turn it.
"""

from via_ext.reference.attention import tree_attention
from via_ext.reference.call import verify
from via_ext.reference.compact import compact_kv
from via_ext.reference.filters import draft_sample, filtered_probs
from via_ext.reference.philox import philox_uniform
from via_ext.reference.walk import Verification

__all__ = [
    "Verification",
    "compact_kv",
    "draft_sample",
    "filtered_probs",
    "philox_uniform",
    "tree_attention",
    "verify",
]
