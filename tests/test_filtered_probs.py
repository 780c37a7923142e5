# SPDX-License-Identifier: Apache-2.0
"""filtered_probs and draft_sample: by hand, against the reference, and the law of the draws."""

import math

import pytest
import torch
from scipy import stats

from tests.simulation import is_simulated, scaled
from tests.verify_runner import mask_words
from via_ext import ops, reference

P = [0.1, 0.3, 0.05, 0.3, 0.2, 0.05]
CASES = [
    ({"temperature": 1.0}, P),
    ({"temperature": 0.5}, [p * p for p in P]),
    ({"temperature": 0.0}, [0, 1, 0, 0, 0, 0]),
    ({"temperature": 0.0, "top_k": 3, "min_p": 0.5}, [0, 1, 0, 0, 0, 0]),
    ({"top_k": 1}, [0, 1, 0, 1, 0, 0]),
    ({"top_k": 3}, [0, 3, 0, 3, 2, 0]),
    ({"top_p": 0.2}, [0, 1, 0, 0, 0, 0]),
    ({"top_p": 0.85}, [1, 3, 0, 3, 2, 0]),
    ({"min_p": 0.5}, [0, 3, 0, 3, 2, 0]),
    ({"min_p": 1.0}, [0, 1, 0, 1, 0, 0]),
    ({"top_k": 3, "top_p": 0.7}, [0, 1, 0, 1, 0, 0]),
]


@pytest.mark.parametrize(("arguments", "expected"), CASES)
def test_by_hand(device, arguments, expected):
    logits = torch.tensor([P], device=device).log()
    kept = logits.clone()
    result = ops.filtered_probs(logits, **arguments)
    wanted = torch.tensor([expected], dtype=torch.float64)
    wanted /= wanted.sum()
    torch.testing.assert_close(result.double().cpu(), wanted, rtol=1e-6, atol=1e-7)
    assert result.dtype == torch.float32 and torch.equal(logits, kept)
    by_reference = reference.filtered_probs(logits.cpu(), **arguments)
    torch.testing.assert_close(by_reference.double(), wanted, rtol=1e-6, atol=1e-7)


def random_filters(rows, generator):
    """Per-row parameters, each filter off in a part of the rows."""
    chosen = torch.rand(4, rows, generator=generator)
    values = torch.rand(4, rows, generator=generator)
    return {
        "temperature": torch.where(chosen[0] < 0.1, 0.0, 0.3 + 2 * values[0]),
        "top_k": torch.where(chosen[1] < 0.5, 0, (values[1] * 20).long() + 1),
        "top_p": torch.where(chosen[2] < 0.5, 1.0, values[2].clamp(min=1e-3)),
        "min_p": torch.where(chosen[3] < 0.5, 0.0, values[3] ** 2),
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("rows", "size"), [(200, 17), (60, 100), (12, 4099), (2, 65537)])
def test_against_the_reference(device, dtype, rows, size, generator):
    rows = scaled(rows, device, least=2)
    logits = (4 * torch.randn(rows, size, generator=generator)).to(dtype)
    filters = random_filters(rows, generator)
    masks = torch.rand(rows, size, generator=generator) < 0.8
    allowed = mask_words(masks)
    expected = reference.filtered_probs(logits, allowed=allowed, **filters)
    moved = {name: value.to(device) for name, value in filters.items()}
    result = ops.filtered_probs(logits.to(device), allowed=allowed.to(device), **moved).cpu()
    # A top-p or min-p cut within rounding of a token's place may go either way. Such a row is known
    # by a cut moved by 1e-6 relative that keeps other tokens; what may differ there is that little.
    stable = torch.ones(rows, dtype=torch.bool)
    for name in ("top_p", "min_p"):
        for factor in (1 - 1e-6, 1 + 1e-6):
            cut = torch.where(filters[name] < 1.0, filters[name] * factor, filters[name])
            near = reference.filtered_probs(logits, allowed=allowed, **{**filters, name: cut})
            stable &= ((near > 0) == (expected > 0)).all(-1)
    if size <= 100 and not is_simulated(device):
        assert stable.sum() >= 0.95 * rows
    assert torch.equal((result > 0)[stable], (expected > 0)[stable])
    torch.testing.assert_close(result[stable], expected[stable], rtol=2e-6, atol=1e-9)
    assert ((result - expected).abs().sum(-1) < 1e-5).all()
    torch.testing.assert_close(result.double().sum(-1), torch.ones(rows, dtype=torch.float64))
    assert (result[~masks] == 0).all()


def test_leading_dimensions_and_strides(device, generator):
    logits = torch.randn(4, 6, 3, 11, generator=generator)[::2, 1::2].to(device)
    expected = reference.filtered_probs(logits.cpu(), top_k=4)
    result = ops.filtered_probs(logits, top_k=4)
    assert result.shape == logits.shape and result.is_contiguous()
    torch.testing.assert_close(result.cpu(), expected)
    single = ops.filtered_probs(logits[0, 0, 0], top_k=4)
    torch.testing.assert_close(single.cpu(), expected[0, 0, 0])


def test_odd_rows(device):
    inf, nan = math.inf, math.nan
    logits = torch.tensor(
        [[nan, 1.0, 1.0], [0.0, inf, inf], [-inf] * 3, [nan] * 3, [1.0, 2.0, 3.0]]
    )
    masks = torch.tensor([[True] * 3, [True] * 3, [False, True, True], [True] * 3, [False] * 3])
    expected = torch.tensor([[0, 0.5, 0.5], [0, 1, 0], [0, 1, 0], [1, 0, 0], [1, 0, 0]])
    allowed = mask_words(masks)
    for run, place in [(ops.filtered_probs, device), (reference.filtered_probs, "cpu")]:
        result = run(logits.to(place), allowed=allowed.to(place))
        torch.testing.assert_close(result.cpu(), expected)


