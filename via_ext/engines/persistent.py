# SPDX-License-Identifier: Apache-2.0
"""The persistent engine: a model packed once, its program, and the words its blocks share.

A whole verification step is one cooperative launch, see `PersistentSession`.
"""

from __future__ import annotations

import struct

import torch

from via_ext.engines.device_passes import DeviceEngine
from via_ext.engines.persistent_checks import check_model
from via_ext.engines.persistent_pack import pack_model
from via_ext.engines.torch import TorchEngine
from via_ext.models.families import layer_windows
from via_ext.ops._common import _C
from via_ext.route import SlimRoute

PASSES = ("slim", "prefix", "tail", "full")
PHASES = (
    *("embed", "load", "save", "qkv", "rotary", "attention", "output", "gate_up", "down"),
    "head",
)
# Work of a step that is no phase of the table, as Control names it.
STEP_PHASES = {-1: "verify", -2: "bookkeeping", -3: "cache compaction", -4: "saved rows"}
# Control: words that blocks share, one per 128-byte line.
CONTROL_WORDS = ("arrivals", "base", "abort", "code", "phase", "block", "epoch", "seen")
FAULTS = {1: "waited too long at a grid barrier", 2: "waited too long inside a phase"}
LINE = 32  # int32 words
PHASE_BYTES = 56
GATE_WORDS = 4
WATCHDOG_S = 2.0


def route_gates(route: SlimRoute | None) -> list[int]:
    """Gate words of a slim pass: bit 2 l keeps the attention of layer l, bit 2 l + 1 its MLP."""
    if route is None:
        return [2**64 - 1] * GATE_WORDS
    keep = [bit for pair in zip(route.keep_attention, route.keep_mlp, strict=True) for bit in pair]
    bits = sum(1 << index for index, kept in enumerate(keep) if kept)
    return [bits >> 64 * word & 2**64 - 1 for word in range(GATE_WORDS)]


class PersistentEngine(DeviceEngine):
    """A model ready for launches; packing adds one copy of its weights.

    Attributes:
        weights: the packed model.
        passes: (first, last) phase of each pass of `PASSES`.
        gates: gate words of each pass.
        phases: the phase table on the device, bytes.
        control: [8, 32] int32, column 0 holds `CONTROL_WORDS`.
        window: positions that attention sees, 0 = all.
        grid: blocks of a launch; None = as many as the device holds.
        watchdog_s: seconds that a block may wait for others.
        missing_block: a block that never arrives, to prove the watchdog; -1 = none.
        stamps: memory for the times of phases, in builds that take them (see
            csrc/persistent/stamps.cuh), as bytes on the device; None = none.
    """

    def __init__(self, engine: TorchEngine) -> None:
        """Packs the weights.

        Args:
            engine: gives the model and the route.

        Raises:
            ValueError: the model or the device is not supported, by name.
            RuntimeError: no memory for the packed weights; the model is unharmed.
        """
        check_model(engine.target)
        super().__init__(engine)
        self.grid: int | None = None
        self.watchdog_s = WATCHDOG_S
        self.missing_block = -1
        self.stamps: torch.Tensor | None = None
        self.window = layer_windows(self.target.config)[0] or 0
        self.weights = pack_model(self.target)
        route = engine.route if engine.slim is not None else None
        prefix = 0 if route is None else route.shared_prefix
        table, self.passes = _C.persistent_program(self.weights.shape, prefix)
        self._table = bytes(table)
        device = self.weights.packed.device
        self.phases = device_bytes(self._table, device)
        whole = route_gates(None)
        self.gates = [route_gates(route), whole, whole, whole]
        self.control = torch.zeros(len(CONTROL_WORDS), LINE, dtype=torch.int32, device=device)
        self._valid: set[tuple[int, int]] = set()
        self.blocks(1)

    def blocks(self, rows: int) -> int:
        """Blocks of a launch for so many batch rows.

        Raises:
            ValueError: the model is not on a CUDA device, or the kernel does not fit the device.
        """
        try:
            most: int = _C.persistent_blocks(self.weights.shape, rows, self.weights.packed)
        except RuntimeError as error:
            raise ValueError(
                f"Decoder: engine must fit the device of the model, got 'persistent': {error}"
            ) from error
        blocks = most if self.grid is None else min(self.grid, most)
        self._validate(rows, blocks)
        return blocks

    def _validate(self, rows: int, blocks: int) -> None:
        """Walks the program as so many blocks would, once: a wrong one would hang the device."""
        if (rows, blocks) in self._valid:
            return
        program = (self.weights.shape, self._table, self.passes, self.gates)
        wrong: str = _C.persistent_validate(*program, rows, blocks)
        if wrong:
            raise RuntimeError(f"persistent engine: wrong program: {wrong}")
        self._valid.add((rows, blocks))

    def fault(self, words: list[int]) -> str:
        """What the control words say about an aborted launch.

        Args:
            words: in the order of `CONTROL_WORDS`.
        """
        found = dict(zip(CONTROL_WORDS, words, strict=True))
        what = FAULTS.get(found["code"], f"stopped with code {found['code']}")
        return (
            f"persistent engine: block {found['block']} {what} in {self._phase(found['phase'])}, "
            f"epoch {found['epoch']} (seen {found['seen']} arrivals); the requests of this run are "
            "lost, the engine can be used again"
        )

    def _phase(self, index: int) -> str:
        if not 0 <= index < len(self._table) // PHASE_BYTES:
            return STEP_PHASES.get(index, f"phase {index}")
        kind, layer = struct.unpack_from("<2i", self._table, index * PHASE_BYTES)
        name = f"phase {index} ({PHASES[kind]})"
        return name if layer < 0 else f"phase {index} ({PHASES[kind]} of layer {layer})"

    def memory(self) -> dict[str, int]:
        """Bytes that the engine itself holds: packed weights and vectors."""
        packed, vectors = self.weights.packed, self.weights.vectors
        return {"packed": packed.nbytes, "vectors": vectors.nbytes}


def device_bytes(content: bytes, device: torch.device) -> torch.Tensor:
    """[n] uint8 on the device; at least one byte."""
    return torch.frombuffer(bytearray(content or b"\0"), dtype=torch.uint8).to(device)
