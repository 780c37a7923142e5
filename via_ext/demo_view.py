# SPDX-License-Identifier: Apache-2.0
"""The live part of `via-ext demo`: text as it is decoded, coloured by the tier behind each token.

Needs rich, which comes with the extra `via_ext[hf]`; only the command line imports this module.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.text import Text

if TYPE_CHECKING:
    from via_ext.result import StepOutput

# Colour and attribute differ, so that the tiers can be told apart under NO_COLOR too.
TIERS = {
    0: ("accepted draft", "green"),
    1: ("slim's token", "underline yellow"),
    2: ("full model", "bold magenta"),
}
FRAMES_PER_SECOND = 15
# Lines of the screen that are not text: panel borders, legend (two where narrow), bar, one spare.
_FURNITURE = 6


class Piece(NamedTuple):
    """Characters and the tier of the token that completed them."""

    text: str
    tier: int


class Detokenizer:
    """Turns ids into text as they come, waiting where a character spans several tokens."""

    def __init__(self, tokenizer: Any) -> None:
        """Start with nothing pending."""
        self._tokenizer = tokenizer
        self._pending: list[int] = []

    def feed(self, token: int, tier: int) -> Piece | None:
        """The text that this token completes, None while a character is incomplete."""
        self._pending.append(token)
        text = self._tokenizer.decode(self._pending, skip_special_tokens=True)
        # A byte-level token may end inside a UTF-8 character; four bytes are the longest.
        if text.endswith("\ufffd") and len(self._pending) < 4:
            return None
        self._pending.clear()
        return Piece(text, tier)


def legend() -> Text:
    """One line that names the tiers in their own style."""
    text = Text()
    for name, style in TIERS.values():
        text.append(name, style=style).append("  ")
    text.rstrip()
    return text


def shares(tiers: list[int]) -> str:
    """How many of these tokens each tier produced, in words."""
    total = max(1, len(tiers))
    return ", ".join(
        f"{100 * tiers.count(tier) / total:.0f}% {name}" for tier, (name, _) in TIERS.items()
    )


class LiveText:
    """Shows one prompt after the other while its continuation is decoded.

    On a terminal the screen is redrawn; elsewhere (pipes, TERM=dumb, `--plain`) text is appended
    without any control code.
    """

    def __init__(self, console: Console, tokenizer: Any, max_new_tokens: int) -> None:
        """Remember where and how to draw.

        Args:
            console: where to write.
            tokenizer: of the pair.
            max_new_tokens: what the progress bar counts to.
        """
        self._console = console
        self._tokenizer = tokenizer
        self._total = max_new_tokens
        self._redraw = console.is_terminal and not console.is_dumb_terminal

    def show(self, title: str, prompt: str, steps: Iterable[StepOutput]) -> None:
        """Decode and show one prompt.

        Args:
            title: one line above the text.
            prompt: shown dim before the continuation.
            steps: output of `Decoder.stream` for a batch of one.
        """
        if self._redraw:
            self._show_live(title, prompt, steps)
        else:
            self._show_plain(title, prompt, steps)

    def _pieces(self, steps: Iterable[StepOutput], tiers: list[int]) -> Iterable[list[Piece]]:
        detokenizer = Detokenizer(self._tokenizer)
        for step in steps:
            new = zip(step.tokens[0], step.tiers[0], strict=True)
            tiers += step.tiers[0]
            yield [piece for pair in new if (piece := detokenizer.feed(*pair)) is not None]

    def _show_plain(self, title: str, prompt: str, steps: Iterable[StepOutput]) -> None:
        out, tiers = self._console.file, list[int]()
        out.write(f"--- {title}\n{prompt}")
        for pieces in self._pieces(steps, tiers):
            out.write("".join(piece.text for piece in pieces))
            out.flush()
        out.write(f"\n--- {len(tiers)} tokens: {shares(tiers)}\n\n")
        out.flush()

    def _show_live(self, title: str, prompt: str, steps: Iterable[StepOutput]) -> None:
        text, tiers = Text(prompt, style="default"), list[int]()
        text.stylize("dim")
        began = time.perf_counter()
        with Live(console=self._console, auto_refresh=False, vertical_overflow="crop") as live:
            drawn = 0.0
            for pieces in self._pieces(steps, tiers):
                for piece in pieces:
                    text.append(piece.text, style=TIERS[piece.tier][1])
                now = time.perf_counter()
                # Drawing takes longer than decoding a token: skip frames, not tokens.
                if now - drawn > 1 / FRAMES_PER_SECOND:
                    live.update(self._frame(title, text, tiers, now - began), refresh=True)
                    drawn = now
            seconds = time.perf_counter() - began
            live.update(self._frame(title, text, tiers, seconds), refresh=True)

    def _frame(self, title: str, text: Text, tiers: list[int], seconds: float) -> Group:
        width = max(8, self._console.width - 4)
        room = max(3, self._console.height - _FURNITURE)
        lines = text.wrap(self._console, width)[-room:]
        rate = f"{len(tiers)}/{self._total} tokens, {len(tiers) / max(seconds, 1e-9):.0f}/s"
        bar = ProgressBar(self._total, len(tiers), width=min(40, self._console.width - 2))
        shown = Panel(
            Text("\n").join(lines),
            title=Text(title),
            title_align="left",
            subtitle=Text(rate),
            subtitle_align="right",
        )
        return Group(shown, legend(), bar)
