# SPDX-License-Identifier: Apache-2.0
"""`ModelDrafter`: a small model proposes a sampled chain, or a tree of its most likely tokens."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import torch

from via_ext import ops
from via_ext.config import ViaConfig
from via_ext.drafters.protocol import DraftTokens
from via_ext.engines.draft import Draft, make_block
from via_ext.engines.torch import feed
from via_ext.models.arena import KVArena
from via_ext.models.families import check_supported
from via_ext.models.passes import LayerPass, chain_block
from via_ext.models.view import KeptLayer
from via_ext.tree import Tree

_FIRST_CAPACITY = 256


class ModelDrafter:
    """Drafts with a causal language model of the target's vocabulary.

    A chain is drawn token by token from the drafter's own filtered distribution, which is returned
    with it (`probs`); greedy chains are one-hot. A tree takes the most likely children of every
    node and is one-hot: exact for any tree. Draws come from the drafter's own random stream.

    Attributes:
        forward_seconds: time inside the model's forward passes so far.
    """

    def __init__(self, model: Any, temperature: float | None = None) -> None:
        """Wraps a model; no weight is copied.

        Args:
            model: a supported `transformers` causal language model on the CPU.
            temperature: of the draft distribution, 0 = greedy; None = the decoder's.

        Raises:
            TypeError: `model` is not a causal language model.
            ValueError: its family is not supported, or the temperature is negative.
        """
        check_supported(model, "drafter")
        if temperature is not None and not 0.0 <= temperature < float("inf"):
            raise ValueError(
                f"ModelDrafter: temperature must be finite and at least 0, got {temperature}"
            )
        self._model = model
        self._own_temperature = temperature
        self._filters: dict[str, Any] = {"temperature": temperature or 0.0}
        layers = [KeptLayer(index) for index in range(model.config.num_hidden_layers)]
        self._pass = LayerPass(model, layers)
        self._arena: KVArena | None = None
        self._tokens: list[list[int]] = []
        self._cached: list[int] = []
        self._drafted: list[list[int]] = []

    @property
    def forward_seconds(self) -> float:
        """Seconds inside the model's own forward passes so far."""
        return self._pass.seconds

    def configure(self, config: ViaConfig, vocab_size: int) -> None:
        """Takes over a decoder's sampling settings.

        Raises:
            ValueError: the target has another vocabulary size.
        """
        if vocab_size != self._model.config.vocab_size:
            raise ValueError(
                f"ModelDrafter: model must have the target's vocabulary of {vocab_size}, "
                f"got {self._model.config.vocab_size}"
            )
        own = self._own_temperature
        self._filters = {
            "temperature": config.temperature if own is None else own,
            "top_k": config.top_k,
            "top_p": config.top_p,
            "min_p": config.min_p,
        }

    def prefill(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None) -> None:
        """Starts a batch; see `Drafter.prefill`. The prompt is run with the first proposal."""
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        rows = zip(input_ids, mask.bool(), strict=True)
        self._tokens = [ids[keep].tolist() for ids, keep in rows]
        self._cached = [0] * len(self._tokens)
        self._drafted = [[] for _ in self._tokens]
        capacity = max(map(len, self._tokens)) + _FIRST_CAPACITY
        if self._arena is None or self._arena.keys[0].shape[0] != len(self._tokens):
            self._arena = KVArena(self._model, len(self._tokens), capacity)

    def propose(self, tree: Tree, seed: torch.Tensor, position: torch.Tensor) -> DraftTokens:
        """Drafts below each row's last token; see `Drafter.propose`."""
        needed = max(map(len, self._tokens)) + tree.num_nodes + 1
        assert self._arena is not None
        if needed > self._arena.capacity:
            self._arena.grow(max(needed, 2 * self._arena.capacity))
        logits = self._catch_up()
        if tree.is_chain:
            return self._chain(tree, logits, seed, position)
        return self._tree(tree, logits)

    def _catch_up(self) -> torch.Tensor:
        """Runs the tokens without KV; returns logits after each row's last token, [B, V]."""
        assert self._arena is not None
        rows = list(range(len(self._tokens)))
        if all(cached == 0 for cached in self._cached):
            feed(self._pass, self._arena, rows, [tokens[:-1] for tokens in self._tokens])
            self._cached = [len(tokens) - 1 for tokens in self._tokens]
        pending = [t[cached:] for t, cached in zip(self._tokens, self._cached, strict=True)]
        width = max(map(len, pending))
        ids = torch.tensor([tokens + [0] * (width - len(tokens)) for tokens in pending])
        shortest = min(map(len, pending))
        block = chain_block(rows, list(self._cached), width)
        logits = self._pass(self._arena, block, token_ids=ids, num_logits=width - shortest + 1)
        assert logits is not None
        self._cached = [len(tokens) for tokens in self._tokens]
        last = [len(tokens) - shortest for tokens in pending]
        return logits[rows, last]

    def _chain(
        self, tree: Tree, logits: torch.Tensor, seed: torch.Tensor, position: torch.Tensor
    ) -> DraftTokens:
        assert self._arena is not None
        rows = list(range(len(self._tokens)))
        starts = [len(tokens) for tokens in self._tokens]
        sampling = self._filters["temperature"] > 0.0
        columns: list[torch.Tensor] = []
        probs: list[torch.Tensor] = []
        for column in range(tree.num_nodes):
            if column > 0:
                block = chain_block(rows, [start + column - 1 for start in starts], 1)
                ids = columns[-1][:, None]
                step_logits = self._pass(self._arena, block, token_ids=ids, num_logits=1)
                assert step_logits is not None
                logits = step_logits[:, 0]
            if sampling:
                token_ids, row_probs = ops.draft_sample(
                    logits, seed=seed, position=position, column=column, **self._filters
                )
                probs.append(row_probs)
            else:
                token_ids = logits.argmax(-1)
            columns.append(token_ids)
        token_ids = torch.stack(columns, 1)
        self._drafted = token_ids[:, :-1].tolist()
        return DraftTokens(token_ids, None, None, torch.stack(probs, 1) if sampling else None)

    def _tree(self, tree: Tree, logits: torch.Tensor) -> DraftTokens:
        """Level by level; every level runs the tree so far again, in one pass.

        Args:
            tree: the shape.
            logits: [B, V] after the roots.
        """
        assert self._arena is not None
        batch, vocab_size = len(self._tokens), self._model.config.vocab_size
        token_ids = torch.full((batch, tree.num_nodes), -1, dtype=torch.int64)
        starts = [len(tokens) for tokens in self._tokens]
        rows = list(range(batch))
        level_logits = logits[:, None]
        for level in _levels(tree):
            if level.known:
                known = token_ids[:, level.known].tolist()
                drafts = [Draft(tokens, level.shape, None) for tokens in known]
                block, ids = make_block(rows, starts, [[] for _ in rows], drafts, vocab_size)
                num_logits = level.num_parents
                found = self._pass(self._arena, block, token_ids=ids, num_logits=num_logits)
                assert found is not None
                level_logits = found
            count = min(level.max_children, vocab_size)
            best = level_logits.topk(count, -1).indices
            for parent, children in level.children:
                token_ids[:, children[:count]] = best[:, parent, : len(children)]
        self._drafted = [[] for _ in rows]
        return DraftTokens(token_ids, _parents(tree), None, None)

    def commit(
        self,
        token_ids: torch.Tensor,
        counts: torch.Tensor,
        hidden_states: torch.Tensor | None = None,
    ) -> None:
        """Appends committed tokens; KV of an accepted chain is kept. See `Drafter.commit`."""
        for row, (ids, count) in enumerate(zip(token_ids.tolist(), counts.tolist(), strict=True)):
            new = ids[:count]
            if self._cached[row] == len(self._tokens[row]):
                # Drafted tokens whose KV was computed: all but the last one.
                for token, drafted in zip(new, self._drafted[row], strict=False):
                    if token != drafted:
                        break
                    self._cached[row] += 1
            self._tokens[row] += new
            self._drafted[row] = []
            # The last token is always run again: the next proposal needs its logits.
            self._cached[row] = min(self._cached[row], len(self._tokens[row]) - 1)

    def rollback(self, lengths: torch.Tensor) -> None:
        """Truncates every row; see `Drafter.rollback`."""
        for row, length in enumerate(lengths.tolist()):
            if length < len(self._tokens[row]):
                del self._tokens[row][length:]
                self._drafted[row] = []
                self._cached[row] = min(self._cached[row], length - 1)


