# SPDX-License-Identifier: Apache-2.0
"""`ModelDrafter`: a small model proposes a sampled chain, or a tree of its most likely tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from via_ext.drafters.base import PassDrafter
from via_ext.drafters.scores import draft_scores
from via_ext.drafters.vocabulary import DraftVocabulary, check_tokenizers
from via_ext.models.arena import KVArena
from via_ext.models.families import check_supported
from via_ext.models.passes import LayerPass, chain_block
from via_ext.models.view import KeptLayer
from via_ext.route import SlimRoute
from via_ext.tree import Tree

if TYPE_CHECKING:
    from via_ext.drafters.device import DeviceDrafter

_FIRST_CAPACITY = 256


class ModelDrafter(PassDrafter):
    """Drafts with a causal language model of the target's vocabulary, or of a part of it.

    A chain is drawn token by token from the drafter's own filtered distribution, which is returned
    with it (`probs`); greedy chains are one-hot. A tree takes the most likely children of every
    node and is one-hot: exact for any tree. Draws come from the drafter's own random stream.

    The model must speak the target's ids. A vocabulary of another size is refused without a
    `draft_to_target`; another tokenizer of the same size shows only if both tokenizers are given:
    decoding then stays exact, but hardly a draft is accepted.

    Attributes:
        forward_seconds: time inside the model's forward passes so far.
    """

    def __init__(
        self,
        model: Any,
        temperature: float | None = None,
        *,
        draft_to_target: torch.Tensor | Sequence[int] | None = None,
        tokenizer: Any = None,
    ) -> None:
        """Wraps a model; no weight is copied.

        Args:
            model: a supported `transformers` causal language model.
            temperature: of the draft distribution, 0 = greedy; None = the decoder's.
            draft_to_target: [V_draft] the target id of each logit of a drafter with a reduced
                vocabulary; None = the same vocabulary. Its embedding has V_draft rows, or as many
                as the target's; a committed token that a smaller one lacks is fed as its padding,
                else as id 0.
            tokenizer: the drafter's, compared with the decoder's where both are given and there is
                no map.

        Raises:
            TypeError: `model` is not a causal language model, or the map does not hold ints.
            ValueError: its family is not supported, the temperature is negative, or the map does
                not fit the model.
        """
        check_supported(model, "drafter")
        if temperature is not None and not 0.0 <= temperature < float("inf"):
            raise ValueError(
                f"ModelDrafter: temperature must be finite and at least 0, got {temperature}"
            )
        super().__init__(temperature)
        self._model = model
        self._tokenizer = tokenizer
        self._vocabulary = DraftVocabulary(model, draft_to_target)
        layers = [KeptLayer(index) for index in range(model.config.num_hidden_layers)]
        self._pass = LayerPass(model, layers)
        self._own_arena: KVArena | None = None

    @property
    def _arena(self) -> KVArena:
        assert self._own_arena is not None
        return self._own_arena

    @property
    def model(self) -> Any:
        """The model that drafts."""
        return self._model

    @property
    def forward_seconds(self) -> float:
        """Seconds inside the model's own forward passes so far."""
        return self._pass.seconds

    def connect(self, _engine: Any, _route: SlimRoute | None, tokenizer: Any) -> None:
        """Compares tokenizers with the decoder that will use this drafter.

        Raises:
            ValueError: they give one id to different texts.
        """
        both = self._tokenizer is not None and tokenizer is not None
        if both and self._vocabulary.draft_to_target is None:
            check_tokenizers(self._tokenizer, tokenizer)

    def on_device(self, tree: Tree, rows: int, capacity: int, _arena: KVArena) -> DeviceDrafter:
        """This drafter with its text on the device, as an engine on CUDA runs it.

        Args:
            tree: shape of every proposal.
            rows: batch rows.
            capacity: most committed tokens per row.
        """
        from via_ext.drafters.device import DeviceDrafter

        return DeviceDrafter(
            self._model, tree, rows, capacity, filters=self._filters, vocabulary=self._vocabulary
        )

    def prefill(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None) -> None:
        """Starts a batch; see `Drafter.prefill`. The prompt is run with the first proposal."""
        super().prefill(input_ids, attention_mask)
        rows = len(self._tokens)
        if self._own_arena is None or self._own_arena.keys[0].shape[0] != rows:
            capacity = max(map(len, self._tokens)) + _FIRST_CAPACITY
            self._own_arena = KVArena(self._model, rows, capacity)

    @torch.inference_mode()
    def score(self, token_ids: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """What this drafter would draft greedily after the last tokens of a text.

        Args:
            token_ids: [T] int64, target ids.
            count: trailing tokens to draft after, at most T.

        Returns:
            The first choices after each, [count] int64 target ids, and their scores
            [count, 2] float32 as in `DraftTokens.scores`; on the CPU.
        """
        ids = torch.tensor([self._vocabulary.inputs(token_ids.tolist())])
        arena = KVArena(self._model, 1, ids.shape[1])
        block = chain_block([0], [0], ids.shape[1])
        logits = self._pass(arena, block, token_ids=ids, num_logits=count)
        assert logits is not None
        best = logits[0].argmax(-1)
        scores = draft_scores(logits[0], best[:, None])[:, 0]
        return self._vocabulary.target_ids(best).cpu(), scores.cpu()
