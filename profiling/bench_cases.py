# SPDX-License-Identifier: Apache-2.0
"""What the benchmarks time: cases, their inputs, the bytes they must read, the goals for a GPU."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from via_ext import Tree

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# What an engine sees most; other cases are ordered by how far they are from it.
USUAL = {"batch": 8, "nodes": 8, "vocab": 128256}
BATCHES, NODES, VOCABS = (1, 8, 32, 128), (4, 8, 32, 64), (32000, 128256, 151936)
TREES = {20: (4, 2, 1), 56: (8, 2, 2)}  # nodes -> children per node at each depth


@dataclass(frozen=True)
class Case:
    """One call of `verify`."""

    rule: str
    batch: int
    nodes: int
    vocab: int
    right: int  # draft tokens that are right
    dtype: str = "bfloat16"
    drafts: str = "chain"  # chain, chain+p (drawn from a distribution), tree
    top_k: int = 0
    top_p: float = 1.0
    peak: float = 16.0  # logit of each row's likely token above noise of deviation 2.5

    @property
    def tree(self) -> Tree:
        """The shape of the draft."""
        return (
            Tree.from_widths(TREES[self.nodes]) if self.drafts == "tree" else Tree.chain(self.nodes)
        )

    @property
    def filters(self) -> dict[str, Any]:
        """Filter arguments that are on."""
        given: dict[str, Any] = {}
        if self.top_k:
            given["top_k"] = self.top_k
        if self.top_p < 1.0:
            given["top_p"] = self.top_p
        return given

    @property
    def floor_bytes(self) -> int:
        """Rows that the call must read; a rejected draft distribution counts as one more."""
        rows = self.right + 1
        if self.rule == "route":
            # Every row with a child, and the leaf's where the walk gets that far.
            rows = len(set(self.tree.parents)) + (self.right == self.tree.max_depth)
        rejected = self.vocab * 4 if self.drafts == "chain+p" and self.right < self.nodes else 0
        return self.batch * (rows * self.vocab * DTYPES[self.dtype].itemsize + rejected)

    def goal_us(self, bytes_per_us: float) -> float:
        """Time that a GPU with this copy bandwidth is to need at most."""
        floor = self.floor_bytes / bytes_per_us
        slack = 10.0 if self.rule == "sample" else 5.0
        return (2.0 if self.filters else 1.25) * floor + slack

    def columns(self) -> dict[str, Any]:
        """What the case is, for a CSV."""
        return {
            "rule": self.rule,
            "drafts": self.drafts,
            "B": self.batch,
            "N": self.nodes,
            "V": self.vocab,
            "dtype": self.dtype,
            "right": self.right,
            "filters": " ".join(f"{name}={value}" for name, value in self.filters.items()),
        }


@dataclass
class Inputs:
    """Tensors of one case, on the device of the benchmark."""

    case: Case
    call: dict[str, Any]  # arguments of `verify` without filters

    @property
    def logits(self) -> Tensor:
        """[B, N+1, V]."""
        return self.call["logits"]


def build(case: Case, device: str = "cpu") -> Inputs:
    """Logits: noise and one likely token per row, which is the token of the row's first child."""
    batch, vocab, right, tree = case.batch, case.vocab, case.right, case.tree
    nodes, parents = tree.num_nodes, torch.tensor(tree.parents, device=device)
    generator = torch.Generator(device).manual_seed(0)
    logits = torch.randn(batch, nodes + 1, vocab, generator=generator, device=device).mul_(2.5)
    likely = torch.randint(0, vocab, (batch, nodes + 1), generator=generator, device=device)
    logits.scatter_(2, likely[..., None], case.peak)
    logits = logits.to(DTYPES[case.dtype])
    order = list(tree.parents)
    first = torch.tensor([node == order.index(p) for node, p in enumerate(order)], device=device)
    ids = torch.where(first, likely[:, parents + 1], (likely[:, parents + 1] + 7) % vocab)
    if right < nodes and case.drafts != "tree":
        ids[:, right] = (ids[:, right] + 1) % vocab
    call: dict[str, Any] = {"rule": case.rule, "draft_token_ids": ids, "logits": logits}
    if case.drafts == "tree":
        call["parents"] = parents
    if case.rule == "sample":
        # Coins of 0 accept what has any probability; the one of the wrong token rejects it.
        coins = torch.zeros(batch, nodes + 1, device=device)
        coins[:, right:nodes] = 0.999999
        coins[:, nodes] = 0.5
        call |= {"temperature": 1.0, "uniform_samples": coins}
    if case.drafts == "chain+p":
        drawn_from = torch.zeros(batch, nodes, vocab, device=device)
        call["draft_probs"] = drawn_from.scatter_(2, ids[..., None], 1.0).add_(1.0 / vocab)
    return Inputs(case, call)


