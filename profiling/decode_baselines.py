# SPDX-License-Identifier: Apache-2.0
"""transformers' own ways to decode, as methods of bench_decode.py; public arguments only.

All are greedy, of a fixed number of new tokens, and get the models that ours get. Assisted
generation drafts with the subject's drafter, as many tokens a round as ours (schedule constant, no
confidence threshold, so that a draft is never cut short).
"""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import torch
from decode_models import Subject

EAGER, COMPILED, ASSISTED = (
    "transformers eager",
    "transformers static cache, compiled",
    "transformers assisted",
)
# Seconds that torch.compile takes at least, for a decoder of some layers.
COMPILE_S = 60.0


class Done(NamedTuple):
    """One method on one prompt.

    Attributes:
        sequence: [T + new] int64 on the CPU, prompt and new tokens.
        counts: totals by column, such as steps and full_passes; kept from the first run.
    """

    sequence: torch.Tensor
    counts: dict[str, float]


class Peer:
    """One way of `target.generate`.

    Attributes:
        name: of the row.
        ours: False.
        setup_s: seconds that its first run takes at least.
    """

    ours = False

    def __init__(
        self, name: str, subject: Subject, options: dict[str, Any], setup_s: float = 0.0
    ) -> None:
        """`options`: what `generate` gets beside lengths."""
        self.name, self.setup_s = name, setup_s
        self._target, self._options = subject.target, options
        self._passes = 0

    def first(self, prompt: torch.Tensor) -> Done:
        """A run that counts the target's forward passes; the first of them reads the prompt."""
        if self.name != ASSISTED:
            # A pass per token; a hook would become a part of what is compiled.
            sequence = self.run(prompt)
            passes = len(sequence) - len(prompt)
        else:
            self._passes = 0
            handle = self._target.register_forward_hook(self._count)
            try:
                sequence = self.run(prompt)
            finally:
                handle.remove()
            passes = self._passes
        return Done(sequence, {"steps": passes, "full_passes": passes})

    def _count(self, *_: Any) -> None:
        self._passes += 1

    def run(self, prompt: torch.Tensor) -> torch.Tensor:
        """Generates; waits for the device, because the tokens come to the CPU."""
        ids = prompt[None].to(self._target.device)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = self._target.generate(
                ids, attention_mask=torch.ones_like(ids), do_sample=False, pad_token_id=0,
                **self._options,
            )  # fmt: skip
        return found[0].cpu()


def make_peers(
    subject: Subject, new_tokens: int, draft_tokens: int
) -> list[Peer | tuple[str, str]]:
    """The methods of transformers, or (name, reason) for those that cannot run.

    Args:
        subject: models and prompts.
        new_tokens: per prompt.
        draft_tokens: per round.
    """
    drafting = subject.drafter.generation_config
    drafting.num_assistant_tokens = draft_tokens
    drafting.num_assistant_tokens_schedule = "constant"
    drafting.assistant_confidence_threshold = 0.0
    fixed: dict[str, Any] = {"max_new_tokens": new_tokens}
    peers: list[Peer | tuple[str, str]] = [
        Peer(EAGER, subject, fixed),
        Peer(ASSISTED, subject, fixed | {"assistant_model": subject.drafter}),
    ]
    if not next(subject.target.parameters()).is_cuda:
        peers.append((COMPILED, "transformers compiles generate on an accelerator only"))
        return peers
    from transformers import CompileConfig

    compiling = {"cache_implementation": "static", "compile_config": CompileConfig()}
    assert compiling["compile_config"].mode == "reduce-overhead"
    peers.append(Peer(COMPILED, subject, fixed | compiling, COMPILE_S))
    return peers
