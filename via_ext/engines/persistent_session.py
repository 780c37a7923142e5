# SPDX-License-Identifier: Apache-2.0
"""One decoding run whose steps are single launches: `PersistentSession`.

State, proposals, prefill and the host's mirror are those of `DeviceSession`. A step's decisions,
from the slim pass to the compaction, are one cooperative launch: the host waits for its words only
when it has prepared the next step.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from via_ext.config import ViaConfig
from via_ext.drafters import Drafter
from via_ext.engines.device_session import DeviceSession
from via_ext.engines.graphs import DecisionWord, GraphRunner
from via_ext.engines.hooks import RowHooks
from via_ext.engines.persistent import CONTROL_WORDS, PersistentEngine
from via_ext.engines.persistent_checks import run_config
from via_ext.engines.persistent_launch import PersistentLaunch
from via_ext.stats import StatsRecorder
from via_ext.tree import Tree

_ABORT = CONTROL_WORDS.index("abort")


class PersistentSession(DeviceSession):
    """Decodes a batch of prompts to their ends, one launch a step.

    Attributes:
        config: of all its runs, as the caller gave it.
        launch: the memory of the launches, and the launches themselves.
    """

    hidden_dtype = torch.float32

    def __init__(
        self,
        engine: PersistentEngine,
        drafter: Drafter | None,
        config: ViaConfig,
        prompts: list[list[int]],
        seed: int,
        eos_token_ids: tuple[int, ...],
        decode: Callable[[list[int]], str] | None,
        hooks: list[RowHooks] | None = None,
        runner: GraphRunner | None = None,
    ) -> None:
        """Prefills the target through its own forward, and hands the prompts to the drafter.

        Args:
            engine: the packed model.
            drafter: as in `DeviceSession`, and so are the others.
            config: its backlog is cut to what one pass holds.
            prompts: at most four.
            seed: as there.
            eos_token_ids: as there.
            decode: as there.
            hooks: as there.
            runner: as there.

        Raises:
            ValueError: too many rows or tokens for one pass, or a hook has to see logits.
            RuntimeError: no memory; the model and the engine can be used on.
        """
        tree = config.tree or Tree.chain(config.num_draft_tokens)
        has_slim = engine.slim is not None
        cut = run_config(config, len(prompts), tree.num_nodes, hooks, has_slim=has_slim)
        self._engine = engine
        super().__init__(engine, drafter, cut, prompts, seed, eos_token_ids, decode, hooks, runner)
        self.config = config
        self.launch = PersistentLaunch(
            engine, self._state, self._passes, self._verify, moves=self._stages.moves
        )
        self._control = DecisionWord(engine.control)

    @property
    def recorder(self) -> StatsRecorder:
        """As in `DeviceSession`; a step without a slim pass needs the whole full pass."""
        recorder = super().recorder
        if self._has_slim:
            whole = recorder.steps - recorder.slim_passes
            recorder.resumed_passes = recorder.full_passes - whole
        return recorder

    def _decide(self) -> None:
        body = self.launch.step(self._verify)
        self._runner.run(("persistent", *self._recorded), body)
        self._send()

    def _send(self) -> None:
        super()._send()
        self._control.send()

    def _settle(self) -> list[list[int]]:
        waiting = self._waiting
        words = super()._settle()
        if waiting:
            control = self._control.wait()[:, 0].tolist()
            if control[_ABORT]:
                self._recover()
                raise RuntimeError(self._engine.fault(control))
        return words

    def _recover(self) -> None:
        """Ends the run and clears what an aborted launch left behind, the cache included."""
        self._done = True
        self._engine.control.zero_()
        self.launch.clear()
        for tensor in self._passes.arena.tensors:
            tensor.zero_()

    def memory(self) -> dict[str, int]:
        """Bytes on the device: packed, vectors, buffers (work space included), tables, cache."""
        cache = sum(tensor.nbytes for tensor in self._passes.arena.tensors)
        return self._engine.memory() | self.launch.memory() | {"cache": cache}