def cpu_cases(quick: bool) -> list[Case]:
    """The CPU's cases: a chain of 8, a tree, filters."""
    shapes = [(8, 128256)] if quick else [(1, 32000), (8, 32000), (1, 128256), (8, 128256)]
    sample: dict[str, Any] = {"rule": "sample", "nodes": 8, "right": 4}
    kinds: list[dict[str, Any]] = [
        {"rule": rule, "nodes": 8, "right": right}
        for rule in ("route", "greedy", "sample")
        for right in (8, 4)
    ]
    kinds.append({**sample, "drafts": "chain+p"})
    kinds += [
        {"rule": rule, "nodes": 20, "drafts": "tree", "right": 3} for rule in ("route", "greedy")
    ]
    kinds += [{**sample, "top_k": 50, "top_p": 0.9}, {**sample, "top_p": 0.9}]
    return [
        Case(batch=batch, vocab=vocab, dtype=dtype, **kind)
        for batch, vocab in shapes
        for dtype in ("float32", "bfloat16")
        for kind in kinds
    ]


def distance(case: Case) -> tuple[int, int]:
    """How many sizes differ from the usual ones, then the amount of work."""
    differing = sum(getattr(case, name) != value for name, value in USUAL.items())
    return differing, case.batch * case.nodes * case.vocab


def cuda_cases(dtypes: Iterable[str] = ("bfloat16",)) -> list[Case]:
    """The GPU's cases, those that matter most first."""
    plain: dict[str, Any] = {"peak": 24.0}  # certain enough that peers with own coins accept too
    cases: list[Case] = []
    for dtype in dtypes:
        for batch in BATCHES:
            for vocab in VOCABS:
                size: dict[str, Any] = {"batch": batch, "vocab": vocab, "dtype": dtype}
                for nodes in NODES:
                    rules = ("route", "greedy", "sample")
                    cases += [
                        Case(rule, nodes=nodes, right=nodes, **size, **plain) for rule in rules
                    ]
                    half = {"nodes": nodes, "right": nodes // 2, **size}
                    cases.append(Case("sample", **half, top_k=50, top_p=0.9))
                    if nodes == USUAL["nodes"]:
                        cases += [Case(rule, **half, **plain) for rule in ("greedy", "sample")]
                        cases.append(Case("sample", **half, **plain, drafts="chain+p"))
                        cases.append(Case("sample", **half, top_p=0.9))
                if vocab == USUAL["vocab"]:
                    cases += [
                        Case(rule, nodes=n, right=3, drafts="tree", **size, **plain)
                        for n in TREES
                        for rule in ("route", "greedy")
                    ]
    return sorted(cases, key=distance)


def quantile(times: list[float], q: float) -> float:
    """The element at rank q of the sorted times."""
    return sorted(times)[round(q * (len(times) - 1))]


def spread(times: list[float]) -> dict[str, float]:
    """Microseconds at the 20th, 50th and 80th percentile of times in seconds."""
    middle = statistics.median(times)
    marks = {"p20_us": quantile(times, 0.2), "p50_us": middle, "p80_us": quantile(times, 0.8)}
    return {name: round(value * 1e6, 2) for name, value in marks.items()}
