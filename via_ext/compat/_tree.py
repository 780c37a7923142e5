# SPDX-License-Identifier: Apache-2.0
"""What SGLang's two functions share: their tree arguments and their outputs."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, NamedTuple

import torch
from torch import Tensor

from via_ext.compat._common import MAX_NODES, Arguments
from via_ext.compat._links import NodeOrder, order_nodes
from via_ext.ops._verification import Verification


class Tree(NamedTuple):
    """Checked arguments. B requests, N columns with the root's, paths of S with the root's.

    Attributes:
        arguments: for the checks of the other arguments.
        predicts: contiguous, any shape, in place.
        accept_index: [B, S], in place.
        accept_token_num: [B], in place.
        candidates: [B, N].
        retrive_index: [B, N] int64.
        order: the nodes below the root, sorted.
    """

    arguments: Arguments
    predicts: Tensor
    accept_index: Tensor
    accept_token_num: Tensor
    candidates: Tensor
    retrive_index: Tensor
    order: NodeOrder

    def visited(self, result: Verification) -> Tensor:
        """[B, N] columns of the root and the accepted nodes; what follows is any column."""
        nodes = self.order.columns.gather(1, result.path.long().clamp(min=0))
        return torch.nn.functional.pad(nodes, (1, 0))

    def write(self, result: Verification, visited: Tensor, tokens: Tensor) -> None:
        """Fills the outputs.

        Slots that no visited node has stay as they are; one outside `predicts` is not written.

        Args:
            result: of the walk over the sorted nodes.
            visited: [B, N], see `visited`.
            tokens: [B, N] int64, what follows each of them.
        """
        count = result.num_accepted.long()[:, None]
        is_visited = torch.arange(visited.shape[1], device=visited.device) <= count
        slots = self.retrive_index.gather(1, visited)
        steps = min(visited.shape[1], self.accept_index.shape[1])
        places = self.accept_index[:, :steps]
        places.copy_(torch.where(is_visited[:, :steps], slots[:, :steps], places))
        predicts = self.predicts.view(-1)
        size = predicts.shape[0]
        slots = torch.where(is_visited & (slots >= 0) & (slots < size), slots, size)
        written = torch.full((size + 1,), -1, dtype=torch.int64, device=visited.device)
        written = written.scatter_(0, slots.flatten(), tokens.flatten())[:size]
        predicts.copy_(torch.where(written >= 0, written, predicts))
        self.accept_token_num.copy_(result.num_accepted)


def accepts_retrieve(function: Callable[..., None]) -> Callable[..., None]:
    """Takes the links under the names retrieve_* too: some revisions of SGLang spell them so."""

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> None:
        spelled = {name.replace("retrieve_", "retrive_"): value for name, value in kwargs.items()}
        function(*args, **spelled)

    return call


def read_tree(
    op: str,
    predicts: Tensor,
    accept_index: Tensor,
    accept_token_num: Tensor,
    candidates: Tensor,
    links: tuple[Tensor, Tensor, Tensor],
) -> Tree:
    """Checks the arguments that both functions have and sorts the nodes.

    Args:
        op: the function's name.
        predicts: as the caller gave it, like the rest.
        accept_index: in place.
        accept_token_num: in place.
        candidates: [B, N].
        links: retrive_index, retrive_next_token and retrive_next_sibling.

    Returns:
        A `Tree`.
    """
    arguments = Arguments(op, candidates, "candidates")
    candidates = arguments.ids("candidates", candidates, (None, None), "[B, N]")
    batch_size, size = candidates.shape
    if size < 1:
        shape = list(candidates.shape)
        raise ValueError(f"{op}: candidates must have the root's column, got shape {shape}")
    arguments.at_most("candidates.shape[1]", size, MAX_NODES + 1)
    names = ("retrive_index", "retrive_next_token", "retrive_next_sibling")
    index, next_token, next_sibling = (
        arguments.ids(name, value, (batch_size, size), "[B, N]")
        for name, value in zip(names, links, strict=True)
    )
    arguments.output("predicts", predicts, None, "any shape")
    if not predicts.is_contiguous():
        raise ValueError(f"{op}: predicts must be contiguous, got strides {predicts.stride()}")
    arguments.output("accept_index", accept_index, (batch_size, None), "[B, S]")
    steps = accept_index.shape[1]
    if steps < 1:
        shape = list(accept_index.shape)
        raise ValueError(f"{op}: accept_index must have the root's column, got shape {shape}")
    arguments.output("accept_token_num", accept_token_num, (batch_size,), "[B]")
    order = order_nodes(next_token, next_sibling, steps - 1)
    return Tree(
        arguments, predicts, accept_index, accept_token_num, candidates, index.long(), order
    )
