# SPDX-License-Identifier: Apache-2.0
"""The operations as torch operators, for torch.compile, export and other tracing.

Imported by `via_ext.ops` when torch traces, so that a plain `import via_ext` registers nothing.
An argument that may be a number or a tensor becomes two of the schema: the number, and `*_rows`,
which wins if given. `verify` returns the fields of a Verification as a list: nine tensors, or
seven where ratios and tiers are None. Fakes allocate with the same code as the real operators.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from via_ext import ops
from via_ext.ops import _attention, _compact, _filter, _verify
from via_ext.ops._common import PerRow

_torch_library: Any = torch.library  # its functions carry no types
_LIBRARY = _torch_library.Library("via_ext", "DEF")
_FILTER = (
    "float temperature, Tensor? temperature_rows, int top_k, Tensor? top_k_rows, "
    "float top_p, Tensor? top_p_rows, float min_p, Tensor? min_p_rows, Tensor? allowed"
)
_SCHEMAS = (
    "verify(Tensor draft_token_ids, Tensor logits, str rule, Tensor? parents, Tensor? num_nodes, "
    "Tensor[] resume, Tensor? draft_logits, Tensor? draft_probs, Tensor? draft_to_target, "
    "float accept_threshold, Tensor? accept_threshold_rows, "
    "float escalate_threshold, Tensor? escalate_threshold_rows, "
    "float? draft_threshold, Tensor? draft_threshold_rows, "
    f"float[]? router, Tensor? router_rows, Tensor? draft_scores, {_FILTER}, "
    "Tensor? uniform_samples, Tensor? seed, Tensor? position) -> Tensor[]",
    f"filtered_probs(Tensor logits, {_FILTER}) -> Tensor",
    f"draft_sample(Tensor logits, {_FILTER}, Tensor? seed, Tensor? position, int column) "
    "-> (Tensor, Tensor)",
    "tree_attention(Tensor query, Tensor key, Tensor value, Tensor(a!) key_cache, "
    "Tensor(b!) value_cache, Tensor context_lens, Tensor? parents, Tensor? num_tokens, "
    "float? scale, float? softcap, int? window, Tensor? page_table, bool return_lse) "
    "-> (Tensor, Tensor)",
    f"draft_token_ids(Tensor logits, {_FILTER}, Tensor? seed, Tensor? position, int column) "
    "-> Tensor",
    "compact_kv(Tensor(a!)[] caches, Tensor context_lens, Tensor path, Tensor num_accepted, "
    "Tensor? page_table) -> ()",
)
OPERATORS = tuple(schema.partition("(")[0] for schema in _SCHEMAS)
_FIELDS = len(ops.Verification._fields)


def _pair(value: PerRow | None, number: type = float) -> tuple[Any, Tensor | None]:
    """(number, rows) of the schema."""
    if isinstance(value, Tensor):
        return number(0), value
    return (None if value is None else number(value)), None


def _to_verification(fields: Sequence[Tensor]) -> ops.Verification:
    return ops.Verification._make([*[None] * (_FIELDS - len(fields)), *fields])


def _to_list(result: ops.Verification | None) -> list[Tensor]:
    return [] if result is None else [field for field in result if field is not None]


def _merge(numbers_and_rows: Sequence[Any]) -> list[Any]:
    pairs = zip(numbers_and_rows[::2], numbers_and_rows[1::2], strict=True)
    return [number if rows is None else rows for number, rows in pairs]


def _verify_real(*args: Any) -> list[Tensor]:
    resume = _to_verification(args[5]) if args[5] else None
    router = args[16] if args[15] is None else tuple(args[15])
    route = (*_merge(args[9:15]), router, args[17])
    drawn = (*_merge(args[18:26]), *args[26:])
    return _to_list(_verify.run(*args[:5], resume, *args[6:9], *route, *drawn, None))


def _verify_fake(tokens: Tensor, logits: Tensor, rule: str, *rest: Any) -> list[Tensor]:
    resume = rest[2]
    ratios = rule == "route" or len(resume) == _FIELDS
    batch_size, num_nodes = tokens.shape
    return _to_list(ops.empty_verification(batch_size, num_nodes, tokens.device, ratios=ratios))


def _filtered_probs_real(logits: Tensor, *args: Any) -> Tensor:
    return _filter.run_filtered_probs(logits, *_merge(args[:8]), args[8], None)


def _filtered_probs_fake(logits: Tensor, *args: Any) -> Tensor:
    return torch.empty(logits.shape, dtype=torch.float32, device=logits.device)


def _draft_sample_real(logits: Tensor, *args: Any) -> tuple[Tensor, Tensor | None]:
    return _filter.run_draft_sample(logits, *_merge(args[:8]), *args[8:], True, None)


def _draft_sample_fake(logits: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
    return _draft_token_ids_fake(logits), _filtered_probs_fake(logits)


def _draft_token_ids_real(logits: Tensor, *args: Any) -> Tensor:
    return _filter.run_draft_sample(logits, *_merge(args[:8]), *args[8:], False, None)[0]


def _draft_token_ids_fake(logits: Tensor, *args: Any) -> Tensor:
    return torch.empty(logits.shape[:1], dtype=torch.int64, device=logits.device)


def _tree_attention_fake(query: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
    return _attention.empty_outputs(query, args[-1])


def _compact_kv_fake(caches: list[Tensor], *args: Any) -> None:
    return None


def _register() -> None:
    pairs: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
        "verify": (_verify_real, _verify_fake),
        "filtered_probs": (_filtered_probs_real, _filtered_probs_fake),
        "draft_sample": (_draft_sample_real, _draft_sample_fake),
        "tree_attention": (_attention.run, _tree_attention_fake),
        "draft_token_ids": (_draft_token_ids_real, _draft_token_ids_fake),
        "compact_kv": (_compact.run, _compact_kv_fake),
    }
    for schema in _SCHEMAS:
        _LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    for name, (real, fake) in pairs.items():
        for key in ("CPU", "CUDA"):
            _LIBRARY.impl(name, real, key)
        _torch_library.register_fake(f"via_ext::{name}", fake, lib=_LIBRARY)


_register()


def verify(*args: Any) -> ops.Verification:
    """`ops.verify` with every argument positional; results are copied into `out`, the last one."""
    head, resume, draft, out = args[:5], args[5], args[6:9], args[22]
    accept, escalate, draft_threshold, router, draft_scores = args[9:14]
    temperature, top_k, top_p, min_p = args[14:18]
    routers = (None, router) if isinstance(router, Tensor) else (router, None)
    fields = torch.ops.via_ext.verify(
        *(*head, _to_list(resume), *draft),
        *(*_pair(accept), *_pair(escalate), *_pair(draft_threshold), *routers, draft_scores),
        *(*_pair(temperature), *_pair(top_k, int), *_pair(top_p), *_pair(min_p), *args[18:22]),
    )
    if out is not None:
        for target, field in zip(_to_list(out), fields, strict=True):
            target.copy_(field)
        result: ops.Verification = out
        return result
    return _to_verification(fields)


def _filter_pairs(args: Sequence[Any]) -> tuple[Any, ...]:
    temperature, top_k, top_p, min_p, allowed = args
    return *_pair(temperature), *_pair(top_k, int), *_pair(top_p), *_pair(min_p), allowed


def filtered_probs(logits: Tensor, *args: Any) -> Tensor:
    """`ops.filtered_probs` with every argument positional; copied into `out`, the last one."""
    probs: Tensor = torch.ops.via_ext.filtered_probs(logits, *_filter_pairs(args[:5]))
    return probs if args[5] is None else args[5].copy_(probs)


def draft_sample(logits: Tensor, *args: Any) -> tuple[Tensor, Tensor | None]:
    """`ops.draft_sample` with every argument positional; copied into `out`, the last one."""
    return_probs, out = args[8:]
    arguments = (logits, *_filter_pairs(args[:5]), *args[5:8])
    if return_probs:
        token_ids, probs = torch.ops.via_ext.draft_sample(*arguments)
    else:
        token_ids, probs = torch.ops.via_ext.draft_token_ids(*arguments), None
    if out is None:
        return token_ids, probs
    token_ids_out, probs_out = out
    return token_ids_out.copy_(token_ids), probs_out.copy_(probs) if return_probs else None


def tree_attention(query: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
    """`ops.tree_attention` with every argument positional; always both results."""
    result: tuple[Tensor, Tensor] = torch.ops.via_ext.tree_attention(query, *args)
    return result


def compact_kv(caches: Sequence[Tensor], *args: Any) -> None:
    """`ops.compact_kv` with every argument positional."""
    torch.ops.via_ext.compact_kv(list(caches), *args)