def test_draws_follow_the_reference(device, generator):
    rows = scaled(400, device, least=12)
    logits = torch.randn(rows, 23, generator=generator)
    arguments = {
        "seed": torch.randint(-(2**62), 2**62, (rows,), generator=generator),
        "position": torch.arange(rows) + 2**33,
        "temperature": torch.rand(rows, generator=generator) * 2,
        "top_p": 0.9,
    }
    moved = {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in arguments.items()}
    for column in (0, 5):
        tokens, probs = ops.draft_sample(logits.to(device), column=column, **moved)
        expected, expected_probs = reference.draft_sample(logits, column=column, **arguments)
        assert tokens.dtype == torch.int64
        torch.testing.assert_close(probs.cpu(), expected_probs, rtol=2e-6, atol=1e-9)
        # Every 24-bit uniform is a multiple of 6e-8; none of these falls within rounding of a step.
        assert torch.equal(tokens.cpu(), expected)


def test_temperature_zero_needs_no_seed(device):
    tokens, probs = ops.draft_sample(torch.tensor([P], device=device).log(), temperature=0.0)
    assert tokens.tolist() == [1]
    assert probs.tolist() == [[0, 1, 0, 0, 0, 0]]


def test_the_law_of_the_draws(device):
    # Fixed seeds; for a fresh choice a false alarm has probability 1e-6.
    rows = scaled(40_000, device)
    logits = torch.tensor([P], device=device).log().expand(rows, -1)
    seed = torch.full((rows,), 11, dtype=torch.int64, device=device)
    position = torch.arange(rows, device=device)
    tokens, _ = ops.draft_sample(logits, seed=seed, position=position)
    counts = tokens.cpu().bincount(minlength=6).double()
    expected = torch.tensor(P, dtype=torch.float64) * rows
    assert stats.chisquare(counts, expected).pvalue > 1e-6


DRAW = {"top_k": 9, "top_p": 0.9}


def drawn(device, generator, size=70):
    """Logits [3, V], and arguments of a draw at three temperatures."""
    rows = torch.arange(3, device=device)
    arguments = {"seed": rows, "position": rows + 5, **DRAW}
    arguments["temperature"] = torch.tensor([0.8, 0.0, 1.5], device=device)
    return torch.randn(3, size, generator=generator).to(device), arguments


@pytest.mark.parametrize("size", [70, 4097])
def test_tokens_alone_are_those_drawn_with_probs(device, generator, size):
    logits, arguments = drawn(device, generator, size)
    tokens, probs = ops.draft_sample(logits, **arguments)
    alone, nothing = ops.draft_sample(logits, return_probs=False, **arguments)
    assert nothing is None and torch.equal(alone, tokens)
    assert (probs.gather(1, tokens[:, None]) > 0).all()
    greedy, _ = ops.draft_sample(logits, temperature=0.0, return_probs=False)
    assert torch.equal(greedy, logits.argmax(-1))


def test_columns_of_buffers_as_outputs(device, generator):
    logits, arguments = drawn(device, generator)
    tokens, probs = ops.draft_sample(logits, **arguments)
    all_tokens = torch.full((3, 4), 77, device=device)
    all_probs = torch.full((3, 4, 70), 7.0, device=device)
    out = (all_tokens[:, 2], all_probs[:, 2])
    result = ops.draft_sample(logits, out=out, **arguments)
    assert result[0] is out[0] and result[1] is out[1]
    assert torch.equal(all_tokens[:, 2], tokens) and torch.equal(all_probs[:, 2], probs)
    ops.draft_sample(logits, return_probs=False, out=(all_tokens[:, 0], None), **arguments)
    assert torch.equal(all_tokens[:, 0], tokens)
    filters = {"temperature": arguments["temperature"], **DRAW}
    result = ops.filtered_probs(logits, out=all_probs[:, 1], **filters)
    assert torch.equal(result, probs) and torch.equal(all_probs[:, 1], probs)
    assert (all_tokens[:, [1, 3]] == 77).all() and (all_probs[:, [0, 3]] == 7).all()
    # Leading dimensions that merge: two rows of each of two requests.
    wide = torch.full((2, 2, 90), 7.0, device=device)
    rows = torch.randn(2, 2, 70, generator=generator).to(device)
    ops.filtered_probs(rows, top_p=0.7, out=wide[..., :70])
    assert torch.equal(wide[..., :70], ops.filtered_probs(rows, top_p=0.7))
    assert (wide[..., 70:] == 7).all()


def test_a_row_does_not_depend_on_its_batch(device, generator):
    logits, arguments = drawn(device, generator, 2500)
    tokens, probs = ops.draft_sample(logits, **arguments)
    for row in range(3):
        own = {k: v[row : row + 1] if k not in DRAW else v for k, v in arguments.items()}
        token, law = ops.draft_sample(logits[row : row + 1], **own)
        assert torch.equal(token, tokens[row : row + 1])
        assert torch.equal(law, probs[row : row + 1])


def test_compiled_calls_write_into_out(generator):
    def step(logits, tokens, probs):
        ops.draft_sample(logits, temperature=0.0, return_probs=False, out=(tokens[:, 0], None))
        ops.draft_sample(logits, temperature=0.0, out=(tokens[:, 1], probs[:, 1]))
        ops.filtered_probs(logits, top_p=0.8, out=probs[:, 0])

    logits = torch.randn(3, 50, generator=generator)
    expected, results = ((torch.full((3, 3), 77), torch.full((3, 3, 50), 7.0)) for _ in range(2))
    step(logits, *expected)
    torch.compile(step, fullgraph=True, backend="aot_eager")(logits, *results)
    assert all(map(torch.equal, results, expected))
