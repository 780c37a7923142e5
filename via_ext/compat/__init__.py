# SPDX-License-Identifier: Apache-2.0
"""Drop-ins with other verifiers' own signatures, on CPU and CUDA.

`compat.flashinfer`, `compat.sglang` and `compat.vllm` take the arguments of their namesakes, under
the same names and with the same defaults, and return or fill the same tensors. Every call is one
`verify` of this library, with a few small tensor operations around it that bring layouts into
line; rows of logits or probabilities are neither copied nor read twice, whatever their strides.
CUDA: current stream, no host synchronisation; may be captured in a graph.

What is equal: acceptance rules, shapes, dtypes, padding, in-place outputs. What is not:

* Random numbers. Given uniforms are used as theirs are; seeds give other numbers than theirs.
* The final draw is inverse-CDF sampling in id order, always in the same order of additions:
  `deterministic` changes nothing.
* Defects are not reproduced: no token of probability zero is accepted, NaN counts as zero, an
  empty row ends with id 0 instead of one out of range, ids, counts and links outside their range
  count as absent, and no argument is a work buffer.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from via_ext.compat import flashinfer, sglang, vllm

__all__ = ["flashinfer", "sglang", "vllm"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'via_ext.compat' has no attribute {name!r}")
    return import_module(f"via_ext.compat.{name}")


def __dir__() -> list[str]:
    return sorted(__all__)
