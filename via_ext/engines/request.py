# SPDX-License-Identifier: Apache-2.0
"""One request: its tokens, its frontier, and the rules that end it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from via_ext.config import ViaConfig
from via_ext.engines.hooks import RowHooks

_MASK_64 = (1 << 64) - 1


def row_key(seed: int, row: int) -> int:
    """Philox key of batch row `row`: a splitmix64 hash of (seed, row), as a signed 64-bit int."""
    mixed = (seed + (row + 1) * 0x9E3779B97F4A7C15) & _MASK_64
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & _MASK_64
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _MASK_64
    mixed ^= mixed >> 31
    return mixed - (1 << 64) if mixed >> 63 else mixed


@dataclass
class Request:
    """State of one batch row.

    Positions below `frontier` hold full-model KV. The root is the last token; the tokens between
    the frontier and the root are the backlog. Only the first `confirmed` tokens are safe from a
    rollback.

    Attributes:
        row: batch row, also the arena row.
        key: Philox key of this request.
        prompt_length: tokens of the prompt.
        tokens: prompt and committed tokens.
        frontier: number of leading positions with full-model KV.
        confirmed: number of leading tokens that cannot be rolled back.
        logprobs: of each generated token, from the verifier that last judged it.
        tiers: of each generated token: 0 draft token accepted by the slim verifier, 1 the slim
            verifier's own, 2 decided by the full model.
        emitted: number of tokens already handed to the caller.
        finished: no further steps.
        verify_calls: verify calls made, the Philox position of the next one.
        steps: steps made, the Philox position of the drafter.
    """

    row: int
    key: int
    prompt_length: int
    tokens: list[int]
    frontier: int
    confirmed: int
    logprobs: list[float] = field(default_factory=list)
    tiers: list[int] = field(default_factory=list)
    emitted: int = 0
    finished: bool = False
    verify_calls: int = 0
    steps: int = 0

    @property
    def root(self) -> int:
        """Position of the root, the last committed token."""
        return len(self.tokens) - 1

    @property
    def backlog(self) -> int:
        """Number of tokens before the root whose full-model KV is missing."""
        return self.root - self.frontier

    @property
    def generated(self) -> int:
        """Number of committed new tokens, provisional ones included."""
        return len(self.tokens) - self.prompt_length

    def append(self, tokens: list[int], tiers: list[int], logprobs: list[float]) -> None:
        """Commits tokens."""
        self.tokens += tokens
        self.tiers += tiers
        self.logprobs += logprobs

    def truncate(self, length: int) -> None:
        """Rolls back to the first `length` tokens."""
        del self.tokens[length:]
        del self.tiers[length - self.prompt_length :]
        del self.logprobs[length - self.prompt_length :]


def words_without(token_ids: Iterable[int], vocab_size: int) -> torch.Tensor:
    """Grammar bit words [ceil(V/32)] int32 that allow every id but these."""
    words = torch.full(((vocab_size + 31) // 32,), -1, dtype=torch.int32)
    for token in token_ids:
        bit = 1 << (token % 32)
        words[token // 32] &= ~(bit - (1 << 32) if bit >> 31 else bit)
    return words


class StopRules:
    """End of sequence, length limits and stop strings.

    Args:
        config: gives max_new_tokens, min_new_tokens and stop_strings.
        eos_token_ids: resolved end-of-sequence ids, may be empty.
        vocab_size: V, for the mask that holds end of sequence back.
        decode: turns token ids into text; needed for stop strings.
        hooks: per batch row, with a caller's stopping criteria; None = there are none.
    """

    def __init__(
        self,
        config: ViaConfig,
        eos_token_ids: tuple[int, ...],
        vocab_size: int,
        decode: Callable[[list[int]], str] | None,
        hooks: list[RowHooks] | None = None,
    ) -> None:
        """Keeps the rules."""
        self._hooks = hooks
        self._max_new = config.max_new_tokens
        self._min_new = config.min_new_tokens
        self._eos = frozenset(eos_token_ids)
        self._stops = config.stop_strings
        self._longest = max(map(len, self._stops), default=0)
        self._decode = decode
        self._held_back = words_without(self._eos, vocab_size)

    def remaining(self, request: Request) -> int:
        """New tokens that still fit."""
        return self._max_new - request.generated

    def cut(self, request: Request, new_tokens: list[int], final: bool) -> int | None:
        """Returns how many of `new_tokens` end the request, or None if it goes on.

        Args:
            request: the tokens before.
            new_tokens: what follows them.
            final: as in `ends`.
        """
        sequence = list(request.tokens)
        for count, token in enumerate(new_tokens, start=1):
            sequence.append(token)
            if self.ends(request, sequence, final):
                return count
        return None

    def ends(self, request: Request, tokens: list[int], final: bool) -> bool:
        """True if the request ends with the last of `tokens`.

        Args:
            request: gives prompt length and row.
            tokens: prompt and new tokens.
            final: they cannot be rolled back: the caller's stopping criteria see them too.
        """
        ended = final and self._hooks is not None and self._hooks[request.row].ended(tokens)
        full = len(tokens) - request.prompt_length >= self._max_new
        return (
            ended
            or full
            or tokens[-1] in self._eos
            or (bool(self._stops) and self._stopped(tokens))
        )

    def ended_before(self, request: Request, length: int) -> int | None:
        """Length at which the criteria end the request while its backlog is confirmed, or None.

        Args:
            request: its first `length` tokens are final from now on.
            length: tokens to judge; those before were.
        """
        if self._hooks is None:
            return None
        hooks = self._hooks[request.row]
        lengths = range(request.confirmed + 1, length + 1)
        return next((n for n in lengths if hooks.ended(request.tokens[:n])), None)

    def _stopped(self, tokens: list[int]) -> bool:
        """True if a stop string ends within the text of the last token (it may begin earlier)."""
        assert self._decode is not None
        # A token is at least one byte, so this many tokens hold any stop string that ends here;
        # four more bytes complete a UTF-8 character cut at the window's edge.
        window = tokens[-(4 * self._longest + 8) :]
        text = self._decode(window)
        # With byte fallback a character cut at the edge spoils the whole run of byte tokens.
        for _ in range(3):
            if text.startswith("\ufffd"):
                window = window[1:]
                text = self._decode(window)
        before = self._decode(window[:-1])
        settled = common_prefix(before, text)
        if before.endswith("\ufffd"):
            # So does one that is not complete yet: the text before it shows without its tokens.
            parts = (self._decode(window[:-cut]) for cut in (2, 3, 4))
            settled = max(settled, *(common_prefix(part, text) for part in parts))
        return any(stop in text[max(0, settled - len(stop) + 1) :] for stop in self._stops)

    def allowed(self, request: Request, depths: list[int]) -> torch.Tensor | None:
        """Grammar mask [1, rows, ceil(V/32)] that holds end of sequence back, or None.

        Args:
            request: the request.
            depths: per logits row, its depth below the root (negative in the backlog).
        """
        if not self._eos or request.generated + min(depths) >= self._min_new:
            return None
        mask = torch.full((1, len(depths), self._held_back.numel()), -1, dtype=torch.int32)
        for index, depth in enumerate(depths):
            if request.generated + depth < self._min_new:
                mask[0, index] = self._held_back
        return mask


def common_prefix(left: Sequence[object], right: Sequence[object]) -> int:
    """Number of leading elements, or characters, that two sequences share."""
    count = 0
    for a, b in zip(left, right, strict=False):
        if a != b:
            break
        count += 1
    return count


def resolve_eos(config: ViaConfig, model: Any) -> tuple[int, ...]:
    """End-of-sequence ids of a run: the config's, else the model's generation_config's."""
    eos = config.eos_token_id
    if eos is None:
        eos = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    if eos is None:
        return ()
    return (eos,) if isinstance(eos, int) else tuple(eos)
