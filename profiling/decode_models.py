# SPDX-License-Identifier: Apache-2.0
"""What bench_decode.py decodes with: the embedded pair, or models of a shape with made-up weights.

Random weights alone would give a drafter that agrees with its target never, and a target whose
argmax depends on rounding. So the weights are made to speak: the embedding dominates the residual
stream, and the row of the LM head that fits token x is the row of next(x), where `next` walks all
ids in a random circle. The drafter's head holds the same circle, except that a seeded share of the
ids has its successors exchanged: there the drafter is wrong. Every pass is that of an ordinary
model of the shape, dense matrices throughout, so ours and transformers' own assisted generation run
the same two models, with equal cost per draft and the same drafts accepted. What is synthetic is
which tokens come out, and how often a draft is right; no quality can be read off.

At every other id where the drafter is wrong, the target gives the wrong token a ratio of about 0.6:
there a slim verifier regenerates under the default thresholds; at the rest it escalates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from decode_shapes import SHAPES, Shape

from via_ext import SlimRoute, demo

SYNTHETIC = "weights, drafter, acceptance, route"
LOGIT = 15.0  # of the right token; in bfloat16, steps of 1/16 up to 16
NEAR = 0.51  # logits between the right token and a near miss: a ratio of 0.6
NOISE = 0.05  # of all sublayers together, relative to the embedding


@dataclass
class Subject:
    """Models and prompts of one shape.

    Attributes:
        target: verified by.
        drafter: drafted with, an ordinary `transformers` model.
        route: of the slim verifier.
        prompts: token ids on the CPU, [T] int64 each.
        successor: [V] the target's own next token, None for trained models.
        drafted: [V] the drafter's.
    """

    name: str
    target: Any
    drafter: Any
    route: SlimRoute
    prompts: list[torch.Tensor]
    drafter_name: str
    synthetic: str = ""
    agreement: float | None = None
    successor: torch.Tensor | None = None
    drafted: torch.Tensor | None = None

    def drafts_right(self, new_tokens: int) -> float | None:
        """Share of the tokens to come, over all prompts, that the drafter gets right."""
        if self.successor is None or self.drafted is None:
            return None
        right = self.successor == self.drafted
        token = torch.stack([prompt[-1] for prompt in self.prompts])
        count = 0
        for _ in range(new_tokens):
            count += int(right[token].sum())
            token = self.successor[token]
        return count / (new_tokens * len(self.prompts))


def make_walk(
    vocab_size: int, agreement: float, seed: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A random circle through all ids, and a drafter's version of it.

    Returns:
        The successors, the drafter's successors (a permutation too), and the ids where the drafter
        is wrong, in the order in which their successors are exchanged.
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(vocab_size, generator=generator)
    successor = torch.empty_like(order)
    successor[order] = order.roll(-1)
    chance = torch.rand(vocab_size, generator=generator)
    wrong = order[chance[order] >= agreement]
    wrong = wrong[torch.randperm(len(wrong), generator=generator)]
    drafted = successor.clone()
    drafted[wrong] = successor[wrong.roll(-1)]
    return successor, drafted, wrong


@torch.no_grad()
def make_model(shape: Shape, successor: torch.Tensor, device: str, seed: int) -> Any:
    """A model of the shape that continues x with successor[x], in eval mode on the device."""
    from transformers import LlamaForCausalLM

    dtype = getattr(torch, shape.dtype)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model = LlamaForCausalLM(shape.config()).eval().requires_grad_(False)
    finally:
        torch.set_default_dtype(before)
    generator = torch.Generator(device).manual_seed(seed)
    written = NOISE * shape.num_hidden_layers**-0.5
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            parameter.fill_(1.0)
        else:
            gain = written if "o_proj" in name or "down_proj" in name else 1.0
            std = 1.0 if "embed" in name else gain * parameter.shape[1] ** -0.5
            parameter.normal_(std=std, generator=generator)
    embedding, head = model.get_input_embeddings().weight, model.lm_head.weight
    head[successor.to(device)] = embedding * (LOGIT / shape.hidden_size)
    model.generation_config.eos_token_id = None
    return model


@torch.no_grad()
def add_near_misses(model: Any, ids: torch.Tensor, drafted: torch.Tensor) -> None:
    """Lets drafted[x] have a logit NEAR below the best one after each x of `ids`."""
    embedding, head = model.get_input_embeddings().weight, model.lm_head.weight
    ids = ids.to(head.device)
    rows = drafted.to(head.device)[ids]
    states = embedding[ids].float()
    squares = states.square().sum(1)
    # What the final norm leaves of an embedding, and of the logits of its best token.
    scale = (states.shape[1] / squares).sqrt()
    best = LOGIT / states.shape[1] * squares * scale
    present = (head[rows].float() * states).sum(1) * scale
    head[rows] += ((best - NEAR - present) / (squares * scale))[:, None].mul(states).to(head.dtype)


def random_subject(
    name: str,
    device: str,
    *,
    agreement: float = 0.8,
    prompts: int = 4,
    prompt_tokens: int = 64,
    seed: int = 0,
) -> Subject:
    """Target and drafter of a shape, on the device.

    Args:
        name: of `decode_shapes.TARGETS`.
        device: "cpu" or "cuda".
        agreement: probability per token that the drafter proposes the target's own.
        prompts: number of prompts, random ids.
        prompt_tokens: length of each.
        seed: of weights, circle, errors and prompts.
    """
    shape = SHAPES[name]
    successor, drafted, wrong = make_walk(shape.vocab_size, agreement, seed)
    target = make_model(shape, successor, device, seed + 1)
    # A near miss's row gains a part that is noise for the id whose successor it is: the next wrong
    # one, which is no near miss itself.
    near = wrong[: len(wrong) // 2 * 2 : 2]
    add_near_misses(target, near, drafted)
    drafter = make_model(SHAPES[shape.drafter], drafted, device, seed + 2)
    generator = torch.Generator().manual_seed(seed)
    size = (prompts, prompt_tokens)
    ids = torch.randint(shape.vocab_size, size, generator=generator)
    route = SlimRoute.evenly(shape.num_hidden_layers)
    return Subject(
        name, target, drafter, route, list(ids), shape.drafter, SYNTHETIC, agreement, successor,
        drafted,
    )  # fmt: skip


def pair_subject(device: str, prompts: int | None = None) -> Subject:
    """The embedded pair, float32, with the demo's prompts, the longest first; no token ends a text.

    Longest first: a static cache and the session on CUDA keep the room of their first run.
    """
    pair = demo.load()
    texts = [prompt.text for prompt in demo.prompts()[:prompts]]
    ids = [torch.tensor(pair.tokenizer.encode(text), dtype=torch.int64) for text in texts]
    ids.sort(key=len, reverse=True)
    models = [model.to(device) for model in (pair.target, pair.drafter)]
    for model in models:
        model.generation_config.eos_token_id = None
    return Subject("pair", *models, pair.route, ids, "its own")


def make_subject(name: str, device: str, agreement: float, prompts: int | None) -> Subject:
    """The subject of a name that --shapes takes."""
    if name == "pair":
        return pair_subject(device, prompts)
    return random_subject(name, device, agreement=agreement, prompts=prompts or 4)
