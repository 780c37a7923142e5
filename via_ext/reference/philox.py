# SPDX-License-Identifier: Apache-2.0
"""Uniform numbers as a pure function of (seed, position, column, purpose)."""

from __future__ import annotations

PURPOSE_COIN = 0
PURPOSE_FINAL_DRAW = 1
PURPOSE_DRAFTER = 2

_WORD = 0xFFFFFFFF


def philox_words(key: tuple[int, int], counter: tuple[int, int, int, int]) -> tuple[int, ...]:
    """Philox4x32-10 (Salmon et al., SC 2011): four output words of one counter."""
    k0, k1 = key
    c0, c1, c2, c3 = counter
    for _ in range(10):
        product0 = 0xD2511F53 * c0
        product1 = 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (
            (product1 >> 32) ^ c1 ^ k0,
            product1 & _WORD,
            (product0 >> 32) ^ c3 ^ k1,
            product0 & _WORD,
        )
        k0 = (k0 + 0x9E3779B9) & _WORD
        k1 = (k1 + 0xBB67AE85) & _WORD
    return c0, c1, c2, c3


def philox_uniform(seed: int, position: int, column: int, purpose: int) -> float:
    """One uniform in [0, 1) with 24 random bits, exactly representable in float32.

    Args:
        seed: int64; the key words are its low and high halves (two's complement).
        position: int64; counter words 0 and 1. One value per call and request, never re-used.
        column: counter word 2.
        purpose: counter word 3: 0 acceptance coin, 1 final draw, 2 a drafter's own draws. The
            three streams are disjoint: with a shared coin the output would be biased.
    """
    key = (seed & _WORD, (seed >> 32) & _WORD)
    counter = (position & _WORD, (position >> 32) & _WORD, column & _WORD, purpose & _WORD)
    return (philox_words(key, counter)[0] >> 8) * 2.0**-24
