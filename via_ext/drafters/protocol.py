# SPDX-License-Identifier: Apache-2.0
"""The contract between an engine and a drafter: `Drafter` and `DraftTokens`."""

from __future__ import annotations

from typing import NamedTuple, Protocol, runtime_checkable

import torch

from via_ext.tree import Tree


class DraftTokens(NamedTuple):
    """Proposed nodes below each request's last committed token.

    Attributes:
        token_ids: [B, N] int64, -1 = no node. N may be smaller than the tree asked for.
        parents: [N] or [B, N] int64, -1 = the root, always less than the node; None = a chain.
        num_nodes: [B] int64, nodes from this index on are ignored; None = all N.
        probs: [B, N, V] float32, the distribution each node was drawn from; None = one-hot.
            Legal only if each token was drawn from its row given the tokens before it, and whether
            a node exists depends on nothing but its ancestors and earlier siblings. Top-k children
            and drafts cut by the confidence in the node itself return None, which is exact for any
            proposal; a chain that ends behind a doubtful node, which stays, may return them.
        draft_to_target: [V_draft] int64, the target id of each column of `probs`, which then has
            V_draft columns (a reduced drafter vocabulary); all in the target's vocabulary, two
            columns of one id add up. None = target ids. `token_ids` are target ids always.
        scores: [B, N, 2] float32, ln p(token) and ln of the largest over the second largest p of
            the row each node came from, at temperature 1; None = not given. A calibrated decoder
            asks for them with `set_scoring(scoring)` (`via_ext.drafters.scores.Scoring`), where a
            drafter has such a method.
    """

    token_ids: torch.Tensor
    parents: torch.Tensor | None = None
    num_nodes: torch.Tensor | None = None
    probs: torch.Tensor | None = None
    draft_to_target: torch.Tensor | None = None
    scores: torch.Tensor | None = None


@runtime_checkable
class Drafter(Protocol):
    """Any cheap proposer: a small model, prompt lookup, an extra head.

    An engine calls `prefill` once per batch, then per step `propose`, `commit` and, after a failed
    audit, `rollback`. Each row keeps a committed sequence of its own: the prompt and every token
    emitted since. Its last token is the root of the next draft. Rows are independent: what a row
    proposes depends on that row's committed tokens, its seed and its position only, never on the
    rest of the batch. Tensors come on the target's device; results go back on the same device.
    """

    def prefill(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> None:
        """Forget everything and take the prompts.

        Args:
            input_ids: [B, T] int64, whole prompts; the last real token is the first root.
            attention_mask: [B, T], zero = padding (either side); None = no padding.
        """
        ...

    def propose(self, tree: Tree, seed: torch.Tensor, position: torch.Tensor) -> DraftTokens:
        """Propose nodes after each row's last committed token; commits nothing.

        Args:
            tree: the shape asked for. Fewer nodes (`num_nodes`) or another shape of at most
                `tree.num_nodes` nodes (`parents`) may come back.
            seed: [B] int64, key of the row's random streams.
            position: [B] int64, which proposal of this row it is. A drafter that draws uses the
                stream (seed, position) with purpose word 2, so that its draws never meet the
                coins of a verifier.

        Returns:
            The nodes.
        """
        ...

    def commit(
        self,
        token_ids: torch.Tensor,
        counts: torch.Tensor,
        hidden_states: torch.Tensor | None = None,
    ) -> None:
        """Append the tokens that a step emitted.

        Args:
            token_ids: [B, K] int64, padded with -1.
            counts: [B] int64, how many of a row's K tokens count; 0 leaves the row as it is.
            hidden_states: [B, K, H] of the target at these tokens, where the engine has them;
                drafters that need none ignore it.
        """
        ...

    def rollback(self, lengths: torch.Tensor) -> None:
        """Cut every row's committed sequence.

        Args:
            lengths: [B] int64, tokens to keep, prompt included; a row's present length keeps all.
        """
        ...
