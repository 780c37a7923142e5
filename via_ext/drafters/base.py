# SPDX-License-Identifier: Apache-2.0
"""What `ModelDrafter` and `SlimDrafter` share: drafting with a model's pass over a KV arena."""

from __future__ import annotations

from typing import Any

import torch

from via_ext import ops
from via_ext.config import ViaConfig
from via_ext.drafters.levels import tree_levels, tree_parents
from via_ext.drafters.protocol import DraftTokens
from via_ext.drafters.scores import ChainStop, Scoring, draft_scores
from via_ext.drafters.vocabulary import DraftVocabulary
from via_ext.engines.draft import Draft, make_block
from via_ext.engines.torch import feed
from via_ext.models.arena import KVArena
from via_ext.models.passes import LayerPass, chain_block
from via_ext.tree import Tree


class PassDrafter:
    """Drafts with a `LayerPass`: a sampled chain, or a tree of the most likely tokens.

    A chain is drawn token by token from the model's own filtered distribution, which is returned
    with it (`probs`); greedy chains are one-hot. A tree takes the most likely children of every
    node and is one-hot: exact for any tree. Draws come from the drafter's own random stream.

    With a rule of `set_scoring` a chain stops early; a row that has stopped runs no further pass.
    Its distributions are returned as before: see `ChainStop` for why that stays lossless.

    Subclasses set `_pass` and `_vocabulary` before the first `propose`, and have an arena.

    Attributes:
        passes: forward passes of the last proposal, per row.
    """

    _pass: LayerPass
    _vocabulary: DraftVocabulary

    def __init__(self, temperature: float | None) -> None:
        """Starts without rows.

        Args:
            temperature: of the draft distribution, None = the decoder's.
        """
        self._own_temperature = temperature
        self._filters: dict[str, Any] = {"temperature": temperature or 0.0}
        self._tokens: list[list[int]] = []
        self._cached: list[int] = []
        self._drafted: list[list[int]] = []
        self._scoring = Scoring()
        self.passes: list[int] = []

    def set_scoring(self, scoring: Scoring) -> None:
        """Takes what the next runs want besides tokens."""
        self._scoring = scoring

    @property
    def _arena(self) -> KVArena:
        raise NotImplementedError

    def configure(self, config: ViaConfig, vocab_size: int) -> None:
        """Takes over a decoder's sampling settings.

        Args:
            config: gives temperature and filters.
            vocab_size: of the target.

        Raises:
            ValueError: the drafter's vocabulary does not fit.
        """
        self._vocabulary.fit(vocab_size)
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

    def propose(self, tree: Tree, seed: torch.Tensor, position: torch.Tensor) -> DraftTokens:
        """Drafts below each row's last token; see `Drafter.propose`."""
        needed = max(map(len, self._tokens)) + tree.num_nodes + 1
        if needed > self._arena.capacity:
            self._arena.grow(max(needed, 2 * self._arena.capacity))
        logits = self._catch_up()
        if tree.is_chain:
            return self._chain(tree, logits, seed, position)
        return self._tree(tree, logits)

    def _catch_up(self) -> torch.Tensor:
        """Runs the tokens without KV; returns logits after each row's last token, [B, V]."""
        rows = list(range(len(self._tokens)))
        inputs = self._vocabulary.inputs
        if all(cached == 0 for cached in self._cached):
            feed(self._pass, self._arena, rows, [inputs(tokens[:-1]) for tokens in self._tokens])
            self._cached = [len(tokens) - 1 for tokens in self._tokens]
        pending = [inputs(t[cached:]) for t, cached in zip(self._tokens, self._cached, strict=True)]
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
        batch = len(self._tokens)
        starts = [len(tokens) for tokens in self._tokens]
        sampling = self._filters["temperature"] > 0.0
        stop = ChainStop(self._scoring, batch)
        wants_scores = self._scoring.scores or stop.needs_scores
        columns: list[torch.Tensor] = []
        probs: list[torch.Tensor] = []
        scores: list[torch.Tensor] = []
        for column in range(tree.num_nodes):
            rows = stop.live
            if column > 0:
                block = chain_block(rows, [starts[row] + column - 1 for row in rows], 1)
                ids = self._vocabulary.input_ids(columns[-1][rows])[:, None]
                step_logits = self._pass(self._arena, block, token_ids=ids, num_logits=1)
                assert step_logits is not None
                logits = step_logits[:, 0]
            if sampling:
                keys = (seed, position) if len(rows) == batch else (seed[rows], position[rows])
                token_ids, row_probs = ops.draft_sample(
                    logits, seed=keys[0], position=keys[1], column=column, **self._filters
                )
                probs.append(_spread(row_probs, rows, batch, 0.0))
            else:
                token_ids = logits.argmax(-1)
            columns.append(_spread(self._vocabulary.target_ids(token_ids), rows, batch, -1))
            found = draft_scores(logits, token_ids[:, None])[:, 0] if wants_scores else None
            if found is not None:
                scores.append(_spread(found, rows, batch, 0.0))
            stop.add(found)
            if not stop.live:
                break
        token_ids = torch.stack(columns, 1)
        self.passes = stop.counts
        drafted = zip(token_ids.tolist(), stop.counts, strict=True)
        self._drafted = [ids[: count - 1] for ids, count in drafted]
        cut = min(stop.counts) < len(columns)
        return DraftTokens(
            token_ids,
            num_nodes=torch.tensor(stop.counts, device=token_ids.device) if cut else None,
            probs=torch.stack(probs, 1) if sampling else None,
            draft_to_target=self._vocabulary.draft_to_target if sampling else None,
            scores=torch.stack(scores, 1) if self._scoring.scores else None,
        )

    def _tree(self, tree: Tree, logits: torch.Tensor) -> DraftTokens:
        """Level by level; every level runs the tree so far again, in one pass.

        Args:
            tree: the shape.
            logits: [B, V] after the roots.
        """
        batch = len(self._tokens)
        token_ids = torch.full((batch, tree.num_nodes), -1, device=logits.device)
        starts = [len(tokens) for tokens in self._tokens]
        rows = list(range(batch))
        level_logits = logits[:, None]
        levels = tree_levels(tree)
        self.passes = [len(levels)] * batch
        scores = torch.zeros(batch, tree.num_nodes, 2, device=logits.device)
        for level in levels:
            if level.known:
                known = [self._vocabulary.inputs(ids) for ids in token_ids[:, level.known].tolist()]
                drafts = [Draft(tokens, level.shape, None) for tokens in known]
                size = self._vocabulary.num_inputs
                block, ids = make_block(rows, starts, [[] for _ in rows], drafts, size)
                num_logits = level.num_parents
                found = self._pass(self._arena, block, token_ids=ids, num_logits=num_logits)
                assert found is not None
                level_logits = found
            count = min(level.max_children, level_logits.shape[-1])
            top = level_logits.topk(count, -1).indices
            best = self._vocabulary.target_ids(top)
            found = draft_scores(level_logits, top) if self._scoring.scores else None
            for parent, children in level.children:
                token_ids[:, children[:count]] = best[:, parent, : len(children)]
                if found is not None:
                    scores[:, children[:count]] = found[:, parent, : len(children)]
        self._drafted = [[] for _ in rows]
        parents = tree_parents(tree)
        return DraftTokens(token_ids, parents, scores=scores if self._scoring.scores else None)

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


def _spread(values: torch.Tensor, rows: list[int], batch: int, fill: float) -> torch.Tensor:
    """Values of some rows among those of the batch; `fill` for the others."""
    if len(rows) == batch:
        return values
    result = values.new_full((batch, *values.shape[1:]), fill)
    result[rows] = values
    return result
