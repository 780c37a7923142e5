# SPDX-License-Identifier: Apache-2.0
"""`DeviceDrafter`: drafts of a model whose committed text, lengths and drafts stay on the device.

It proposes what `ModelDrafter` proposes for the same text, seeds and positions, without the host
reading anything back, so that one CUDA graph holds a whole proposal.
"""

from __future__ import annotations

from typing import Any

import torch

from via_ext import ops
from via_ext.drafters.device_levels import level_tensors
from via_ext.engines.graphs import GraphRunner
from via_ext.engines.torch import feed
from via_ext.models.attention import tree_arena
from via_ext.models.families import check_supported
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
        token_ids: [B, N] int64, the last proposal.
        probs: [B, N, V] float32, the distribution each token was drawn from; None if greedy or not
            a chain.
        lengths: [B] int64, committed tokens per row.
    """

    def __init__(
        self,
        model: Any,
        tree: Tree,
        rows: int,
        capacity: int,
        *,
        filters: dict[str, Any],
        max_pending: int | None = None,
        graphs: GraphRunner | None = None,
    ) -> None:
        """Allocates the KV arena and all buffers on the model's device.

        Args:
            model: a supported `transformers` causal language model.
            tree: the shape of every proposal, of N >= 1 nodes.
            rows: batch rows B.
            capacity: most committed tokens per row; the arena has room for the draft besides.
            filters: temperature, top_k, top_p and min_p of `ops.draft_sample`, numbers.
            max_pending: most committed tokens that a proposal may find without KV. The default is
                enough for one commit since the last proposal, of a whole path and one more token,
                after a rollback. With more pending, the rest waits for the next proposal, and this
                one is drawn after a text with a gap: valid, but a poor draft.
            graphs: records `propose`; None = a runner of its own.

        Raises:
            TypeError: `model` is not a causal language model.
            ValueError: the model is not supported, or the tree is empty.
        """
        check_supported(model, "drafter")
        if tree.num_nodes < 1:
            raise ValueError("DeviceDrafter: tree must have at least 1 node, got 0")
        layers = [KeptLayer(index) for index in range(model.config.num_hidden_layers)]
        device = next(model.parameters()).device
        self._prefill_pass = LayerPass(model, layers)
        self._pass = TreePass(model, layers)
        self._arena = tree_arena(model, rows, capacity + tree.num_nodes)
        self._filters = filters
        self._is_chain = tree.is_chain
        self._capacity = capacity
        self._levels = (
            [] if self._is_chain else level_tensors(tree, model.config.vocab_size, device)
        )
        self._graphs = GraphRunner(device) if graphs is None else graphs

        def counters() -> torch.Tensor:
            return torch.zeros(rows, dtype=torch.int64, device=device)

        # The last column takes what is no token.
        self._text = torch.zeros(rows, capacity + 1, dtype=torch.int64, device=device)
        self.lengths, self._cached = counters(), counters()
        self._seed, self._position = counters(), counters()
        pending = tree.max_depth + 2 if max_pending is None else max_pending
        self._steps = torch.arange(pending, device=device)
        self.token_ids = torch.full((rows, tree.num_nodes), -1, device=device)
        # Drafted tokens whose KV was computed: all of a chain but the last one.
        drafted = tree.num_nodes - 1 if self._is_chain else 0
        self._drafted = torch.full((rows, drafted), -1, device=device)
        self.probs: torch.Tensor | None = None
        if self._is_chain and filters["temperature"] > 0.0:
            shape = (rows, tree.num_nodes, model.config.vocab_size)
            self.probs = torch.zeros(shape, dtype=torch.float32, device=device)

    @torch.no_grad()
    def prefill(self, tokens: torch.Tensor, lengths: torch.Tensor) -> None:
        """Forgets everything and takes the prompts; synchronises.

        Args:
            tokens: [B, S] int64, whole prompts from column 0 on; the rest of a row is ignored.
            lengths: [B], at least 1.

        Raises:
            ValueError: a length is not in [1, min(S, capacity)], or there are other than B rows.
        """
        rows, limit = len(self.lengths), min(tokens.shape[1], self._capacity)
        counts = lengths.tolist()
        if len(tokens) != rows or len(counts) != rows:
            raise ValueError(f"DeviceDrafter: tokens must have {rows} rows, got {len(tokens)}")
        if not all(1 <= count <= limit for count in counts):
            raise ValueError(f"DeviceDrafter: lengths must be in [1, {limit}], got {counts}")
        prompts = [row[:count] for row, count in zip(tokens.tolist(), counts, strict=True)]
        sequences = [prompt[:-1] for prompt in prompts]
        feed(self._prefill_pass, self._arena, list(range(rows)), sequences)
        self._text[:, :limit] = tokens[:, :limit]
        self.lengths.copy_(lengths)
        self._cached.copy_(self.lengths - 1)
        self._drafted.fill_(-1)

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
        if self._is_chain:
            self._chain(logits, seed, position)
        else:
            self._tree(logits)

    def _catch_up(self) -> torch.Tensor:
        """Runs the tokens without KV; returns logits after each row's last token, [B, V].

        The last token is always run, again if need be, for its logits.
        """
        torch.minimum(self._cached, self.lengths - 1, out=self._cached)
        pending = (self.lengths - self._cached).clamp(max=len(self._steps))
        places = (self._cached[:, None] + self._steps).clamp(max=self._capacity)
        logits = self._pass(
            self._arena,
            token_ids=self._text.gather(1, places),
            context_lens=self._cached,
            depths=self._steps,
            num_tokens=pending,
            logit_rows=pending[:, None] - 1,
        )
        assert logits is not None
        self._cached += pending
        return logits[:, 0]

    def _chain(self, logits: torch.Tensor, seed: torch.Tensor, position: torch.Tensor) -> None:
        for column in range(self.token_ids.shape[1]):
            if column > 0:
                step_logits = self._pass(
                    self._arena,
                    token_ids=self.token_ids[:, column - 1 : column],
                    context_lens=self.lengths + (column - 1),
                    depths=self._steps[:1],
                )
                assert step_logits is not None
                logits = step_logits[:, 0]
            if self.probs is None:
                self.token_ids[:, column] = logits.argmax(-1)
                continue
            self.token_ids[:, column], self.probs[:, column] = ops.draft_sample(
                logits, seed=seed, position=position, column=column, **self._filters
            )
        self._drafted.copy_(self.token_ids[:, :-1])

    def _tree(self, logits: torch.Tensor) -> None:
        """Level by level; every level runs the tree so far again, in one pass."""
        self.token_ids.fill_(-1)
        level_logits = logits[:, None]
        for level in self._levels:
            if len(level.known):
                found = self._pass(
                    self._arena,
                    token_ids=self.token_ids.index_select(1, level.known),
                    context_lens=self.lengths,
                    depths=level.depths,
                    parents=level.parents,
                    logit_rows=level.rows.expand(len(self.lengths), -1),
                )
                assert found is not None
                level_logits = found
            best = level_logits.topk(level.candidates, -1).indices.flatten(1)
            self.token_ids.index_copy_(1, level.columns, best.index_select(1, level.sources))

    @torch.no_grad()
    def commit(self, token_ids: torch.Tensor, counts: torch.Tensor) -> None:
        """Appends committed tokens; KV of an accepted chain stays valid.

        Args:
            token_ids: [B, K] int64; tokens beyond the counts are ignored.
            counts: [B], how many of a row's tokens count. The length must stay within the capacity.
        """
        steps = torch.arange(token_ids.shape[1], device=token_ids.device)
        counted = steps < counts[:, None]
        width = min(token_ids.shape[1], self._drafted.shape[1])
        same = counted[:, :width] & (token_ids[:, :width] == self._drafted[:, :width])
        matched = same.to(torch.int64).cumprod(1).sum(1)
        self._cached += matched * (self._cached == self.lengths)
        places = (self.lengths[:, None] + steps).masked_fill(~counted, self._capacity)
        self._text.scatter_(1, places.clamp(max=self._capacity), token_ids)
        self.lengths += counts
        self._drafted.fill_(-1)

    @torch.no_grad()
    def rollback(self, lengths: torch.Tensor) -> None:
        """Cuts every row's committed text.

        Args:
            lengths: [B], tokens to keep, at least 1; a row's present length or more keeps all.
        """
        cut = lengths < self.lengths
        torch.minimum(self.lengths, lengths, out=self.lengths)
        torch.minimum(self._cached, self.lengths, out=self._cached)
        self._drafted.masked_fill_(cut[:, None], -1)
