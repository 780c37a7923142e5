# SPDX-License-Identifier: Apache-2.0
"""A model whose `generate` is bound to this package, called as evaluation harnesses call it."""

import functools

import pytest
import torch

pytest.importorskip("transformers")

import transformers

import via_ext
from via_ext import demo


class Lines(transformers.StoppingCriteria):
    """Ends a row after three lines, as harnesses end it at a stop sequence."""

    def __init__(self, tokenizer, prompt):
        self.tokenizer, self.prompt = tokenizer, prompt

    def __call__(self, input_ids, scores, **_):
        texts = [self.tokenizer.decode(row[self.prompt :]) for row in input_ids]
        return torch.tensor([text.count("\n") >= 3 for text in texts])


@pytest.mark.parametrize("batch", [1, 2])
def test_a_bound_generate_gives_the_harness_the_same_tokens(batch):
    pair = demo.load()
    prompts = [pair.tokenizer(text.text)["input_ids"] for text in demo.prompts()[:batch]]
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(row)) + row for row in prompts])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in prompts])

    def call(generate):
        criteria = transformers.StoppingCriteriaList([Lines(pair.tokenizer, width)])
        return generate(
            input_ids=ids, attention_mask=mask, max_length=width + 16, use_cache=True,
            stopping_criteria=criteria, pad_token_id=0, do_sample=False,
        )  # fmt: skip

    expected = call(pair.target.generate)
    results = []
    pair.target.generate = functools.partial(
        pair.target.generate,
        custom_generate=via_ext.custom_generate,
        drafter=pair.drafter,
        config=via_ext.ViaConfig(mode="exact"),
        results=results,
    )
    found = call(pair.target.generate)
    new = found[0, width:].tolist()
    assert torch.equal(found[0], expected[0]) and 0 < len(new) <= 16
    assert results[0].stats.drafted > 0
    for row in range(batch):
        # A row that has ended is padded; plain generate may go on writing to it.
        length = int(results[0].lengths[row]) - len(prompts[row])
        same = expected[row, width : width + length]
        assert torch.equal(found[row, width : width + length], same)
