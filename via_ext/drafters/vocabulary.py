# SPDX-License-Identifier: Apache-2.0
"""The ids of a drafter and of its target: the same, or a reduced vocabulary with a map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch


class DraftVocabulary:
    """Translates between a drafter's ids and the target's.

    Without a map both are the same. With one, `draft_to_target[d]` is the target id that the
    drafter's output d stands for. Inputs of the drafter are then its own ids where its embedding
    has as many rows as the map, and target ids where it has as many as the target's vocabulary (a
    drafter with a reduced LM head only).

    Attributes:
        draft_to_target: [V_draft] int64 or None.
        num_inputs: rows of the drafter's embedding.
    """

    def __init__(self, model: Any, draft_to_target: torch.Tensor | Sequence[int] | None) -> None:
        """Checks a map against the model's sizes.

        Args:
            model: the drafter.
            draft_to_target: [V_draft] int32 or int64, or ints; two entries may name one target id.

        Raises:
            TypeError: the map does not hold ints.
            ValueError: it has another length than the model has logits, or a negative entry.
        """
        self._config = model.config
        self.num_inputs: int = model.get_input_embeddings().num_embeddings
        self._num_outputs: int = model.lm_head.weight.shape[0]
        self.draft_to_target: torch.Tensor | None = None
        self._table: list[int] | None = None
        self._table_tensor: torch.Tensor | None = None
        if draft_to_target is None:
            return
        ids = torch.as_tensor(draft_to_target)
        if ids.dtype not in (torch.int32, torch.int64):
            raise TypeError(f"ModelDrafter: draft_to_target must hold int ids, got {ids.dtype}")
        if ids.shape != (self._num_outputs,):
            raise ValueError(
                f"ModelDrafter: draft_to_target must have shape [{self._num_outputs}], one id per "
                f"logit of the model, got {list(ids.shape)}"
            )
        if int(ids.min()) < 0:
            raise ValueError(
                f"ModelDrafter: draft_to_target must be at least 0, got {int(ids.min())}"
            )
        device = model.lm_head.weight.device
        self.draft_to_target = ids.to(device=device, dtype=torch.int64)

    def fit(self, vocab_size: int) -> None:
        """Prepares for a target.

        Args:
            vocab_size: of the target.

        Raises:
            ValueError: the vocabularies differ and there is no map, or the map does not fit.
        """
        if self.draft_to_target is None:
            if vocab_size != self._num_outputs:
                raise ValueError(
                    f"ModelDrafter: model must have the target's vocabulary of {vocab_size}, "
                    f"got {self._num_outputs} of {_describe(self._config)}, without draft_to_target"
                )
            return
        largest = int(self.draft_to_target.max())
        if largest >= vocab_size:
            raise ValueError(
                f"ModelDrafter: draft_to_target must be in [0, {vocab_size}), got {largest}"
            )
        if self.num_inputs == self._num_outputs:
            self._make_table(vocab_size)
        elif self.num_inputs != vocab_size:
            raise ValueError(
                f"ModelDrafter: model must embed its own {self._num_outputs} ids or the target's "
                f"{vocab_size}, got an embedding of {self.num_inputs}"
            )

    def _make_table(self, vocab_size: int) -> None:
        """Target id -> input id. An id the drafter does not know is fed as its padding, else 0."""
        pad = getattr(self._config, "pad_token_id", None)
        unknown = pad if pad is not None and 0 <= pad < self.num_inputs else 0
        self._table = [unknown] * vocab_size
        assert self.draft_to_target is not None
        # The lowest of several ids wins: written last.
        for draft_id, target_id in reversed(list(enumerate(self.draft_to_target.tolist()))):
            self._table[target_id] = draft_id
        self._table_tensor = torch.tensor(self._table, device=self.draft_to_target.device)

    def inputs(self, tokens: list[int]) -> list[int]:
        """What the drafter is fed for target ids."""
        return tokens if self._table is None else [self._table[token] for token in tokens]

    def input_ids(self, target_ids: torch.Tensor) -> torch.Tensor:
        """As `inputs`, for a tensor."""
        return target_ids if self._table_tensor is None else self._table_tensor[target_ids]

    def target_ids(self, outputs: torch.Tensor) -> torch.Tensor:
        """Target ids that the drafter's outputs stand for."""
        return outputs if self.draft_to_target is None else self.draft_to_target[outputs]


def _describe(config: Any) -> str:
    """A model's name, family and special ids, for error messages."""
    name = getattr(config, "name_or_path", "") or config.model_type
    bos, eos = getattr(config, "bos_token_id", None), getattr(config, "eos_token_id", None)
    return f"{name} (bos {bos}, eos {eos})"


def check_tokenizers(draft: Any, target: Any) -> None:
    """Raises ValueError if two tokenizers give one id to different texts.

    Args:
        draft: the drafter's tokenizer.
        target: the target's.
    """
    draft_ids = {index: text for text, index in draft.get_vocab().items()}
    for text, index in sorted(target.get_vocab().items(), key=lambda item: item[1]):
        if draft_ids.get(index, text) != text:
            names = [getattr(tokenizer, "name_or_path", "") for tokenizer in (draft, target)]
            raise ValueError(
                f"ModelDrafter: tokenizer must be the target's, {names[1] or 'unnamed'}, "
                f"got {names[0] or 'unnamed'}: id {index} is {draft_ids[index]!r}, not {text!r}"
            )
