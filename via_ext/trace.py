# SPDX-License-Identifier: Apache-2.0
"""Teacher-forced scores of text: what the models would have said at every token of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

#: Logits held at once, float32 elements: 256 MiB.
_LOGITS_AT_ONCE = 1 << 26


class TextScore(NamedTuple):
    """The full model's view of one generated text, per token after its prompt.

    Attributes:
        agrees: [n] bool, the token is the full model's first choice in its own context (ties to
            the lowest id).
        logprobs: [n] float32, its log-probability there at temperature 1, in nats.
    """

    agrees: torch.Tensor
    logprobs: torch.Tensor


@torch.inference_mode()
def score_text(
    target: Any, sequences: Sequence[torch.Tensor], prompt_lengths: Sequence[int]
) -> list[TextScore]:
    """Scores generated text with one teacher-forced pass of the full model per sequence.

    Args:
        target: a `transformers` causal language model.
        sequences: prompt and generated tokens of each text, [T_i] int32 or int64.
        prompt_lengths: tokens of each prompt, in [1, T_i].

    Returns:
        Per text, the scores of its T_i - prompt_length generated tokens, on the CPU.

    Raises:
        ValueError: lengths do not fit the sequences.
    """
    if len(prompt_lengths) != len(sequences):
        rule = f"hold one length per sequence ({len(sequences)})"
        raise ValueError(f"score_text: prompt_lengths must {rule}, got {len(prompt_lengths)}")
    result = []
    for index, (tokens, prompt) in enumerate(zip(sequences, prompt_lengths, strict=True)):
        if not 1 <= prompt <= len(tokens):
            rule = f"be in [1, {len(tokens)}]"
            raise ValueError(f"score_text: prompt_lengths[{index}] must {rule}, got {prompt}")
        result.append(_score(target, tokens, prompt))
    return result


def _score(target: Any, tokens: torch.Tensor, prompt: int) -> TextScore:
    count = len(tokens) - prompt
    if count == 0:
        return TextScore(torch.zeros(0, dtype=torch.bool), torch.zeros(0))
    device = next(target.parameters()).device
    ids = tokens.to(device=device, dtype=torch.int64)
    logits = target(ids[None, :-1], use_cache=False, logits_to_keep=count).logits[0]
    agrees, logprobs = [], []
    width = max(1, _LOGITS_AT_ONCE // logits.shape[-1])
    for first in range(0, count, width):
        rows, new = logits[first : first + width], ids[prompt:][first : first + width]
        scores = torch.log_softmax(rows.float(), -1)
        chosen = scores.gather(1, new[:, None])[:, 0]
        agrees.append((rows.argmax(-1) == new).cpu())
        logprobs.append(chosen.cpu())
    return TextScore(torch.cat(agrees), torch.cat(logprobs))
