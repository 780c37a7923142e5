# SPDX-License-Identifier: Apache-2.0
"""`custom_generate`: a decoding method for transformers' own generate."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any, NamedTuple

import torch

from via_ext.config import ViaConfig
from via_ext.decode import Decoder
from via_ext.drafters import Drafter
from via_ext.engines.hooks import RowHooks
from via_ext.result import DecodeResult
from via_ext.route import SlimRoute

# Fields of ViaConfig that GenerationConfig decides inside transformers' generate.
GENERATION_FIELDS = (
    *("temperature", "top_k", "top_p", "min_p"),
    *("max_new_tokens", "min_new_tokens", "stop_strings"),
)
_DEFAULTS = {field.name: field.default for field in fields(ViaConfig)}
_MISSING: Any = object()


def custom_generate(
    model: Any,
    input_ids: torch.Tensor,
    logits_processor: Any,
    stopping_criteria: Any,
    generation_config: Any,
    synced_gpus: bool = False,
    streamer: Any = None,
    *,
    drafter: Drafter | Any | None = _MISSING,
    route: SlimRoute | None = None,
    config: ViaConfig | None = None,
    tokenizer: Any = None,
    results: list[DecodeResult] | None = None,
    **model_kwargs: Any,
) -> Any:
    """Decoding method for `model.generate(ids, custom_generate=via_ext.custom_generate, ...)`.

    `drafter`, `route` and `config` are given to `model.generate` beside its own arguments. Lengths,
    end of sequence, sampling and filters come from the GenerationConfig, as always there; `config`
    gives the rest: mode, draft shape, thresholds, backlog, seed (None: drawn from torch's global
    generator, so that `torch.manual_seed` makes a run repeatable). In mode "exact" the tokens
    (greedy) or their law (sampling) are those of plain generate, in mode "via" they are not.

    Temperature, top-k, top-p, min-p and minimum lengths run fused where they mean the same; any
    other logits processor runs per position, on float32 scores, with the true prefix of its
    position (padding included), one row at a time. In a batch of one the caller's own processors
    get exactly the calls of plain generate: once per decided position, in order. With a route,
    stateful ones are also called on deep copies, for tokens that may be rolled back; plain
    functions (`prefix_allowed_tokens_fn`) cannot be copied and should depend on their arguments
    only. In a larger batch every row has copies of its own; a processor may offer `for_row(index)`
    instead. Stopping criteria see every confirmed token, one at a time, and the output ends where
    they say.

    transformers keeps some arguments of `model.generate` from a callable: `streamer` gets the
    prompt and nothing else, `tokenizer` and `assistant_model` are dropped, and `stop_strings`
    raises. Bind a streamer with `functools.partial(custom_generate, streamer=streamer)` as well as
    passing it, or call `via_ext.generate`, which takes them all.

    Args:
        model: a supported `transformers` causal language model.
        input_ids: [B, T] int64, left-padded.
        logits_processor: prepared by transformers.
        stopping_criteria: prepared by transformers.
        generation_config: prepared by transformers.
        synced_gpus: must be False.
        streamer: gets each confirmed piece [n] once and in order, then `end()`. Batch 1 only.
        drafter: a `Drafter`, a model, or None to decode without drafts. Must be given, so that an
            `assistant_model` that was dropped does not go unnoticed.
        route: the slim verifier, None = two tiers.
        config: see above; default `ViaConfig()`, lossy mode "via".
        tokenizer: for drafters that need one; reaches this function bound by `partial` only.
        results: receives the run's `DecodeResult`.
        model_kwargs: likewise.

    Returns:
        [B, T + new] int64, padded on the right with the pad id; with `return_dict_in_generate` a
        GenerateDecoderOnlyOutput with `via_stats`, `via_tiers` and `via_logprobs` (and `scores` and
        `logits` if asked for, zeros where a row has ended; `past_key_values` is None).

    Raises:
        TypeError: a wrong type, or a stateful processor that must be copied and cannot be.
        ValueError: something that cannot be honoured, by name: beams, constraints, guidance,
            contrastive search, DoLa, a cache or embeddings of the caller's, right padding, scores
            of tokens that the full model never judged, ...
    """
    from via_ext.models.hf_refusals import refuse_unsupported

    config = _checked(config)
    if drafter is _MISSING:
        raise ValueError(
            "custom_generate: drafter must be given (None = no drafts; transformers drops "
            "assistant_model here), got nothing"
        )
    asked = model_kwargs | {"synced_gpus": synced_gpus or None}
    refuse_unsupported(model, input_ids, generation_config, logits_processor, asked)
    mask = model_kwargs.get("attention_mask")
    plan = _plan(input_ids, mask, logits_processor, stopping_criteria, generation_config, config)
    _check_kept(plan.hooks, plan.config, route)
    decoder = Decoder(model, drafter, route, plan.config, tokenizer=tokenizer)
    decoder.tune_drafter(plan.drafting)
    result = decoder.run(input_ids, mask, streamer=streamer, put_prompt=False, hooks=plan.hooks)
    if results is not None:
        results.append(result)
    return _output(input_ids, mask, generation_config, plan, result)


def _checked(config: ViaConfig | None) -> ViaConfig:
    """The configuration; what GenerationConfig decides must stand at its default."""
    config = ViaConfig() if config is None else config
    if not isinstance(config, ViaConfig):
        raise TypeError(f"custom_generate: config must be a ViaConfig, got {type(config).__name__}")
    for name in GENERATION_FIELDS:
        if getattr(config, name) != _DEFAULTS[name]:
            raise ValueError(
                f"custom_generate: config.{name} must be left at its default (give it to "
                f"model.generate), got {getattr(config, name)!r}"
            )
    return config


class _Plan(NamedTuple):
    """How a run honours what transformers prepared.

    Attributes:
        config: of the run.
        drafting: sampling settings of a built-in drafter.
        hooks: per batch row, None where the engine needs no code of the caller's.
    """

    config: ViaConfig
    drafting: ViaConfig
    hooks: list[RowHooks] | None


def _plan(
    input_ids: torch.Tensor,
    mask: torch.Tensor | None,
    processors: Any,
    criteria: Any,
    generation_config: Any,
    config: ViaConfig,
) -> _Plan:
    from via_ext.models import hf_compat, hf_filters

    batch, prompt_length = input_ids.shape
    ends = hf_compat.read_criteria(criteria, generation_config)
    own = config.eos_token_id
    eos = ends.eos_token_ids if own is None else (own,) if isinstance(own, int) else own
    seed = config.seed if config.seed is not None else int(torch.randint(2**63 - 1, ()))
    config = replace(
        config,
        eos_token_id=eos,
        max_new_tokens=ends.max_length - prompt_length,
        seed=seed,
        temperature=1.0 if generation_config.do_sample else 0.0,
    )
    returns_dict = bool(generation_config.return_dict_in_generate)
    keep_scores = returns_dict and bool(generation_config.output_scores)
    keep_logits = returns_dict and bool(generation_config.output_logits)
    fused = hf_filters.fused_rules(processors, prompt_length, ends.eos_token_ids)
    # Scores are asked for as the processors make them: then these have to run.
    if fused is not None and not (keep_scores and processors):
        processors = ()
        config = replace(config, min_new_tokens=min(fused.min_new_tokens, config.max_new_tokens))
        if generation_config.do_sample:
            config = replace(config, **fused.filters)
    drafting = config
    if processors and generation_config.do_sample:
        drafting = replace(config, **hf_filters.drafting_filters(processors))
    if not (processors or ends.others or keep_scores or keep_logits):
        return _Plan(config, drafting, None)
    padding = [0] * batch if mask is None else (mask == 0).sum(1).tolist()
    hooks = [
        RowHooks(
            lead=input_ids[row, : padding[row]].tolist(),
            processors=hf_compat.row_processors(processors, row, batch) if processors else None,
            criteria=hf_compat.row_criteria(ends.others, batch),
            stateful=hf_compat.is_stateful(processors),
            device=input_ids.device,
            keep_scores=keep_scores,
            keep_logits=keep_logits,
        )
        for row in range(batch)
    ]
    return _Plan(config, drafting, hooks)


def _check_kept(hooks: list[RowHooks] | None, config: ViaConfig, route: SlimRoute | None) -> None:
    """Refuses scores and logits where the full model does not judge every token."""
    audited = config.mode == "exact" or config.audit_threshold is not None
    if not hooks or route is None or route.is_full or audited:
        return
    for name, kept in (("scores", hooks[0].keep_scores), ("logits", hooks[0].keep_logits)):
        if kept:
            raise ValueError(
                f"custom_generate: output_{name} must be False in mode 'via' with a route and no "
                "audit (the full model does not judge every token), got True"
            )


def _output(
    input_ids: torch.Tensor,
    mask: torch.Tensor | None,
    generation_config: Any,
    plan: _Plan,
    result: DecodeResult,
) -> Any:
    """What plain generate would return."""
    from via_ext.models import hf_compat

    batch, prompt_length = input_ids.shape
    eos: Any = plan.config.eos_token_id
    pad = generation_config.pad_token_id
    pad = pad if pad is not None else eos[0] if eos else 0
    prompts = [prompt_length] * batch if mask is None else mask.sum(1).tolist()
    counts = [total - own for total, own in zip(result.lengths.tolist(), prompts, strict=True)]
    width = max(counts)
    new = torch.full((batch, width), pad, dtype=input_ids.dtype)
    for row, (own, count) in enumerate(zip(prompts, counts, strict=True)):
        new[row, :count] = result.sequences[row, own : own + count]
    sequences = torch.cat([input_ids, new.to(input_ids.device)], 1)
    if not generation_config.return_dict_in_generate:
        return sequences
    make: Any = hf_compat.ViaGenerateOutput  # annotated as one-element tuples
    return make(
        sequences=sequences,
        scores=_columns([row.scores for row in plan.hooks or () if row.keep_scores], width),
        logits=_columns([row.logits for row in plan.hooks or () if row.keep_logits], width),
        via_stats=result.stats,
        via_tiers=result.tiers[:, :width],
        via_logprobs=result.logprobs[:, :width],
    )


def _columns(rows: list[list[torch.Tensor]], width: int) -> tuple[torch.Tensor, ...] | None:
    """Per position one tensor [B, V]; zeros where a row has ended."""
    if not rows:
        return None
    blank = torch.zeros_like(rows[0][0])
    return tuple(
        torch.stack([row[column] if column < len(row) else blank for row in rows])
        for column in range(width)
    )
