# SPDX-License-Identifier: Apache-2.0
"""What a drafter proposed, per request, and the token blocks that passes run over."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch

from via_ext.drafters.protocol import Drafter, DraftTokens
from via_ext.models.passes import TokenBlock, chain_block
from via_ext.tree import Tree


class Draft(NamedTuple):
    """The draft of one request.

    Attributes:
        tokens: node tokens, -1 = no node.
        tree: shape; a chain or a tree in which parents come first.
        probs: [1, N, V] the distribution each node was drawn from, None = one-hot.
        draft_to_target: [V_draft] ids of the columns of `probs`, None = all V.
        scores: [1, N, 2] as in `DraftTokens`, None = not given.
    """

    tokens: list[int]
    tree: Tree
    probs: torch.Tensor | None
    draft_to_target: torch.Tensor | None = None
    scores: torch.Tensor | None = None

    @property
    def parents(self) -> torch.Tensor | None:
        """Parents [N] int32 for `ops.verify`, None for a chain."""
        return None if self.tree.is_chain else _parents_tensor(self.tree)


EMPTY = Draft([], Tree.chain(0), None)


@lru_cache(maxsize=256)
def _parents_tensor(tree: Tree) -> torch.Tensor:
    return torch.tensor(tree.parents, dtype=torch.int32)


@lru_cache(maxsize=256)
def _ancestor_matrix(tree: Tree) -> torch.Tensor:
    """[N, N] bool: column j is set in row i if node j lies on the path of node i."""
    words = tree.ancestors
    return torch.tensor([[bool(word >> j & 1) for j in range(len(words))] for word in words])


@lru_cache(maxsize=256)
def _subtree(tree: Tree, count: int) -> Tree:
    return Tree(tree.parents[:count])


def split_drafts(
    proposal: DraftTokens, tree: Tree, depth_limits: list[int], max_nodes: int
) -> list[Draft]:
    """Splits a batch proposal into drafts per row, without nodes that cannot be used.

    Args:
        proposal: what the drafter returned.
        tree: the shape that was asked for, used where the proposal has no parents of its own.
        depth_limits: per row, the greatest depth whose token could still be kept.
        max_nodes: the most nodes a step may have.

    Raises:
        TypeError: the proposal is not a `DraftTokens`.
        ValueError: its shapes do not fit the batch, the tree or `max_nodes`.
    """
    if not isinstance(proposal, DraftTokens):
        raise TypeError(f"drafter: proposal must be DraftTokens, got {type(proposal).__name__}")
    batch = len(depth_limits)
    ids = proposal.token_ids
    if ids.dim() != 2 or ids.shape[0] != batch or ids.shape[1] > max_nodes:
        raise ValueError(
            f"drafter: token_ids must have shape [{batch}, N <= {max_nodes}], got {list(ids.shape)}"
        )
    width = ids.shape[1]
    if proposal.probs is not None and proposal.probs.shape[:2] != ids.shape:
        raise ValueError(
            f"drafter: probs must have shape [{batch}, {width}, V], "
            f"got {list(proposal.probs.shape)}"
        )
    if proposal.scores is not None and proposal.scores.shape != (batch, width, 2):
        raise ValueError(
            f"drafter: scores must have shape [{batch}, {width}, 2], "
            f"got {list(proposal.scores.shape)}"
        )
    id_map = None if proposal.probs is None else proposal.draft_to_target
    if id_map is not None and proposal.probs is not None:
        columns = proposal.probs.shape[2:]
        if id_map.shape != columns:
            raise ValueError(
                f"drafter: draft_to_target must have shape {list(columns)}, one id per column of "
                f"probs, got {list(id_map.shape)}"
            )
    counts = [width] * batch if proposal.num_nodes is None else proposal.num_nodes.tolist()
    shapes = _shapes(proposal, tree, batch, width)
    drafts = []
    for row, tokens in enumerate(ids.tolist()):
        shape, count = shapes[row], min(width, counts[row])
        # Nodes too deep to be kept are dropped from the end; earlier ones stay as ancestors.
        while count > 0 and shape.depths[count - 1] > depth_limits[row]:
            count -= 1
        probs = None if proposal.probs is None else proposal.probs[row : row + 1, :count]
        scores = None if proposal.scores is None else proposal.scores[row : row + 1, :count]
        drafts.append(Draft(tokens[:count], _subtree(shape, count), probs, id_map, scores))
    return drafts


def _shapes(proposal: DraftTokens, tree: Tree, batch: int, width: int) -> list[Tree]:
    if proposal.parents is None:
        return [Tree.chain(width)] * batch
    rows = proposal.parents.tolist()
    if proposal.parents.dim() == 1:
        # The usual case is the tree that was asked for: its cached masks are used again.
        shape = tree if tuple(rows) == tree.parents else Tree.from_parents(rows)
        return [shape] * batch
    return [Tree.from_parents(parents) for parents in rows]


def make_block(
    rows: list[int],
    starts: list[int],
    leads: list[list[int]],
    drafts: list[Draft],
    vocab_size: int,
) -> tuple[TokenBlock, torch.Tensor]:
    """Lays out leading chain tokens and draft nodes of some rows as one padded block.

    Args:
        rows: arena rows of the pass, ascending.
        starts: position of the first token, per row.
        leads: leading tokens in chain order, the root last; may be empty.
        drafts: nodes below the root.
        vocab_size: V of the model that runs the block.

    Returns:
        The block, and its token ids [B, M] int64; what is no token (a node that is missing or
        outside the vocabulary, padding) is 0, so that it can be embedded.
    """
    width = max(len(lead) + len(draft.tokens) for lead, draft in zip(leads, drafts, strict=True))
    ids = []
    for lead, draft in zip(leads, drafts, strict=True):
        row = lead + [token if 0 <= token < vocab_size else 0 for token in draft.tokens]
        ids.append(row + [0] * (width - len(row)))
    if all(draft.tree.is_chain for draft in drafts):
        return chain_block(rows, starts, width), torch.tensor(ids)
    layout = _tree_layout(tuple(map(len, leads)), tuple(draft.tree for draft in drafts), width)
    return TokenBlock(rows, starts, *layout), torch.tensor(ids)


@lru_cache(maxsize=64)
def _tree_layout(
    lead_lengths: tuple[int, ...], trees: tuple[Tree, ...], width: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Depths [B, M] and ancestors [B, M, M] of leading chains with a tree at their ends."""
    depths = torch.arange(width).repeat(len(trees), 1)
    # Padding is a chain that sees everything before it: never seen, always finite.
    ancestors = torch.ones(width, width, dtype=torch.bool).tril().repeat(len(trees), 1, 1)
    for index, (first, tree) in enumerate(zip(lead_lengths, trees, strict=True)):
        last = first + tree.num_nodes
        if last > first:
            depths[index, first:last] = torch.tensor(tree.depths) + (first - 1)
            ancestors[index, first:last, first:last] = _ancestor_matrix(tree)
    return depths, ancestors


