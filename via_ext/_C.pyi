# SPDX-License-Identifier: Apache-2.0
"""
Native operations of via_ext. Use via_ext.ops.
"""
from __future__ import annotations
import typing
__all__: list[str] = ['Persistent', 'Step', 'build_info', 'compact_kv', 'device_count', 'device_info', 'empty_verification', 'filtered_probs', 'persistent_blocks', 'persistent_cache_tables', 'persistent_program', 'persistent_validate', 'persistent_weight_map', 'tree_attention', 'verify']
class Persistent:
    """
    Launches of a decoding run. See via_ext.engines.
    """
    def __init__(self, shape: dict[str, typing.Any], arrays: dict[str, typing.Any], tensors: dict[str, typing.Any], slim: tuple[typing.Any, ...], audit: typing.Any, full: tuple[typing.Any, ...], settings: dict[str, typing.Any]) -> None:
        ...
    def forward(self, name: str, inputs: dict[str, typing.Any], width: typing.SupportsInt | typing.SupportsIndex) -> None:
        """
        Queues one pass alone; its logits are in the buffers.
        """
    def set_workspace(self, workspace: typing.Any) -> None:
        """
        Zero memory.
        """
    def step(self) -> None:
        """
        Queues one step on the current stream.
        """
    @property
    def workspace_bytes(self) -> int:
        ...
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
def persistent_blocks(shape: dict[str, typing.Any], batch_size: typing.SupportsInt | typing.SupportsIndex, like: typing.Any) -> int:
    """
    Blocks that one launch may have on the device of `like`.
    """
def persistent_cache_tables(keys: list[typing.Any], values: list[typing.Any]) -> tuple[bytes, bytes]:
    """
    LayerCache of every layer and CacheView of every tensor, as bytes.
    """
def persistent_program(shape: dict[str, typing.Any], shared_prefix: typing.SupportsInt | typing.SupportsIndex) -> tuple[bytes, list[tuple[int, int]]]:
    """
    The table of phases, 56 bytes each, and the range of each kind of pass in it.
    """
def persistent_validate(shape: dict[str, typing.Any], phases: bytes, passes: list[tuple[int, int]], gates: list[list[int]], batch_size: typing.SupportsInt | typing.SupportsIndex, grid: typing.SupportsInt | typing.SupportsIndex) -> str:
    """
    What is wrong with a program on a grid of blocks; empty if nothing.
    """
def persistent_weight_map(shape: dict[str, typing.Any]) -> dict[str, typing.Any]:
    """
    Offsets of every matrix and vector of a model in its packed weights.
    """
def tree_attention(query: typing.Any, key: typing.Any, value: typing.Any, key_cache: typing.Any, value_cache: typing.Any, context_lens: typing.Any, parents: typing.Any, num_tokens: typing.Any, scale: typing.Any, softcap: typing.Any, window: typing.Any, page_table: typing.Any, out: typing.Any, lse: typing.Any, num_threads: typing.SupportsInt | typing.SupportsIndex) -> None:
    """
    See via_ext.ops.tree_attention. Writes into the caches, `out` and `lse`.
    """
def verify(draft_token_ids: typing.Any, logits: typing.Any, rule: typing.Any, parents: typing.Any, num_nodes: typing.Any, resume: typing.Any, draft_logits: typing.Any, draft_probs: typing.Any, draft_to_target: typing.Any, accept_threshold: typing.Any, escalate_threshold: typing.Any, draft_threshold: typing.Any, router: typing.Any, draft_scores: typing.Any, temperature: typing.Any, top_k: typing.Any, top_p: typing.Any, min_p: typing.Any, allowed: typing.Any, uniform_samples: typing.Any, seed: typing.Any, position: typing.Any, out: typing.Any, num_threads: typing.SupportsInt | typing.SupportsIndex, extras: typing.Any = None) -> None:
    """
    See via_ext.ops.verify. Writes into `out`.
    """
