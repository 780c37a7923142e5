# SPDX-License-Identifier: Apache-2.0
"""Which session decodes: on CUDA one whose steps stay on the device, or are one launch each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from via_ext.config import ViaConfig
from via_ext.engines.auto_tier import TierSwitch
from via_ext.engines.calibrated import Calibrated
from via_ext.engines.device_passes import DeviceEngine
from via_ext.engines.device_session import DeviceSession
from via_ext.engines.hooks import RowHooks
from via_ext.engines.persistent import PersistentEngine
from via_ext.engines.persistent_checks import check_config
from via_ext.engines.persistent_session import PersistentSession
from via_ext.engines.session import Session
from via_ext.engines.torch import TorchEngine

AnySession: TypeAlias = Session | DeviceSession


ENGINES = ("auto", "torch", "persistent")


class EngineChoice:
    """Which engine decodes, from what the caller asked for.

    Attributes:
        name: "torch" or "persistent".
        reason: why.
    """

    def __init__(self, asked: str) -> None:
        """Chooses.

        Args:
            asked: one of `ENGINES`. "auto" is "torch" until the persistent engine is measured.

        Raises:
            ValueError: `asked` is none of them.
        """
        if asked not in ENGINES:
            raise ValueError(f"Decoder: engine must be one of {', '.join(ENGINES)}, got {asked}")
        self.name = "persistent" if asked == "persistent" else "torch"
        self.reason = "asked for by name"
        if asked == "auto":
            self.reason = "the persistent engine has not been measured on a GPU: ask for it by name"

    def make(self, engine: TorchEngine, config: ViaConfig) -> DeviceEngine | None:
        """The passes for a model on CUDA, None for one on the CPU with the torch engine.

        Args:
            engine: the target's parts.
            config: of every run.

        Raises:
            ValueError: the persistent engine does not take the model, the settings or the device.
            RuntimeError: it has no memory for its weights.
        """
        if self.name == "persistent":
            check_config(config)
            return PersistentEngine(engine)
        device = next(engine.target.parameters()).device
        return DeviceEngine(engine) if device.type == "cuda" else None


def reopen_session(
    past: AnySession | None,
    config: ViaConfig,
    prompts: list[list[int]],
    seed: int,
    decode: Callable[[list[int]], str] | None,
    hooks: list[RowHooks] | None,
) -> bool:
    """Starts a run in the memory of a session on CUDA, with its recorded graphs, if it fits.

    Args:
        past: the decoder's last session.
        config: as in `open_session`.
        prompts: as there.
        seed: as there.
        decode: as there.
        hooks: as there.

    Returns:
        False if the run needs a session of its own.
    """
    if not isinstance(past, DeviceSession) or past.config != config:
        return False
    return past.restart(prompts, seed, decode, hooks)


def open_session(
    engine: TorchEngine,
    device: DeviceEngine | None,
    drafter: Any,
    config: ViaConfig,
    prompts: list[list[int]],
    seed: int,
    eos_token_ids: tuple[int, ...],
    decode: Callable[[list[int]], str] | None,
    hooks: list[RowHooks] | None,
    calibrated: Calibrated | None = None,
    switch: TierSwitch | None = None,
) -> AnySession:
    """Starts a run.

    Args:
        engine: the target's parts.
        device: the same for CUDA, for steps of one launch, or None.
        drafter: as in `Session`.
        config: as there.
        prompts: as there.
        seed: as there.
        eos_token_ids: as there.
        decode: as there.
        hooks: as there; on CUDA without logits processors.
        calibrated: as there; not on CUDA.
        switch: as there; not on CUDA.
    """
    shared = (drafter, config, prompts, seed, eos_token_ids, decode, hooks)
    if device is None:
        return Session(engine, *shared, calibrated, switch)
    if isinstance(device, PersistentEngine):
        return PersistentSession(device, *shared)
    return DeviceSession(device, *shared)
