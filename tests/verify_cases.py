# SPDX-License-Identifier: Apache-2.0
"""Random verify calls for the comparison with the reference, and what counts as a rounding tie."""

import random
from typing import Any

import torch
from torch import Tensor

from tests.verify_runner import decisions, mask_words, row_arguments
from via_ext import reference, router

RULES = ("route", "greedy", "sample")
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
# Twice the largest error seen of a float32 sum of weights; no coin, threshold or probability of the
# specification may lie nearer to its boundary for a case to count as decided.
MARGIN = 4e-6


class Case:
    """One random call: every argument of `verify` except `out`, chosen by a seed."""

    def __init__(self, seed: int, rule: str) -> None:
        """Draws shapes, trees, logits, filters, masks, drafts, coins and a resumption."""
        self.rng = random.Random(seed)
        self.gen = torch.Generator().manual_seed(seed)
        self.batch, self.nodes = self.rng.randint(1, 4), self.rng.randint(0, 8)
        self.size = self.rng.choice([1, 2, 3, 5, 8, 17, 33, 70, 130])
        if self._chance(0.02):
            self.size = self.rng.choice([4097, 9000])  # several pieces of a row
        self.rule = rule
        self.arguments: dict[str, Any] = {"rule": rule}
        self._tree()
        self.arguments["logits"] = self._logits()
        self._ids()
        self._parameters()
        self._drafts()
        self._coins()
        if rule != "route" and self._chance(0.3):
            self._resume()
        if rule == "route" and self._chance(0.4):
            self._router()

    def _chance(self, probability: float) -> bool:
        return self.rng.random() < probability

    def _rand(self, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self.gen)

    def _tree(self) -> None:
        kind = self.rng.choice(["chain", "shared", "own"])
        if kind == "chain":
            return
        rows = 1 if kind == "shared" else self.batch
        trees = [[self.rng.randint(-1, n - 1) for n in range(self.nodes)] for _ in range(rows)]
        parents = torch.tensor(trees, dtype=self.rng.choice([torch.int32, torch.int64]))
        parents = parents.view(rows, self.nodes)
        self.arguments["parents"] = parents[0] if kind == "shared" else parents

    def _logits(self) -> Tensor:
        shape = (self.batch, self.nodes + 1, self.size)
        logits = torch.randn(shape, generator=self.gen) * self.rng.choice([0.5, 2.0, 6.0])
        if self._chance(0.2):
            logits = (logits * 2).round() / 2  # ties
        for value, share in [(-torch.inf, 0.2), (torch.nan, 0.05), (torch.inf, 0.03)]:
            if self._chance(share):
                logits[self._rand(*shape) < self.rng.choice([0.05, 0.5])] = value
        return logits.to(self.rng.choice(DTYPES))

    def _ids(self) -> None:
        """Mostly tokens that their parent's row likes, so that walks get somewhere."""
        ids = torch.randint(0, self.size, (self.batch, self.nodes), generator=self.gen)
        logits = self.arguments["logits"].float().nan_to_num(nan=-1e9)
        top = logits.topk(min(3, self.size), -1).indices
        parents = self.arguments.get("parents", torch.arange(-1, self.nodes - 1))
        parents = parents.expand(self.batch, self.nodes)
        for b in range(self.batch):
            for node in range(self.nodes):
                if self._chance(0.75):
                    liked = top[b, int(parents[b, node]) + 1]
                    ids[b, node] = liked[self.rng.randrange(len(liked))]
                elif self._chance(0.15):
                    ids[b, node] = self.rng.choice([-1, -1, -1, self.size, -5])
        self.arguments["draft_token_ids"] = ids.to(self.rng.choice([torch.int32, torch.int64]))
        if self._chance(0.3):
            counts = [self.rng.randint(0, self.nodes) for _ in range(self.batch)]
            self.arguments["num_nodes"] = torch.tensor(counts)

    def _per_row(self, draw: Any, dtype: torch.dtype = torch.float32) -> Any:
        """A number, or one per row."""
        if self._chance(0.5):
            return draw()
        return torch.tensor([draw() for _ in range(self.batch)], dtype=dtype)

    def _parameters(self) -> None:
        rng, arguments = self.rng, self.arguments
        arguments["temperature"] = self._per_row(
            lambda: rng.choice([0.0, 1.0, rng.uniform(0.2, 2)])
        )
        if self._chance(0.4):
            arguments["top_k"] = self._per_row(lambda: rng.randint(0, 12), torch.int64)
        if self._chance(0.4):
            arguments["top_p"] = self._per_row(lambda: rng.uniform(0.05, 1.0))
        if self._chance(0.4):
            arguments["min_p"] = self._per_row(lambda: rng.uniform(0.0, 1.0) ** 3)
        if self._chance(0.3):
            masks = self._rand(self.batch, self.nodes + 1, self.size) < rng.choice([0.3, 0.9])
            arguments["allowed"] = mask_words(masks)
        if self.rule == "route":
            low, high = sorted((rng.uniform(0, 1.1), rng.uniform(0, 1.1)))
            arguments["escalate_threshold"] = self._per_row(lambda: low * rng.choice([0.3, 1.0]))
            arguments["accept_threshold"] = self._per_row(lambda: high)

    def _drafts(self) -> None:
        if self._chance(0.4):
            return
        size = self.size
        if self._chance(0.3):
            size = self.rng.randint(1, self.size + 2)
            ids = torch.randint(0, self.size, (size,), generator=self.gen)
            if self._chance(0.2):
                ids[0] = self.rng.choice([-1, self.size])
            self.arguments["draft_to_target"] = ids
        values = torch.randn(self.batch, self.nodes, size, generator=self.gen) * 2
        if self._chance(0.3) and size == self.size:
            values = self.arguments["logits"][:, : self.nodes].float() + 0.3 * values
        if self._chance(0.5):
            self.arguments["draft_logits"] = values.to(self.rng.choice(DTYPES))
        else:
            self.arguments["draft_probs"] = values.softmax(-1).to(self.rng.choice(DTYPES))
        if self.rule == "route" and self._chance(0.5):
            self.arguments["draft_threshold"] = self._per_row(lambda: self.rng.uniform(0, 1))

    def _router(self) -> None:
        """In place of thresholds: weights around what a calibration gives, and worse."""
        rng, arguments = self.rng, self.arguments
        for name in ("accept_threshold", "escalate_threshold", "draft_threshold"):
            arguments.pop(name, None)

        def model() -> tuple[float, ...]:
            return (rng.gauss(-1, 2), *(rng.gauss(-0.3, 0.6) for _ in router.FEATURES))

        def limit() -> float:
            return rng.choice([0.0, 1.0, -1.0, *(rng.uniform(0, 1) for _ in range(9))])

        limits = [limit() for _ in range(3)]
        routers = [router.Router(model(), model(), model(), *limits) for _ in range(self.batch)]
        kind = rng.choice(["object", "shared", "rows"])
        if kind == "object":
            arguments["router"] = routers[0]
        else:
            packed = torch.stack([each.pack() for each in routers])
            if self._chance(0.1):
                packed[-1, rng.randrange(27)] = torch.nan
            arguments["router"] = packed[0].clone() if kind == "shared" else packed
        if kind == "object" or self._chance(0.7):
            scores = torch.randn(self.batch, self.nodes, 2, generator=self.gen) * 8
            for value in (torch.inf, -torch.inf, torch.nan):
                scores[self._rand(*scores.shape) < 0.02] = value
            arguments["draft_scores"] = scores

    def _coins(self) -> None:
        if self._chance(0.3):
            bound = 2**62
            seed = torch.randint(-bound, bound, (self.batch,), generator=self.gen)
            position = torch.randint(0, bound, (self.batch,), generator=self.gen)
            self.arguments |= {"seed": seed, "position": position}
        else:
            self.arguments["uniform_samples"] = self._rand(self.batch, self.nodes + 1)

    def _resume(self) -> None:
        kept = ("draft_token_ids", "parents", "num_nodes", "allowed")
        arguments = {name: value for name, value in self.arguments.items() if name in kept}
        slim = self.arguments["logits"].float() + self._rand(*self.arguments["logits"].shape)
        self.arguments["resume"] = reference.verify(
            logits=slim, rule="route", accept_threshold=0.5, escalate_threshold=0.5, **arguments
        )


