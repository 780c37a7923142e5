# SPDX-License-Identifier: Apache-2.0
"""
Native operations of via_ext. Use via_ext.ops.
"""
from __future__ import annotations
import typing
__all__: list[str] = ['Step', 'build_info', 'compact_kv', 'device_count', 'device_info', 'empty_verification', 'filtered_probs', 'tree_attention', 'verify']
class Step:
    """
    Bookkeeping of a decoding run. See via_ext.engines.
    """
    def __init__(self, arrays: dict[str, typing.Any], slim: tuple[typing.Any, ...], full: tuple[typing.Any, ...], max_backlog: typing.SupportsInt | typing.SupportsIndex, max_new_tokens: typing.SupportsInt | typing.SupportsIndex, min_new_tokens: typing.SupportsInt | typing.SupportsIndex, has_slim: bool, audit: str) -> None:
        ...
    def run(self, stage: str, audit_result: typing.Any = None) -> None:
        """
        Runs a stage on the current stream; no synchronisation on CUDA.
        """
def build_info() -> dict[str, typing.Any]:
    """
    Facts of this build.
    """
def compact_kv(caches: typing.Any, context_lens: typing.Any, path: typing.Any, num_accepted: typing.Any, page_table: typing.Any, num_threads: typing.SupportsInt | typing.SupportsIndex) -> None:
    """
    See via_ext.ops.compact_kv. Moves rows of `caches` in place.
    """
def device_count() -> int:
    """
    Number of visible GPUs, 0 without a driver.
    """
def device_info(index: typing.SupportsInt | typing.SupportsIndex) -> dict[str, typing.Any]:
    """
    Properties of one GPU; runs a small checked kernel there.
    """
def empty_verification(type: type, batch_size: typing.SupportsInt | typing.SupportsIndex, num_nodes: typing.SupportsInt | typing.SupportsIndex, ratios: bool) -> tuple[typing.Any, ...]:
    """
    Uninitialised host tensors of `type` for the fields of a Verification.
    """
def filtered_probs(op: str, logits: typing.Any, temperature: typing.Any, top_k: typing.Any, top_p: typing.Any, min_p: typing.Any, allowed: typing.Any, seed: typing.Any, position: typing.Any, column: typing.SupportsInt | typing.SupportsIndex, probs: typing.Any, token_ids: typing.Any, num_threads: typing.SupportsInt | typing.SupportsIndex) -> None:
    """
    See via_ext.ops.filtered_probs and draft_sample. Writes into `probs` and `token_ids`.
    """
def tree_attention(query: typing.Any, key: typing.Any, value: typing.Any, key_cache: typing.Any, value_cache: typing.Any, context_lens: typing.Any, parents: typing.Any, num_tokens: typing.Any, scale: typing.Any, softcap: typing.Any, window: typing.Any, page_table: typing.Any, out: typing.Any, lse: typing.Any, num_threads: typing.SupportsInt | typing.SupportsIndex) -> None:
    """
    See via_ext.ops.tree_attention. Writes into the caches, `out` and `lse`.
    """
def verify(draft_token_ids: typing.Any, logits: typing.Any, rule: typing.Any, parents: typing.Any, num_nodes: typing.Any, resume: typing.Any, draft_logits: typing.Any, draft_probs: typing.Any, draft_to_target: typing.Any, accept_threshold: typing.Any, escalate_threshold: typing.Any, draft_threshold: typing.Any, router: typing.Any, draft_scores: typing.Any, temperature: typing.Any, top_k: typing.Any, top_p: typing.Any, min_p: typing.Any, allowed: typing.Any, uniform_samples: typing.Any, seed: typing.Any, position: typing.Any, out: typing.Any, num_threads: typing.SupportsInt | typing.SupportsIndex, extras: typing.Any = None) -> None:
    """
    See via_ext.ops.verify. Writes into `out`.
    """
