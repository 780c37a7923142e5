# SPDX-License-Identifier: Apache-2.0
"""`Decoder`: decoding with a drafter, a slim verifier and a full verifier."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from via_ext.config import ViaConfig
from via_ext.drafters import Drafter
from via_ext.drafters.connect import make_drafter, verifier_route
from via_ext.engines.auto_tier import TierSwitch
from via_ext.engines.calibrated import check_device, choose_setting
from via_ext.engines.choose import AnySession, EngineChoice, open_session, reopen_session
from via_ext.engines.hooks import RowHooks
from via_ext.engines.request import resolve_eos
from via_ext.engines.torch import TorchEngine
from via_ext.prompts import read_prompts
from via_ext.result import DecodeResult, StepOutput, collect, confirmed
from via_ext.route import SlimRoute
from via_ext.stats import DecodeStats


class Decoder:
    """Decodes with one target model.

    On CUDA the steps are replayed from CUDA graphs, and the host waits once a step. The first run
    of a batch size records them; its memory stays with the decoder and serves later runs of as
    many rows that fit. Logits processors are refused there.

    The engine "persistent", for bfloat16 models of four families on CUDA, runs a verification step
    as one launch, from a packed copy of the weights.

    Attributes:
        config: of every run.
        engine: what decodes, "torch" or "persistent"; `engine_reason`: why.
    """

    def __init__(
        self,
        target: Any,
        drafter: Drafter | Any | None,
        route: SlimRoute | None = None,
        config: ViaConfig | None = None,
        engine: str = "auto",
        *,
        tokenizer: Any = None,
    ) -> None:
        """Builds the views; no weight is copied.

        Args:
            target: a supported `transformers` causal language model.
            drafter: a `Drafter`, a `transformers` model (becomes a `ModelDrafter`), or None to
                decode without drafts.
            route: the slim verifier, or what a `SlimDrafter` drafts with; None or
                `SlimRoute.full` = two tiers. With `config.agreement` it holds the calibration.
            config: mode, thresholds, sampling, lengths; default `ViaConfig()`.
            engine: "torch"; "persistent", which refuses by name what it does not take; or "auto":
                "torch" in this version, as "persistent" has not been measured on a GPU yet.
            tokenizer: needed for `stop_strings`; compared with a drafter's own.

        Raises:
            TypeError: an argument has the wrong type.
            ValueError: the model family, the route (or its calibration) or a combination is not
                supported.
            RuntimeError: no memory for the packed weights of the persistent engine.
        """
        self.config = ViaConfig() if config is None else config
        if not isinstance(self.config, ViaConfig):
            raise TypeError(f"Decoder: config must be a ViaConfig, got {type(config).__name__}")
        choice = EngineChoice(engine)
        if route is not None and not isinstance(route, SlimRoute):
            raise TypeError(f"Decoder: route must be a SlimRoute, got {type(route).__name__}")
        if self.config.stop_strings and tokenizer is None:
            raise ValueError("Decoder: tokenizer must be given with stop_strings, got None")
        self._engine = TorchEngine(target, verifier_route(drafter, route))
        check_device(self.config, target)
        self._target = target
        self._drafter = make_drafter(drafter, self._engine, route, tokenizer)
        has_slim = self._engine.slim is not None
        arguments = (self.config, route, self._drafter)
        self._calibrated = choose_setting(*arguments, has_slim=has_slim)
        self._switch = TierSwitch() if self.config.auto_tier and has_slim else None
        self.tune_drafter(self.config)
        self._tokenizer = tokenizer
        self._eos = resolve_eos(self.config, target)
        vocab_size = target.config.vocab_size
        if any(token >= vocab_size for token in self._eos):
            raise ValueError(f"Decoder: eos_token_id must be in [0, {vocab_size}), got {self._eos}")
        self.engine, self.engine_reason = choice.name, choice.reason
        self._device = choice.make(self._engine, self.config)
        self._session: AnySession | None = None
        self._runs = 0
        self._past_seconds = (0.0, 0.0)  # of the runs before the present one: steps, forwards

    def tune_drafter(self, config: ViaConfig) -> None:
        """Gives a built-in drafter the sampling settings to draft with, and the vocabulary.

        Args:
            config: the decoder's own, unless logits processors do the filtering.

        Raises:
            ValueError: the drafter cannot serve this target.
        """
        configure = getattr(self._drafter, "configure", None)
        if configure is not None:
            configure(config, self._target.config.vocab_size)

    @property
    def step_seconds(self) -> float:
        """Seconds in decoding steps, prefill excluded, over all runs of this decoder."""
        return self._past_seconds[0] + (self._session.seconds if self._session else 0.0)

    @property
    def forward_seconds(self) -> float:
        """Seconds of those steps inside the models' own forward passes, target and drafter."""
        running = self._session.forward_seconds if self._session else 0.0
        return self._past_seconds[1] + running

    @property
    def stats(self) -> DecodeStats | None:
        """Statistics of the last run, None before the first."""
        return None if self._session is None else self._stats(self._session)

    def generate(
        self,
        input_ids: torch.Tensor | Sequence[torch.Tensor],
        attention_mask: torch.Tensor | None = None,
    ) -> DecodeResult:
        """Decodes a batch to its end.

        Args:
            input_ids: [B, T] or [T] int32 or int64, or a list of 1-D tensors.
            attention_mask: [B, T], 1 = token, 0 = padding on one side; None = no padding.

        Returns:
            Sequences, log-probabilities, tiers and statistics, on the CPU.

        Raises:
            TypeError: a wrong type or dtype.
            ValueError: a wrong shape, an id outside the vocabulary, or no room in the context.
        """
        return self.run(input_ids, attention_mask)

    def run(
        self,
        input_ids: torch.Tensor | Sequence[torch.Tensor],
        attention_mask: torch.Tensor | None = None,
        *,
        streamer: Any = None,
        put_prompt: bool = True,
        hooks: list[RowHooks] | None = None,
    ) -> DecodeResult:
        """Decodes a batch to its end, with what a caller wants to see or to change on the way.

        Args:
            input_ids: as in `generate`.
            attention_mask: as in `generate`.
            streamer: object with `put(ids)` and `end()`; gets the prompt [1, T], then each
                confirmed piece [n] once and in order. Batch 1 only.
            put_prompt: False if the streamer has the prompt already.
            hooks: logits processors and stopping criteria, per batch row.

        Raises:
            ValueError: a streamer with more than one prompt; and as `generate`.
        """
        session = self._start(input_ids, attention_mask, hooks, streams=streamer is not None)
        if streamer is None:
            while session.active:
                session.step()
            return self._result(session)
        if put_prompt:
            streamer.put(torch.tensor([session.requests[0].tokens]))
        for output in self._steps(session, self._runs):
            streamer.put(torch.tensor(output.tokens[0]))
        streamer.end()
        return self._result(session)

    def stream(
        self,
        input_ids: torch.Tensor | Sequence[torch.Tensor],
        attention_mask: torch.Tensor | None = None,
    ) -> Iterator[StepOutput]:
        """Decodes step by step; arguments as in `generate`.

        Yields:
            After every step that confirmed something, the tokens that can no longer be rolled
            back. Together they are exactly what `generate` returns for the same seed.

        Raises:
            RuntimeError: the decoder began another run in between: its drafter has moved on.
        """
        session = self._start(input_ids, attention_mask)
        return self._steps(session, self._runs)

    def _steps(self, session: AnySession, run: int) -> Iterator[StepOutput]:
        active = True
        while active:
            # A later run may be one of the same session: whether that is active says nothing.
            if run != self._runs:
                raise RuntimeError("Decoder.stream: another run of this decoder has begun")
            session.step()
            output = confirmed(session)
            active = session.active
            if any(output.tokens):
                yield output

    def _start(
        self,
        input_ids: torch.Tensor | Sequence[torch.Tensor],
        attention_mask: torch.Tensor | None,
        hooks: list[RowHooks] | None = None,
        streams: bool = False,
    ) -> AnySession:
        room = self.config.max_new_tokens
        prompts = read_prompts(input_ids, attention_mask, self._target.config, room)
        if streams and len(prompts) != 1:
            raise ValueError(f"generate: streamer must have a batch of 1, got {len(prompts)}")
        self._past_seconds = (self.step_seconds, self.forward_seconds)
        past, self._session = self._session, None
        self._runs += 1
        config = self.config
        self._seed = secrets.randbits(63) if config.seed is None else config.seed
        decode = self._decode_text if config.stop_strings else None
        if not reopen_session(past, config, prompts, self._seed, decode, hooks):
            past = None  # its memory is free before the next session's is taken
            arguments = (self._drafter, config, prompts, self._seed, self._eos, decode, hooks)
            rules = (self._calibrated, self._switch)
            past = open_session(self._engine, self._device, *arguments, *rules)
        assert past is not None
        self._session = past
        return past

    def _decode_text(self, tokens: list[int]) -> str:
        text: str = self._tokenizer.decode(tokens, clean_up_tokenization_spaces=False)
        return text

    def _stats(self, session: AnySession) -> DecodeStats:
        recorder = session.recorder
        recorder.tokens = sum(request.generated for request in session.requests)
        return recorder.finish(self._seed)

    def _result(self, session: AnySession) -> DecodeResult:
        pad = getattr(self._target.config, "pad_token_id", None)
        if pad is None:
            pad = self._eos[0] if self._eos else 0
        return collect(session, self.config.max_new_tokens, pad, self._stats(session))