def _with_uniforms(arguments: dict[str, Any]) -> dict[str, Any]:
    """The same row with its Philox numbers written out."""
    arguments = dict(arguments)
    seed, position = arguments.pop("seed", None), arguments.pop("position", None)
    if "uniform_samples" not in arguments and seed is not None:
        key = (int(seed[0]), int(position[0]))
        nodes = arguments["draft_token_ids"].shape[1]
        row = [reference.philox_uniform(*key, column, 0) for column in range(nodes)]
        row.append(reference.philox_uniform(*key, 0, 1))
        arguments["uniform_samples"] = torch.tensor([row])
    return arguments


def is_rounding_tie(arguments: dict[str, Any], b: int) -> bool:
    """True if the specification itself gives another row b within MARGIN.

    Coins and the final draw move by MARGIN, thresholds, top-p, min-p and draft probabilities by
    MARGIN relative, up and down, a router's limits by what MARGIN does to ln max s. A cut of top-p
    or min-p may show in the log-probabilities alone.
    """
    row = _with_uniforms(row_arguments(arguments, b))
    if "draft_logits" in row:
        row["draft_probs"] = row.pop("draft_logits").double().nan_to_num(nan=-torch.inf).softmax(-1)
    expected = reference.verify(**row)
    scaled = ("accept_threshold", "escalate_threshold", "draft_threshold", "top_p", "min_p")
    variants: list[dict[str, Any]] = []
    for sign in (-1.0, 1.0):
        for name in (*scaled, "draft_probs"):
            if name in row:
                value = torch.as_tensor(row[name]).double() * (1 + sign * MARGIN)
                top = 1.0 if name in ("top_p", "min_p") else torch.inf
                variants.append({name: value.clamp(max=top)})
        if "router" in row:
            packed = getattr(row["router"], "pack", lambda: row["router"])().clone()
            packed[..., -3:] += sign * 2 * MARGIN * packed[..., [2, 10, 18]].abs().clamp(min=0.5)
            variants.append({"router": packed})
        for columns in (slice(None, -1), slice(-1, None)):
            uniforms = row["uniform_samples"].clone()
            uniforms[:, columns] = (uniforms[:, columns] + sign * MARGIN).clamp(0.0, 1 - 2.0**-24)
            variants.append({"uniform_samples": uniforms})
    return any(
        not agrees(reference.verify(**{**row, **change}), expected, 0) for change in variants
    )


def agrees(result: Any, expected: Any, b: int) -> bool:
    """Equal decisions in row b, and log-probabilities within rounding."""
    if decisions(result, b) != decisions(expected, b):
        return False
    return torch.allclose(result.logprobs[b], expected.logprobs[b], rtol=1e-5, atol=1e-5)
