# SPDX-License-Identifier: Apache-2.0
"""`SlimDrafter`: the target drafts for itself with the sublayers of a route."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

import torch

from via_ext.drafters.base import PassDrafter
from via_ext.drafters.protocol import DraftTokens
from via_ext.drafters.vocabulary import DraftVocabulary
from via_ext.models.arena import KVArena
from via_ext.models.families import check_route
from via_ext.models.passes import LayerPass
from via_ext.models.view import KeptLayer, route_layers
from via_ext.route import SlimRoute
from via_ext.tree import Tree

if TYPE_CHECKING:
    from via_ext.drafters.device import DeviceDrafter
    from via_ext.engines.torch import TorchEngine


_LATEST = "serve the latest run of the latest decoder"


class SlimDrafter(PassDrafter):
    """Self-speculation: the target's slim view drafts, the full model verifies.

    `Decoder(target, SlimDrafter(), route=...)` gives the route to the drafter. Decoding then has
    two tiers, in both modes: a slim verifier over its own drafts would find a ratio of 1 wherever
    it drafted greedily, and accept everything unseen. Mode "via" therefore decodes like "exact".

    Chains and trees are drafted as by `ModelDrafter`, at the decoder's temperature and filters.

    It runs in the engine's own KV arena, over full-model keys and values of every committed token,
    and needs no memory of its own: it writes at the root and behind it, where the full pass of the
    same step writes again. It serves the latest decoder that it was given to.

    Attributes:
        forward_seconds: time inside the slim view's forward passes so far.
    """

    takes_route = True
    _layers: list[KeptLayer]

    def __init__(self) -> None:
        """Waits for a decoder."""
        super().__init__(None)
        self._engine: TorchEngine | None = None
        self._taken: weakref.ref[KVArena] | None = None

    @property
    def _arena(self) -> KVArena:
        assert self._engine is not None and self._engine.arena is not None
        return self._engine.arena

    @property
    def forward_seconds(self) -> float:
        """Seconds inside the slim view's forward passes so far."""
        return 0.0 if self._engine is None else self._pass.seconds

    def connect(self, engine: TorchEngine, route: SlimRoute | None, _tokenizer: Any) -> None:
        """Makes the slim view of the decoder's target.

        Args:
            engine: the decoder's, which has no slim verifier.
            route: the sublayers to draft with.

        Raises:
            ValueError: there is no route, it skips nothing, or it is another model's.
        """
        if route is None or route.is_full:
            got = "None" if route is None else "a full route"
            raise ValueError(f"Decoder: route must skip a sublayer for a SlimDrafter, got {got}")
        check_route(route, engine.target)
        self._layers = route_layers(route)
        self._pass = LayerPass(engine.target, self._layers)
        self._vocabulary = DraftVocabulary(engine.target, None)
        self._engine = engine
        self._taken = None

    def on_device(self, tree: Tree, rows: int, capacity: int, arena: KVArena) -> DeviceDrafter:
        """This drafter with its text on the device, as an engine on CUDA runs it.

        Args:
            tree: shape of every proposal.
            rows: batch rows.
            capacity: most committed tokens per row.
            arena: the engine's, of capacity + N positions.

        Raises:
            RuntimeError: no decoder has taken the drafter, or another one.
        """
        from via_ext.drafters.device import DeviceDrafter

        if self._engine is None or self._engine.arena is not arena:
            got = "no decoder" if self._engine is None else "the arena of another"
            raise RuntimeError(f"SlimDrafter: on_device must {_LATEST}, got {got}")
        return DeviceDrafter(
            self._engine.target,
            tree,
            rows,
            capacity,
            filters=self._filters,
            vocabulary=self._vocabulary,
            layers=self._layers,
            arena=arena,
        )

    def prefill(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None) -> None:
        """Starts a batch; see `Drafter.prefill`. The engine has run the prompt already."""
        super().prefill(input_ids, attention_mask)
        arena = None if self._engine is None else self._engine.arena
        if arena is None or (self._taken is not None and self._taken() is arena):
            raise RuntimeError(f"SlimDrafter: prefill must {_LATEST}, got another run")
        # A new arena comes with every run, so the same one again is a run of another decoder.
        self._taken = weakref.ref(arena)
        self._cached = [len(tokens) - 1 for tokens in self._tokens]

    def propose(self, tree: Tree, seed: torch.Tensor, position: torch.Tensor) -> DraftTokens:
        """Drafts below each row's last token; see `Drafter.propose`.

        Raises:
            RuntimeError: another decoder, or another run, has taken the drafter.
        """
        if self._taken is None or self._taken() is not self._arena:
            raise RuntimeError(f"SlimDrafter: propose must {_LATEST}, got another run")
        return super().propose(tree, seed, position)

    def commit(
        self,
        token_ids: torch.Tensor,
        counts: torch.Tensor,
        hidden_states: torch.Tensor | None = None,
    ) -> None:
        """Appends committed tokens; the full pass has written their KV. See `Drafter.commit`."""
        super().commit(token_ids, counts, hidden_states)
        self._cached = [len(tokens) - 1 for tokens in self._tokens]
