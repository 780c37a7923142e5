# SPDX-License-Identifier: Apache-2.0
"""One decoding run on the device: `Session` for models whose steps are replayed as CUDA graphs.

A step is at most three graphs: draft, slim (pass, verify, commit) and, only if a request escalates,
full. The host waits once, for the words of the slim stage; with two tiers it reads the words of
the step before while the device works. Tokens are fetched when somebody asks for them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import torch

from via_ext.config import ViaConfig
from via_ext.drafters import Drafter
from via_ext.engines.device_draft import make_proposer
from via_ext.engines.device_passes import DeviceEngine, DevicePasses
from via_ext.engines.device_stages import DeviceStages
from via_ext.engines.device_state import WORDS, DeviceState
from via_ext.engines.device_verify import DeviceVerify
from via_ext.engines.graphs import DecisionWord, GraphRunner
from via_ext.engines.hooks import RowHooks
from via_ext.engines.mirror import Mirror
from via_ext.engines.policy import choose_policy
from via_ext.engines.request import Request, StopRules
from via_ext.stats import StatsRecorder

_FULL, _PREFIX, _LEAD, _FINISHED = map(WORDS.index, ("full", "prefix", "lead", "finished"))


class DeviceSession:
    """Decodes a batch of prompts to their ends, with its state on the device.

    Attributes:
        config: of all its runs.
        seconds: time spent in steps, prefill excluded; the device may still be at work.
        forward_seconds: 0: passes are not timed by the host.
        hidden_dtype: of the saved hidden rows; None = the model's.
    """

    hidden_dtype: torch.dtype | None = None

    def __init__(
        self,
        engine: DeviceEngine,
        drafter: Drafter | None,
        config: ViaConfig,
        prompts: list[list[int]],
        seed: int,
        eos_token_ids: tuple[int, ...],
        decode: Callable[[list[int]], str] | None,
        hooks: list[RowHooks] | None = None,
        runner: GraphRunner | None = None,
    ) -> None:
        """Prefills the target and hands the prompts to the drafter.

        Args:
            engine: the target's parts.
            drafter: proposes tokens; None = no drafts.
            config: the run's configuration.
            prompts: token ids per row, at least one each.
            seed: root of every random stream.
            eos_token_ids: resolved end-of-sequence ids.
            decode: turns ids into text, for stop strings.
            hooks: per row, a caller's stopping criteria.
            runner: records and replays the graphs; None = a new one, on CUDA with graphs.

        Raises:
            ValueError: a hook has to see logits.
        """
        model_config = engine.target.config
        device = next(engine.target.parameters()).device
        policy = choose_policy(config)
        self.config = config
        self._has_slim = engine.slim is not None
        self._state = DeviceState(
            config, policy, prompts, seed, eos_token_ids, device, has_slim=self._has_slim
        )
        self._passes = DevicePasses(engine, self._state, self.hidden_dtype)
        self._verify = DeviceVerify(self._state, policy, model_config.vocab_size)
        self._runner = runner or GraphRunner(device)
        self._words = DecisionWord(self._state.words)
        self._on_cuda = device.type == "cuda"
        self._proposer = make_proposer(drafter, self._state, self._verify, self._passes.arena)
        # A proposal of the host's may have any shape.
        moves = self._proposer.on_host or not self._state.tree.is_chain
        self._stages = DeviceStages(
            self._state, self._passes, self._verify, policy, has_slim=self._has_slim, moves=moves
        )
        self._eos = eos_token_ids
        self._begin(prompts, decode, hooks)

    def restart(
        self,
        prompts: list[list[int]],
        seed: int,
        decode: Callable[[list[int]], str] | None,
        hooks: list[RowHooks] | None = None,
    ) -> bool:
        """Begins another run in the same memory, with the graphs that were recorded.

        Args:
            prompts: as in the constructor.
            seed: as there.
            decode: as there.
            hooks: as there.

        Returns:
            False if that is not possible: other rows, or no room.
        """
        if not self._state.fits(prompts):
            return False
        self._state.enter(prompts, seed)
        self._begin(prompts, decode, hooks)
        return True

    @torch.inference_mode()
    def _begin(
        self,
        prompts: list[list[int]],
        decode: Callable[[list[int]], str] | None,
        hooks: list[RowHooks] | None,
    ) -> None:
        if any(row.reads_rows for row in hooks or ()):
            raise ValueError(
                "Decoder: logits_processor, output_scores and output_logits must be unset on CUDA "
                "in this version, got a call per position"
            )
        config, vocab_size = self._state.config, self._passes.vocab_size
        stop = StopRules(config, self._eos, vocab_size, decode, hooks)
        self._mirror = Mirror(self._state, stop, len(prompts))
        self._watches = bool(config.stop_strings) or hooks is not None
        self._waiting = self._done = False
        self._resumed = 0
        self.seconds = self.forward_seconds = 0.0
        self._passes.prefill(prompts)
        self._proposer.prefill(self._mirror)

    @property
    def requests(self) -> list[Request]:
        """The requests as the host sees them; waits for the device."""
        self._settle()
        return self._mirror.read()

    @property
    def recorder(self) -> StatsRecorder:
        """Statistics of the run so far; waits for the device."""
        self._settle()
        recorder = self._mirror.recorder()
        recorder.resumed_passes = self._resumed
        recorder.draft_passes = self._proposer.passes(recorder.steps)
        return recorder

    @property
    def status(self) -> list[int]:
        """Status bits of `ops.verify` per batch row, or-ed over the run; waits for the device."""
        status: list[int] = self._state.status.tolist()
        return status

    @property
    def active(self) -> bool:
        """False once every request is known to have finished; a step later at most."""
        if not self._on_cuda:
            self._settle()
        return not self._done

    @torch.inference_mode()
    def step(self) -> None:
        """One decoding step of every unfinished request."""
        begin = time.perf_counter()
        if self._proposer.on_host or self._watches:
            self._settle()
        self._proposer.propose(self._runner)
        self._settle()
        if not self._done:
            self._decide()
            if self._watches:
                self._settle()
                self._done = self._mirror.stop_rows()
        self.seconds += time.perf_counter() - begin

    def _decide(self) -> None:
        if not self._has_slim:
            self._runner.run(("full", *self._recorded), self._stages.full)
            self._send()
            return
        self._runner.run(("slim", *self._recorded), self._stages.slim)
        self._send()
        words = self._settle()
        leads = [row[_LEAD] for row in words if row[_FULL]]
        self._resumed += sum(row[_FULL] and not row[_PREFIX] for row in words)
        if leads:
            width = self._stages.tail_width(max(leads))
            prefix = any(row[_PREFIX] for row in words)
            # Not a lambda: a graph keeps its body, which must not keep the session and its graphs.
            body = partial(self._stages.tail, width, prefix)
            self._runner.run(("tail", width, prefix, *self._recorded), body)
            self._send()

    @property
    def _recorded(self) -> tuple[bool, bool]:
        """A recording reads the drafter's distributions, or its id map, or it does not."""
        return self._verify.draft_probs is not None, self._verify.draft_to_target is not None

    def _send(self) -> None:
        self._words.send()
        self._waiting = True

    def _settle(self) -> list[list[int]]:
        """Waits for the words that were sent last."""
        words: list[list[int]] = self._words.wait().tolist()
        if self._waiting:
            self._waiting = False
            self._done = all(row[_FINISHED] for row in words)
        return words
