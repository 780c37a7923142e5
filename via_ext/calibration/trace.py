# SPDX-License-Identifier: Apache-2.0
"""Traces: per token of a text what the drafter, the slim and the full verifier say there.

As long as the drafted ancestors of a node are the text's own tokens, a node's features while
decoding equal the teacher-forced ones: one pass of each model over the text gives them all.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch

from via_ext.route import SlimRoute
from via_ext.router import FEATURES, LIMIT
from via_ext.scoring import DeployedScorer

#: Logits held at once, elements: the full model's and the slim verifier's of some sequences.
_LOGITS_AT_ONCE = 1 << 25
SAME, DEPTH = FEATURES.index("same"), FEATURES.index("depth")


@dataclass(frozen=True)
class Trace:
    """Scores of the generated tokens of some texts, one text after the other.

    Attributes:
        lengths: [texts] int64, generated tokens of each text; n is their sum.
        features: [n, 7] float32, `router.FEATURES` of the drafter's first choice, depth 0; what
            the slim verifier gives is 0 without one.
        draft_right: [n] bool, the drafter's first choice is the full model's.
        slim_right: [n] bool, the slim verifier's first choice is; all True without one.
        draft_follows: [n] bool, the drafter's first choice is the text's own token.
        full_ratio: [n] float32, q(drafter's first choice) / max q.
    """

    lengths: torch.Tensor
    features: torch.Tensor
    draft_right: torch.Tensor
    slim_right: torch.Tensor
    draft_follows: torch.Tensor
    full_ratio: torch.Tensor

    def __len__(self) -> int:
        """Number of tokens n."""
        return len(self.features)

    @property
    def texts(self) -> list[slice]:
        """Where each text lies."""
        ends = self.lengths.cumsum(0).tolist()
        return [slice(a, b) for a, b in zip([0, *ends], ends, strict=False)]

    def select(self, texts: Sequence[int]) -> Trace:
        """The trace of some of the texts, in the order given."""
        places, every = self.texts, torch.arange(len(self))
        index = torch.cat([every[places[i]] for i in texts])
        parts = {f.name: getattr(self, f.name)[index] for f in fields(self)[1:]}
        return Trace(self.lengths[list(texts)], **parts)

    def __add__(self, other: Trace) -> Trace:
        """Both, one after the other."""
        names = [f.name for f in fields(self)]
        return Trace(**{n: torch.cat([getattr(self, n), getattr(other, n)]) for n in names})

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the tensors with `torch.save`."""
        torch.save({f.name: getattr(self, f.name) for f in fields(self)}, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Trace:
        """Reads what `save` wrote; only tensors are read, no code."""
        return cls(**torch.load(path, weights_only=True))


def trace_texts(
    target: Any,
    drafter: Any,
    route: SlimRoute | None,
    sequences: Sequence[torch.Tensor],
    prompt_lengths: Sequence[int],
    max_backlog: int = 32,
) -> Trace:
    """Scores texts with all models, teacher-forced, the slim verifier as it is deployed.

    Args:
        target: the full model.
        drafter: a `ModelDrafter`.
        route: the slim verifier; None or full = none.
        sequences: prompt and generated tokens of each text, [T_i] int64.
        prompt_lengths: tokens of each prompt, at least 1; each text has generated tokens.
        max_backlog: most slim tokens in a slim verifier's context.
    """
    slim = None if route is None or route.is_full else route
    rows = max(1, _LOGITS_AT_ONCE // target.config.vocab_size)
    groups: list[list[int]] = [[]]
    for index, sequence in enumerate(sequences):
        held = sum(len(sequences[other]) for other in groups[-1])
        if groups[-1] and held + len(sequence) > rows:
            groups.append([])
        groups[-1].append(index)
    traces = []
    for group in groups:
        texts = [sequences[index] for index in group]
        prompts = [prompt_lengths[index] for index in group]
        traces.append(_trace(target, drafter, slim, texts, prompts, max_backlog))
    total = traces[0]
    for trace in traces[1:]:
        total = total + trace
    return total


@torch.inference_mode()
def _trace(
    target: Any,
    drafter: Any,
    slim: SlimRoute | None,
    sequences: list[torch.Tensor],
    prompts: list[int],
    max_backlog: int,
) -> Trace:
    scorer = DeployedScorer(target, sequences, max_backlog)
    slim_logits = None if slim is None else scorer.slim_logits(slim)
    parts = []
    for index, (tokens, prompt) in enumerate(zip(sequences, prompts, strict=True)):
        rows = slice(prompt - 1, len(tokens) - 1)
        full = scorer.full_logits[index][rows].float().cpu()
        drafted, scores = drafter.score(tokens[:-1], len(tokens) - prompt)
        features = torch.zeros(len(full), len(FEATURES))
        features[:, FEATURES.index("log_draft")] = scores[:, 0].clamp(min=-LIMIT)
        features[:, FEATURES.index("draft_margin")] = scores[:, 1].clamp(max=LIMIT)
        first = full.argmax(-1)
        slim_right = torch.ones_like(first, dtype=torch.bool)
        if slim_logits is not None:
            seen = slim_logits[index][rows].float().cpu()
            best = seen.argmax(-1)
            slim_right = best == first
            features[:, :3] = _slim_scores(seen, drafted)
            features[:, SAME] = (best == drafted).float()
        ratio = (full.gather(1, drafted[:, None])[:, 0] - full.amax(-1)).exp()
        count = torch.tensor([len(full)])
        follows = drafted == tokens[prompt:].cpu()
        parts.append(Trace(count, features, drafted == first, slim_right, follows, ratio))
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def _slim_scores(logits: torch.Tensor, drafted: torch.Tensor) -> torch.Tensor:
    """log_ratio, log_max and margin, [n, 3], of slim logits [n, V] and drafted ids [n]."""
    top = logits.topk(2, -1).values
    log_ratio = logits.gather(1, drafted[:, None])[:, 0] - top[:, 0]
    log_max = top[:, 0] - logits.logsumexp(-1)
    margin = top[:, 0] - top[:, 1]
    low = torch.stack([log_ratio, log_max], 1).clamp(min=-LIMIT)
    return torch.cat([low, margin.clamp(max=LIMIT)[:, None]], 1)