def count_passes(drafter: Drafter, tree: Tree, depth_limits: list[int]) -> int:
    """Forward passes of a drafter's last proposal that its rows needed, 0 if it does not say.

    Args:
        drafter: may have `passes`, per row.
        tree: the shape that was asked for.
        depth_limits: as of `split_drafts`; a row of limit 0 needed nothing, a chain no more passes
            than its limit: what the batch ran them for is other rows' longer drafts.
    """
    passes: list[int] = getattr(drafter, "passes", [])
    if tree.is_chain:
        return sum(min(count, max(0, n)) for count, n in zip(passes, depth_limits, strict=False))
    return sum(count for count, limit in zip(passes, depth_limits, strict=False) if limit > 0)


def tell_drafter(
    drafter: Drafter,
    before: list[int],
    kept: list[int],
    sequences: list[list[int]],
    device: torch.device | None = None,
) -> None:
    """Rolls a drafter back to what a step kept, and commits what it emitted.

    Args:
        drafter: knows `before` tokens per row.
        before: lengths before the step.
        kept: how many of these stayed.
        sequences: prompt and tokens per row now.
        device: of the target, None = the CPU.
    """
    if kept != before:
        drafter.rollback(torch.tensor(kept, device=device))
    new = [tokens[length:] for tokens, length in zip(sequences, kept, strict=True)]
    width = max(map(len, new))
    ids = [tokens + [-1] * (width - len(tokens)) for tokens in new]
    counts = torch.tensor([len(tokens) for tokens in new], device=device)
    drafter.commit(torch.tensor(ids, device=device), counts, None)
