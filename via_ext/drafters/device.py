# SPDX-License-Identifier: Apache-2.0
"""`DeviceDrafter`: drafts of a model whose committed text, lengths and drafts stay on the device.

It proposes what `ModelDrafter` (or `SlimDrafter`) proposes for the same text, seeds and positions,
without the host reading anything back, so that one CUDA graph holds a whole proposal.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from via_ext import ops
from via_ext.drafters.device_levels import device_levels
from via_ext.drafters.device_text import DeviceText
from via_ext.drafters.vocabulary import DraftVocabulary
from via_ext.engines.graphs import GraphRunner
from via_ext.engines.torch import feed
from via_ext.models.arena import KVArena
from via_ext.models.attention import tree_arena
from via_ext.models.passes import LayerPass
from via_ext.models.tree_pass import TreePass
from via_ext.models.view import KeptLayer
from via_ext.tree import Tree


class DeviceDrafter:
    """A model drafter with static tensors, for one tree, one batch size and one device.

    A chain is drawn from the drafter's filtered distribution, or greedy; a tree takes the most
    likely children of every node: see `ModelDrafter`. Nothing but `prefill` synchronises; `draft`,
    `commit` and `rollback` may be recorded into a CUDA graph.

    Attributes:
        token_ids: [B, N] int64, target ids of the last proposal, -1 = no node.
        probs: [B, N, V_draft] float32, the distribution each token was drawn from; None if greedy
            or not a chain.
    """

    def __init__(
        self,
        model: Any,
        tree: Tree,
        rows: int,
        capacity: int,
        *,
        filters: dict[str, Any],
        vocabulary: DraftVocabulary | None = None,
        layers: Sequence[KeptLayer] | None = None,
        arena: KVArena | None = None,
        max_pending: int | None = None,
        graphs: GraphRunner | None = None,
    ) -> None:
        """Allocates all buffers on the model's device.

        Args:
            model: a supported `transformers` causal language model.
            tree: the shape of every proposal, of N >= 1 nodes.
            rows: batch rows B.
            capacity: most committed tokens per row.
            filters: temperature, top_k, top_p and min_p of `ops.draft_sample`, numbers.
            vocabulary: the drafter's, fitted to the target; None = the target's.
            layers: what drafts; None = the whole model.
            arena: an engine's arena that the drafter shares, of capacity + N positions: the engine
                writes the keys and values of every committed token but the last, before a
                proposal. None = one of its own.
            max_pending: most committed tokens that a proposal may find without keys and values. The
                default is enough for one commit since the last proposal, of a whole path and one
                more token, after a rollback. With more, the rest waits for the next proposal, and
                this one is drawn after a text with a gap: valid, but a poor draft.
            graphs: records `propose`; None = a runner of its own.

        Raises:
            ValueError: the tree is empty, or the heads are too large for `ops.tree_attention`.
        """
        if tree.num_nodes < 1:
            raise ValueError("DeviceDrafter: tree must have at least 1 node, got 0")
        if layers is None:
            layers = [KeptLayer(index) for index in range(model.config.num_hidden_layers)]
        device = next(model.parameters()).device
        chain = tree.is_chain
        self._prefill_pass = LayerPass(model, layers) if arena is None else None
        self._pass = TreePass(model, layers)
        self._arena = tree_arena(model, rows, capacity + tree.num_nodes) if arena is None else arena
        self._vocabulary = DraftVocabulary(model, None) if vocabulary is None else vocabulary
        self._filters = filters
        self._capacity = capacity
        self._graphs = GraphRunner(device) if graphs is None else graphs
        # Drafted tokens whose keys and values stay: all of a chain but the last one.
        kept = tree.num_nodes - 1 if chain and arena is None else 0
        self._text = DeviceText(rows, capacity, kept, device)
        pending = tree.max_depth + 2 if max_pending is None else max_pending
        self._steps = torch.arange(pending if arena is None else 1, device=device)
        self._seed, self._position = (torch.zeros_like(self._text.lengths) for _ in range(2))
        self.token_ids = torch.full((rows, tree.num_nodes), -1, device=device)
        self.probs: torch.Tensor | None = None
        vocab_size = model.lm_head.weight.shape[0]
        self._levels = None if chain else device_levels(tree, vocab_size, device)
        if chain and filters["temperature"] > 0.0:
            shape = (*self.token_ids.shape, vocab_size)
            self.probs = torch.zeros(shape, dtype=torch.float32, device=device)

    @property
    def draft_to_target(self) -> torch.Tensor | None:
        """[V_draft] id map of a reduced vocabulary, or None."""
        return self._vocabulary.draft_to_target

    @property
    def lengths(self) -> torch.Tensor:
        """[B] int64, committed tokens per row."""
        return self._text.lengths

    @torch.no_grad()
    def prefill(self, tokens: torch.Tensor, lengths: torch.Tensor) -> None:
        """Forgets everything and takes the prompts; synchronises.

        Args:
            tokens: [B, S] int64, whole prompts from column 0 on; the rest of a row is ignored.
            lengths: [B], at least 1.

        Raises:
            ValueError: a length is not in [1, min(S, capacity)], or there are other than B rows.
        """
        rows, limit = len(self.token_ids), min(tokens.shape[1], self._capacity)
        counts = lengths.tolist()
        if len(tokens) != rows or len(counts) != rows:
            raise ValueError(f"DeviceDrafter: tokens must have {rows} rows, got {len(tokens)}")
        if not all(1 <= count <= limit for count in counts):
            raise ValueError(f"DeviceDrafter: lengths must be in [1, {limit}], got {counts}")
        if self._prefill_pass is not None:
            texts = zip(tokens.tolist(), counts, strict=True)
            sequences = [self._vocabulary.inputs(text[: count - 1]) for text, count in texts]
            feed(self._prefill_pass, self._arena, list(range(rows)), sequences)
        self._text.restart(tokens[:, :limit], lengths)

    def propose(
        self, seed: torch.Tensor, position: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Drafts below each row's last token, as one CUDA graph; commits nothing.

        Args:
            seed: [B] int64, keys of the rows' random streams.
            position: [B] int64, which proposal of the row it is.

        Returns:
            `token_ids` and `probs`, overwritten by the next proposal.
        """
        self._seed.copy_(seed)
        self._position.copy_(position)
        self._graphs.run((DeviceDrafter, id(self)), self._draft_static)
        return self.token_ids, self.probs

    def _draft_static(self) -> None:
        self.draft(self._seed, self._position)

    @torch.no_grad()
    def draft(self, seed: torch.Tensor, position: torch.Tensor) -> None:
        """The work of `propose`, to be part of a larger graph; fills `token_ids` and `probs`."""
        logits = self._catch_up()
        if self._levels is None:
            self._chain(logits, seed, position)
        else:
            self._tree(logits)

    def _catch_up(self) -> torch.Tensor:
        """Runs the tokens without keys and values; returns logits after the last ones, [B, V]."""
        ids, counts = self._text.pending(self._steps)
        logits = self._pass(
            self._arena,
            token_ids=self._vocabulary.input_ids(ids),
            context_lens=self._text.cached,
            depths=self._steps,
            num_tokens=counts,
            logit_rows=counts[:, None] - 1,
        )
        assert logits is not None
        self._text.cached += counts
        return logits[:, 0]

    def _chain(self, logits: torch.Tensor, seed: torch.Tensor, position: torch.Tensor) -> None:
        for column in range(self.token_ids.shape[1]):
            if column > 0:
                before = self.token_ids[:, column - 1 : column]
                step_logits = self._pass(
                    self._arena,
                    token_ids=self._vocabulary.input_ids(before),
                    context_lens=self.lengths + (column - 1),
                    depths=self._steps[:1],
                )
                assert step_logits is not None
                logits = step_logits[:, 0]
            self._draw(logits, seed, position, column)
        self._text.drafted.copy_(self.token_ids[:, : self._text.drafted.shape[1]])

    def _draw(
        self, logits: torch.Tensor, seed: torch.Tensor, position: torch.Tensor, column: int
    ) -> None:
        """Fills one column of `token_ids` and `probs` from logits [B, V_draft]."""
        ids = self.token_ids[:, column]
        if self.probs is None:
            ids.copy_(logits.argmax(-1))
        else:
            options = {"seed": seed, "position": position, "column": column, **self._filters}
            ops.draft_sample(logits, **options, out=(ids, self.probs[:, column]))
        if self._vocabulary.draft_to_target is not None:
            ids.copy_(self._vocabulary.target_ids(ids))

    def _tree(self, logits: torch.Tensor) -> None:
        """Level by level; every level runs the tree so far again, in one pass."""
        self.token_ids.fill_(-1)
        level_logits = logits[:, None]
        for level in self._levels or []:
            if len(level.known):
                known = self.token_ids.index_select(1, level.known)
                found = self._pass(
                    self._arena,
                    token_ids=self._vocabulary.input_ids(known),
                    context_lens=self.lengths,
                    depths=level.depths,
                    parents=level.parents,
                    logit_rows=level.rows.expand(len(known), -1),
                )
                assert found is not None
                level_logits = found
            best = self._vocabulary.target_ids(level_logits.topk(level.candidates, -1).indices)
            children = best.flatten(1).index_select(1, level.sources)
            self.token_ids.index_copy_(1, level.columns, children)

    @torch.no_grad()
    def commit(self, token_ids: torch.Tensor, counts: torch.Tensor) -> None:
        """Appends committed tokens; keys and values of an accepted chain stay valid.

        Args:
            token_ids: [B, C] int64; tokens beyond the counts are ignored.
            counts: [B], how many of a row's tokens count. Lengths must stay within the capacity.
        """
        self._text.commit(token_ids, counts)
        if self._prefill_pass is None:
            self._text.cached.copy_(self.lengths - 1)

    @torch.no_grad()
    def rollback(self, lengths: torch.Tensor) -> None:
        """Cuts every row's committed text.

        Args:
            lengths: [B], tokens to keep, at least 1; a row's present length or more keeps all.
        """
        self._text.rollback(lengths)
