# SPDX-License-Identifier: Apache-2.0
"""What bench_persistent.py calls: passes of M tokens by three ways, and decoding runs.

All passes are one request, a chain of M tokens behind `CONTEXT` positions, weights as in
decode_models.py: random, and none shared between the ways but in size. `persistent` is a launch of
one pass alone; `compile+graph` and `graph` are the decoder of profiling/s0, with and without
torch.compile; `transformers` is a forward with a dynamic cache, cut back behind every call.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from decode_models import Subject
from decode_shapes import SHAPES

sys.path.append(str(Path(__file__).parent / "s0"))

import baselines
import decoder

CONTEXT = 1024
PASSES = ("full", "slim", "tail")
BACKLOG = 4  # the least that the engine takes: as many nodes as possible
STAMP_WORDS, MAX_STAMPS = 3, 2048  # csrc/persistent/stamps.cuh
STAGES = {-1: "verify", -2: "stage", -3: "compact", -4: "slim_rows"}
PHASES = (
    "embed",
    "load",
    "save",
    "qkv",
    "rotary",
    "attention",
    "output",
    "gate_up",
    "down",
    "head",
)
Call = Callable[[], Any]


class PersistentPasses:
    """Launches of single passes over the memory of one session.

    Attributes:
        engine: the packed model.
        session: gives buffers and cache; its own steps are not used.
    """

    def __init__(self, subject: Subject, *, stamps: bool = False) -> None:
        """Packs the model and prefills `CONTEXT` random tokens.

        Args:
            subject: its target and route.
            stamps: keeps the time of every phase, if the module was built for it.
        """
        from via_ext.config import ViaConfig
        from via_ext.drafters import PromptLookupDrafter
        from via_ext.engines.persistent import PersistentEngine
        from via_ext.engines.persistent_session import PersistentSession
        from via_ext.engines.torch import TorchEngine

        self.engine = PersistentEngine(TorchEngine(subject.target, subject.route))
        device = next(subject.target.parameters()).device
        if stamps:
            words = self.engine.blocks(1) * (1 + STAMP_WORDS * MAX_STAMPS)
            self.engine.stamps = torch.zeros(8 * words, dtype=torch.uint8, device=device)
        vocab_size = subject.target.config.vocab_size
        ids = torch.randint(vocab_size, (CONTEXT + 1,), generator=torch.Generator().manual_seed(3))
        config = ViaConfig(
            mode="via",
            num_draft_tokens=64 - 1 - BACKLOG,
            max_new_tokens=64,
            max_backlog=BACKLOG,
            seed=0,
        )
        drafter = PromptLookupDrafter()
        self.session = PersistentSession(
            self.engine, drafter, config, [ids.tolist()], 0, (), None, None, None
        )
        self._native = next(iter(self.session.launch._launches.values()))
        self._device = device

    def call(self, which: str, tokens: int) -> Call:
        """A launch of `which` of PASSES over a chain of `tokens`."""
        width = torch.arange(tokens, dtype=torch.int32, device=self._device)
        inputs = {
            "counts": torch.full((1,), tokens, dtype=torch.int32, device=self._device),
            "contexts": torch.full((1,), CONTEXT, dtype=torch.int32, device=self._device),
            "parents": width[None] - 1,
            "depths": width[None].clone(),
        }
        if which != "tail":
            inputs["token_ids"] = width[None].long()
        if which == "slim":
            inputs["hidden_index"] = width[None].long()
        native = self._native
        return lambda: native.forward(which, inputs, tokens)

    def read_stamps(self) -> list[tuple[int, int, str, int, int, int]]:
        """Lines of a stamps file, empty for a build without them."""
        words = self.engine.stamps.view(torch.int64).view(-1, 1 + STAMP_WORDS * MAX_STAMPS).cpu()
        table, lines = self.engine._table, []
        for block, own in enumerate(words.tolist()):
            for i in range(own[0]):
                phase, begin, end = own[1 + STAMP_WORDS * i : 1 + STAMP_WORDS * (i + 1)]
                kind, layer = STAGES.get(phase, ""), -1
                if phase >= 0:
                    number, layer = struct.unpack_from("<2i", table, 56 * phase)
                    kind = PHASES[number]
                lines.append((block, phase, kind, layer, begin, end))
        return lines


class GraphPasses:
    """The plain decoder of profiling/s0, whose passes the benchmark captures."""

    def __init__(self, name: str, skipped: frozenset[int], *, compiled: bool) -> None:
        """Random weights of a shape.

        Args:
            name: of `decode_shapes.SHAPES`.
            skipped: sublayers that the slim pass leaves out, 2 i attention and 2 i + 1 MLP.
            compiled: by torch.compile, one kind of sublayer and M at a time.
        """
        given = SHAPES[name]
        fields = decoder.Shape.__dataclass_fields__
        shape = decoder.Shape(**{field: getattr(given, field) for field in fields})
        model = decoder.random_decoder(shape, CONTEXT, "cuda")
        self._model = baselines.compiled(model) if compiled else model
        self._plain, self._skipped = model, {"full": frozenset[int](), "slim": skipped}

    def call(self, which: str, tokens: int) -> Call:
        """A pass of eager or compiled kernels."""
        inputs = self._plain.inputs(tokens, "cuda")
        skipped = self._skipped[which]
        return lambda: self._model(**inputs, skipped=skipped)


class TransformersPasses:
    """Full passes as `transformers` runs them, from the host."""

    def __init__(self, subject: Subject) -> None:
        """Reads `CONTEXT` tokens into a cache."""
        self._model = subject.target
        device = next(self._model.parameters()).device
        ids = torch.arange(CONTEXT, device=device)[None] % subject.target.config.vocab_size
        self._cache = self._model(ids, use_cache=True).past_key_values
        self._device = device

    def call(self, which: str, tokens: int) -> Call:
        """A forward of `tokens` more, which the cache forgets again."""
        assert which == "full"
        ids = torch.arange(tokens, device=self._device)[None]

        def run() -> None:
            self._model(ids, past_key_values=self._cache, use_cache=True)
            self._cache.crop(CONTEXT)

        return run


def skipped_sublayers(subject: Subject) -> frozenset[int]:
    """What the subject's route leaves out, as profiling/s0 numbers it."""
    route = subject.route
    pairs = zip(route.keep_attention, route.keep_mlp, strict=True)
    kept = [bit for pair in pairs for bit in pair]
    return frozenset(index for index, keep in enumerate(kept) if not keep)


def decoding(subject: Subject, new_tokens: int, nodes: int) -> Iterator[tuple[str, str, Call]]:
    """(engine, method, run) of whole decoding runs; a run returns (tokens, steps)."""
    from via_ext import Decoder, ViaConfig
    from via_ext.drafters import ModelDrafter

    settings = {"num_draft_tokens": nodes, "max_new_tokens": new_tokens, "eos_token_id": ()}
    methods = {
        "two tiers, exact": (None, ViaConfig(mode="exact", seed=0, **settings)),
        "three tiers, via": (subject.route, ViaConfig(mode="via", seed=0, **settings)),
    }
    device = next(subject.target.parameters()).device
    for engine in ("persistent", "torch"):
        for method, (route, config) in methods.items():
            made = Decoder(
                subject.target, ModelDrafter(subject.drafter), route, config, engine=engine
            )

            def run(made: Any = made) -> tuple[int, int]:
                tokens = steps = 0
                for prompt in subject.prompts:
                    result = made.generate(prompt[None].to(device))
                    tokens += int((result.lengths - len(prompt)).sum())
                    steps += result.stats.steps
                return tokens, steps

            yield engine, method, run
