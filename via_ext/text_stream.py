# SPDX-License-Identifier: Apache-2.0
"""Text of tokens as they come, the same as that of all tokens at once."""

from __future__ import annotations

from typing import Any

# Tokens of the prompt that stay in view: some tokenizers drop the space before a first word.
_CONTEXT = 6


class TextStream:
    """Decodes one token at a time in the light of those before.

    A token's text can depend on its neighbours (spaces, characters of several tokens), so a short
    run of tokens is decoded with and without the new one, and the difference is the new text. It
    waits while a character is incomplete.
    """

    def __init__(self, tokenizer: Any, prompt: list[int]) -> None:
        """Starts after a prompt.

        Args:
            tokenizer: a transformers tokenizer.
            prompt: its token ids.
        """
        self._tokenizer = tokenizer
        self._tokens = prompt[-_CONTEXT:]
        self._begin = 0
        self._shown = len(self._tokens)

    def _text(self, last: int) -> str:
        tokens = self._tokens[self._begin : last]
        text: str = self._tokenizer.decode(tokens, skip_special_tokens=True)
        return text

    def feed(self, token: int) -> str:
        """The text that this token completes, "" while a character is incomplete."""
        self._tokens.append(token)
        text = self._text(len(self._tokens))
        return "" if text.endswith("\ufffd") else self._take(text)

    def flush(self) -> str:
        """What is still held back at the end."""
        return self._take(self._text(len(self._tokens)))

    def _take(self, text: str) -> str:
        new = text[len(self._text(self._shown)) :]
        self._begin, self._shown = self._shown, len(self._tokens)
        return new
