# SPDX-License-Identifier: Apache-2.0
"""What drafter and slim verifier are worth on the model's own text.

The text is what the full model writes greedily after the prompts. At every position of it the
drafter proposes a chain and the slim verifier names its first choice, so that acceptance, agreement
and every draft length are known from one text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import torch

from via_ext.doctor.figures import Tokens
from via_ext.drafters import Drafter
from via_ext.engines.draft import split_drafts
from via_ext.engines.request import common_prefix
from via_ext.engines.torch import TorchEngine, feed
from via_ext.models.arena import KVArena
from via_ext.models.passes import chain_block
from via_ext.prompts import pad_prompts
from via_ext.tree import Tree

#: Tokens of a slim pass over the text: its rows have backlogs of 0 to one less.
BLOCK = 12


class Text(NamedTuple):
    """A prompt and what the full model wrote after it.

    Attributes:
        tokens: prompt and new tokens.
        prompt_length: of the prompt.
    """

    tokens: list[int]
    prompt_length: int

    @property
    def new(self) -> list[int]:
        """The new tokens."""
        return self.tokens[self.prompt_length :]


def propose_along(
    drafter: Drafter, texts: Sequence[Text], depth: int, progress: Callable[[], None] = lambda: None
) -> list[list[list[int]]]:
    """The chain drafted at every position of every text, all texts as one batch.

    Args:
        drafter: greedy.
        texts: where.
        depth: nodes to draft.
        progress: called after each position.

    Returns:
        Per text and new token, the tokens drafted for its place and those after it.

    Raises:
        ValueError: the drafter proposes a tree.
    """
    drafter.prefill(*pad_prompts([text.tokens[: text.prompt_length] for text in texts]))
    found: list[list[list[int]]] = [[] for _ in texts]
    tree, keys = Tree.chain(depth), torch.arange(len(texts))
    for step in range(max(len(text.new) for text in texts)):
        proposal = drafter.propose(tree, keys, torch.full_like(keys, step))
        drafts = split_drafts(proposal, tree, [depth] * len(texts), depth)
        live = [step < len(text.new) for text in texts]
        for row, draft in enumerate(drafts):
            if not draft.tree.is_chain:
                raise ValueError("diagnose: drafter must propose chains, got a tree")
            if live[row]:
                found[row].append(draft.tokens)
        right = [text.new[step] if on else -1 for text, on in zip(texts, live, strict=True)]
        drafter.commit(torch.tensor(right)[:, None], torch.tensor(live).long())
        progress()
    return found


@torch.inference_mode()
def slim_choices(engine: TorchEngine, text: Text) -> list[int]:
    """The slim verifier's first choice for each new token, in the context before it.

    As it is deployed: over the full model's keys and values, but for up to BLOCK - 1 tokens just
    before, which have its own.
    """
    assert engine.slim is not None
    arena = KVArena(engine.target, 1, len(text.tokens))
    feed(engine.full, arena, [0], [text.tokens])
    first, last = text.prompt_length - 1, len(text.tokens) - 1
    chosen: list[int] = []
    # Last block first: a pass overwrites its block with slim keys, which earlier rows never see.
    for begin in reversed(range(first, last, BLOCK)):
        width = min(BLOCK, last - begin)
        ids = torch.tensor([text.tokens[begin : begin + width]])
        block = chain_block([0], [begin], width)
        logits = engine.slim(arena, block, token_ids=ids, num_logits=width)
        assert logits is not None
        chosen = logits[0].argmax(-1).tolist() + chosen
    return chosen


@dataclass(frozen=True)
class Tally:
    """Counts over the positions of one text; sums of them are those of several.

    Attributes:
        places: per depth j, positions with at least j tokens to come.
        accepted: of these, where the first j drafted tokens are the text's.
        slim_accepted: where the slim verifier would take the first j; a token that it takes against
            the text ends the count, since what it would say after it is not known.
        positions: where the slim verifier was asked.
        agreed: where it chose the text's token.
        pairs: positions after one where it did.
        pairs_agreed: of these, where it did again.
    """

    places: tuple[int, ...]
    accepted: tuple[int, ...]
    slim_accepted: tuple[int, ...]
    positions: int = 0
    agreed: int = 0
    pairs: int = 0
    pairs_agreed: int = 0

    def plus(self, other: Tally) -> Tally:
        """Field by field."""
        values: dict[str, Any] = {}
        for name in self.__dataclass_fields__:
            a, b = getattr(self, name), getattr(other, name)
            several = isinstance(a, tuple)
            values[name] = tuple(map(sum, zip(a, b, strict=True))) if several else a + b
        return Tally(**values)

    @property
    def tokens(self) -> Tokens:
        """As rates; 0 at a depth without a position.

        Agreement and persistence with half a count on either side (Jeffreys): a short text without
        a disagreement does not show that there are none.
        """

        def rates(counts: tuple[int, ...]) -> tuple[float, ...]:
            pairs = zip(counts, self.places, strict=True)
            return tuple(count / places if places else 0.0 for count, places in pairs)

        agreement = (self.agreed + 0.5) / (self.positions + 1.0)
        persistence = (self.pairs_agreed + 0.5) / (self.pairs + 1.0)
        return Tokens(rates(self.accepted), rates(self.slim_accepted), agreement, persistence)


def tally(new: list[int], proposals: list[list[int]], depth: int, slim: list[int]) -> Tally:
    """Counts of one text.

    Args:
        new: the text's new tokens.
        proposals: per position, from `propose_along`.
        depth: of the drafts.
        slim: from `slim_choices`, or empty.
    """
    places, accepted, taken = [0] * depth, [0] * depth, [0] * depth
    for place, draft in enumerate(proposals):
        right, room = common_prefix(draft, new[place:]), min(depth, len(new) - place)
        liked = 0
        if slim:
            liked = min(common_prefix(draft, slim[place:]), right + 1)
        for index in range(room):
            places[index] += 1
            accepted[index] += right > index
            taken[index] += liked > index
    same = [a == b for a, b in zip(slim, new, strict=False)]
    after = [later for before, later in pairwise(same) if before]
    counts = (tuple(places), tuple(accepted), tuple(taken))
    return Tally(*counts, len(same), sum(same), len(after), sum(after))
