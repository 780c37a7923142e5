# SPDX-License-Identifier: Apache-2.0
"""Which session decodes: on CUDA the one whose steps stay on the device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from via_ext.config import ViaConfig
from via_ext.engines.auto_tier import TierSwitch
from via_ext.engines.calibrated import Calibrated
from via_ext.engines.device_passes import DeviceEngine
from via_ext.engines.device_session import DeviceSession
from via_ext.engines.hooks import RowHooks
from via_ext.engines.session import Session
from via_ext.engines.torch import TorchEngine

AnySession: TypeAlias = Session | DeviceSession


def device_engine(engine: TorchEngine) -> DeviceEngine | None:
    """The passes for a model on CUDA, None for one on the CPU."""
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
        device: the same for CUDA, or None.
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
    return DeviceSession(device, *shared)