class _Level(NamedTuple):
    """One level of a tree whose nodes may have children.

    Attributes:
        known: nodes up to this level, parents first, this level's last; empty for the root.
        shape: the tree of the known nodes, in that order.
        num_parents: nodes of this level.
        children: (index among this level's nodes, its children) for those that have some.
        max_children: the most children of one node.
    """

    known: list[int]
    shape: Tree
    num_parents: int
    children: list[tuple[int, list[int]]]
    max_children: int


@lru_cache(maxsize=64)
def _levels(tree: Tree) -> list[_Level]:
    """The levels above the leaves, the root's first."""
    order = sorted(range(tree.num_nodes), key=lambda node: (tree.depths[node], node))
    place = {-1: -1} | {node: index for index, node in enumerate(order)}
    levels = []
    for depth in range(tree.max_depth):
        known = [node for node in order if tree.depths[node] <= depth]
        parents = [node for node in known if tree.depths[node] == depth] if depth else [-1]
        children = [(i, list(tree.children[node + 1])) for i, node in enumerate(parents)]
        children = [(i, nodes) for i, nodes in children if nodes]
        shape = Tree.from_parents([place[tree.parents[node]] for node in known])
        most = max(len(nodes) for _, nodes in children)
        levels.append(_Level(known, shape, len(parents), children, most))
    return levels


@lru_cache(maxsize=64)
def _parents(tree: Tree) -> torch.Tensor:
    return torch.tensor(tree.parents)
