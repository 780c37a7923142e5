# SPDX-License-Identifier: Apache-2.0
"""The torch engine's model parts: slim, tail, prefix and full passes over one KV arena."""

from __future__ import annotations

from typing import Any

import torch

from via_ext.engines.draft import Draft, make_block
from via_ext.engines.request import Request
from via_ext.models.arena import KVArena
from via_ext.models.families import check_route, check_supported
from via_ext.models.passes import LayerPass, chain_block
from via_ext.models.view import KeptLayer, route_layers
from via_ext.route import SlimRoute

# Long prompts are fed in pieces: a pass's mask has (tokens x positions) entries.
PREFILL_TOKENS = 1024


class TorchEngine:
    """The target model as callable parts that share weights.

    With a route: `slim` runs the slim verifier and keeps the hidden states at the end of the shared
    prefix; `tail` resumes from those and runs all layers after the prefix; `prefix` makes them
    where no slim pass ran. Without one only `full` exists.

    Attributes:
        target: the model.
        arena: of the latest session, for a drafter that shares it.
    """

    def __init__(self, target: Any, route: SlimRoute | None) -> None:
        """Makes the views.

        Args:
            target: a supported `transformers` causal language model on one device.
            route: the slim verifier, None (or a full route) = two tiers.

        Raises:
            ValueError: the model or the route is not supported.
        """
        check_supported(target)
        self.target = target
        self.route = route
        self.arena: KVArena | None = None
        config = target.config
        layers = [KeptLayer(index) for index in range(config.num_hidden_layers)]
        self.full = LayerPass(target, layers)
        self.slim: LayerPass | None = None
        if route is not None:
            check_route(route, target)
        if route is not None and not route.is_full:
            shared = route.shared_prefix
            self.slim = LayerPass(target, route_layers(route), capture_after=shared)
            self.prefix = LayerPass(target, layers[:shared], capture_after=shared)
            self.tail = LayerPass(target, layers[shared:])

    @property
    def forward_seconds(self) -> float:
        """Time spent inside the model's own forward passes so far."""
        parts = [self.full] if self.slim is None else [self.full, self.slim, self.prefix, self.tail]
        return sum(part.seconds for part in parts)


def feed(part: LayerPass, arena: KVArena, rows: list[int], sequences: list[list[int]]) -> None:
    """Runs token sequences from position 0 without logits, in pieces.

    Args:
        part: the pass.
        arena: its KV arena.
        rows: arena rows.
        sequences: tokens per row, of any lengths.
    """
    longest = max(map(len, sequences))
    for begin in range(0, longest, PREFILL_TOKENS):
        live = [i for i, tokens in enumerate(sequences) if len(tokens) > begin]
        pieces = [sequences[i][begin : begin + PREFILL_TOKENS] for i in live]
        width = max(map(len, pieces))
        ids = torch.tensor([piece + [0] * (width - len(piece)) for piece in pieces])
        block = chain_block([rows[i] for i in live], [begin] * len(live), width)
        part(arena, block, token_ids=ids)


class Verifier:
    """Slim and full passes of one session: KV arena and saved hidden rows.

    Args:
        engine: the model parts.
        rows: batch rows.
        capacity: positions per row.
        max_backlog: most backlog tokens.
        max_nodes: most draft nodes.
    """

    def __init__(
        self, engine: TorchEngine, rows: int, capacity: int, max_backlog: int, max_nodes: int
    ) -> None:
        """Allocates the arena; with a slim verifier also the hidden rows."""
        self._engine = engine
        self._vocab_size: int = engine.target.config.vocab_size
        engine.arena = None  # the last session's is freed before the new one is made
        self.arena = engine.arena = KVArena(engine.target, rows, capacity)
        self.hidden: torch.Tensor | None = None
        if engine.slim is not None:
            parameter = next(engine.target.parameters())
            shape = (rows, 1 + max_backlog + max_nodes, 1, engine.target.config.hidden_size)
            self.hidden = parameter.new_zeros(shape, requires_grad=False)

    def prefill(self, requests: list[Request]) -> None:
        """Computes full-model KV of every prompt but its last token, the first root."""
        rows = [request.row for request in requests]
        feed(self._engine.full, self.arena, rows, [request.tokens[:-1] for request in requests])

    def slim_logits(self, requests: list[Request], drafts: list[Draft]) -> list[torch.Tensor]:
        """Slim pass over root and nodes; saves the hidden rows.

        Returns:
            Per request, slim logits [1, 1 + N, V].
        """
        assert self._engine.slim is not None
        block, ids = self._root_block(requests, drafts)
        logits = self._engine.slim(self.arena, block, token_ids=ids, num_logits=ids.shape[1])
        assert logits is not None
        self._save_hidden(requests, drafts, self._engine.slim)
        return [
            logits[index : index + 1, : 1 + len(draft.tokens)] for index, draft in enumerate(drafts)
        ]

    def full_logits(
        self, requests: list[Request], drafts: list[Draft], has_hidden: list[bool], whole: bool
    ) -> list[torch.Tensor]:
        """Full pass over backlog, root and nodes; rewrites the backlog's KV.

        Args:
            requests: rows of the pass.
            drafts: their nodes.
            has_hidden: per request, True if a slim pass over these nodes saved the hidden rows.
            whole: True for logits of the backlog too, else from the root on.

        Returns:
            Per request, full logits [1, backlog + 1 + N, V] or [1, 1 + N, V].
        """
        if self._engine.slim is None:
            block, ids = self._root_block(requests, drafts)
            logits = self._engine.full(self.arena, block, token_ids=ids, num_logits=ids.shape[1])
        else:
            fresh = [i for i, saved in enumerate(has_hidden) if not saved]
            if fresh:
                self._run_prefix([requests[i] for i in fresh], [drafts[i] for i in fresh])
            starts = [request.frontier for request in requests]
            leads = [request.tokens[request.frontier :] for request in requests]
            rows = [request.row for request in requests]
            block, ids = make_block(rows, starts, leads, drafts, self._vocab_size)
            width = ids.shape[1]
            assert self.hidden is not None
            hidden = self.hidden[block.rows, :width, 0]
            skipped = 0 if whole else min(request.backlog for request in requests)
            logits = self._engine.tail(self.arena, block, hidden=hidden, num_logits=width - skipped)
        assert logits is not None
        dropped = ids.shape[1] - logits.shape[1]
        result = []
        for index, (request, draft) in enumerate(zip(requests, drafts, strict=True)):
            first = (0 if whole else request.backlog) - dropped
            last = request.backlog + 1 + len(draft.tokens) - dropped
            result.append(logits[index : index + 1, first:last])
        return result

    def _root_block(self, requests: list[Request], drafts: list[Draft]) -> Any:
        rows, starts = zip(*((request.row, request.root) for request in requests), strict=True)
        roots = [request.tokens[-1:] for request in requests]
        return make_block(list(rows), list(starts), roots, drafts, self._vocab_size)

    def _run_prefix(self, requests: list[Request], drafts: list[Draft]) -> None:
        block, ids = self._root_block(requests, drafts)
        self._engine.prefix(self.arena, block, token_ids=ids)
        self._save_hidden(requests, drafts, self._engine.prefix)

    def _save_hidden(self, requests: list[Request], drafts: list[Draft], part: LayerPass) -> None:
        assert self.hidden is not None and part.hidden is not None
        for index, (request, draft) in enumerate(zip(requests, drafts, strict=True)):
            count, first = 1 + len(draft.tokens), request.backlog
            self.hidden[request.row, first : first + count, 0] = part.hidden[index, :count]
