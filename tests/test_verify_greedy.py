# SPDX-License-Identifier: Apache-2.0
"""Rule greedy by hand: the child equal to the argmax, else the argmax."""

import pytest
import torch

from tests.verify_runner import decisions, log_rows, mask_words, same_bits


def rows_with_argmax(tokens, size=8, dtype=torch.float32):
    """[1, len(tokens), size] logits whose rows have these argmaxes."""
    logits = torch.arange(size).flip(0).expand(len(tokens), size).to(dtype).clone()
    logits[torch.arange(len(tokens)), torch.tensor(tokens)] = 9.0
    return logits[None]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("id_dtype", [torch.int32, torch.int64])
def test_chain(verify, dtype, id_dtype):
    ids = torch.tensor([[1, 2, 3]], dtype=id_dtype)
    for target, kept, token in [
        ([1, 2, 3, 4], 3, 4),
        ([1, 2, 5, 4], 2, 5),
        ([1, 5, 3, 4], 1, 5),
        ([0, 2, 3, 4], 0, 0),
    ]:
        logits = rows_with_argmax(target, dtype=dtype)
        result = verify(ids, logits, rule="greedy")
        assert result.num_accepted.tolist() == [kept]
        assert result.path.tolist() == [list(range(kept)) + [-1] * (3 - kept)]
        assert result.next_token.tolist() == [token]
        assert result.next_row.tolist() == [kept]
        assert result.escalate.tolist() == [False]
        assert result.ratios is None and result.tiers is None
        taken = torch.tensor([*target[:kept], token])
        expected = logits[0, : kept + 1].float().log_softmax(-1).gather(1, taken[:, None])[:, 0]
        torch.testing.assert_close(result.logprobs[0, : kept + 1], expected)
        assert result.logprobs[0, kept + 1 :].tolist() == [0.0] * (3 - kept)


def test_tree(verify):
    # 0 and 1 under the root, 2 and 3 under 0, 4 under 1, 5 under 4.
    parents = torch.tensor([-1, -1, 0, 0, 1, 4])
    ids = torch.tensor([[1, 2, 3, 4, 5, 6]])
    logits = rows_with_argmax([2, 3, 5, 7, 7, 6, 7])
    result = verify(ids, logits, rule="greedy", parents=parents)
    assert result.path.tolist() == [[1, 4, 5, -1, -1, -1]]
    assert result.next_token.tolist() == [7]
    assert result.next_row.tolist() == [6]
    other = verify(ids, rows_with_argmax([1, 4, 0, 0, 6, 0, 0]), rule="greedy", parents=parents)
    assert other.path.tolist() == [[0, 3, -1, -1, -1, -1]]
    assert other.next_token.tolist() == [6]
    assert other.next_row.tolist() == [4]


def test_of_equal_siblings_the_first_is_taken(verify):
    parents = torch.tensor([-1, -1, 0, 1])
    result = verify(
        torch.tensor([[3, 3, 4, 5]]),
        rows_with_argmax([3, 5, 5, 0, 0]),
        rule="greedy",
        parents=parents,
    )
    # Node 0 leads to token 4, which is not the argmax; its twin is not tried again.
    assert result.path.tolist() == [[0, -1, -1, -1]]
    assert result.next_token.tolist() == [5]


def test_parents_per_row_and_ragged_counts(verify):
    ids = torch.tensor([[1, 2, 3]] * 4)
    logits = rows_with_argmax([1, 2, 3, 4]).expand(4, -1, -1)
    parents = torch.tensor([[-1, 0, 1], [-1, -1, 0], [-1, 0, 1], [-1, 0, 1]], dtype=torch.int32)
    counts = torch.tensor([3, 3, 1, 0])
    result = verify(ids, logits, rule="greedy", parents=parents, num_nodes=counts)
    assert result.path.tolist() == [[0, 1, 2], [0, -1, -1], [0, -1, -1], [-1, -1, -1]]
    assert result.next_token.tolist() == [4, 2, 2, 1]
    assert result.next_row.tolist() == [3, 1, 1, 0]


def test_ties_go_to_the_lowest_id(verify):
    logits = torch.zeros(1, 2, 70)
    logits[0, :, 30:] = 2.0
    result = verify(torch.tensor([[31]]), logits, rule="greedy")
    assert result.num_accepted.tolist() == [0]
    assert result.next_token.tolist() == [30]
    result = verify(torch.tensor([[30]]), logits, rule="greedy")
    assert result.num_accepted.tolist() == [1]


def test_mask(verify):
    masks = torch.ones(1, 2, 40, dtype=torch.bool)
    masks[0, 0, 7] = False
    masks[0, 1, :33] = False
    logits = rows_with_argmax([7, 1], size=40)
    result = verify(torch.tensor([[0]]), logits, rule="greedy", allowed=mask_words(masks))
    # Row 0 without token 7: token 0. Row 1 from id 33 on: token 33, alone of eight.
    assert result.path.tolist() == [[0]]
    assert result.next_token.tolist() == [33]
    masked = logits[0].masked_fill(~masks[0], -torch.inf).log_softmax(-1)
    torch.testing.assert_close(result.logprobs[0], torch.stack([masked[0, 0], masked[1, 33]]))


def test_temperature_and_filters_show_in_the_logprobs_only(verify):
    logits = log_rows([0.1, 0.6, 0.3], [0.3, 0.3, 0.4], [0.2, 0.5, 0.3])
    ids = torch.tensor([[1, 0]])
    plain = verify(ids, logits, rule="greedy")
    hot = verify(
        ids,
        logits,
        rule="greedy",
        temperature=0.5,
        top_k=2,
        uniform_samples=torch.full((1, 3), 0.99),
    )
    # top-k 2 of (.3, .3, .4) keeps the tie: all three; squared, the rows are .36:.09 and .16:.34.
    assert decisions(hot, 0) == decisions(plain, 0)
    assert hot.path.tolist() == [[0, -1]] and hot.next_token.tolist() == [2]
    torch.testing.assert_close(plain.logprobs[0, :2], torch.tensor([0.6, 0.4]).log())
    torch.testing.assert_close(hot.logprobs[0, :2], torch.tensor([0.36 / 0.45, 0.16 / 0.34]).log())


@pytest.mark.parametrize("rule", ["route", "greedy", "sample"])
def test_strided_inputs(verify, rule, generator):
    ids = torch.randint(0, 9, (6, 8), generator=generator)[::2, 3:7]
    logits = torch.randn(3, 10, 2, 9, generator=generator)[:, ::2, 1]
    uniforms = torch.rand(3, 20, generator=generator)[:, 7:12]
    parents = torch.tensor([[-1, 0, 0, 1, -1, -1, -1]] * 3)[:, :4]
    probs = torch.rand(3, 4, 2, 9, generator=generator)[:, :, 1]
    arrays = {"uniform_samples": uniforms, "parents": parents, "draft_probs": probs}
    strided = verify(ids, logits, rule=rule, **arrays)
    arrays = {name: value.contiguous() for name, value in arrays.items()}
    dense = verify(ids.contiguous(), logits.contiguous(), rule=rule, **arrays)
    assert same_bits(tuple(strided), tuple(dense))


@pytest.mark.parametrize("size", [1, 2, 31, 32, 33, 1023, 4097, 65535, 65536, 65537])
def test_vocabulary_sizes(verify, size):
    # The argmax at both ends and in the middle, so that no tail is left out.
    for token in {0, size // 2, size - 1}:
        logits = torch.linspace(0, -1, size).expand(1, 2, size).clone()
        logits[0, :, token] = 3.0
        result = verify(torch.tensor([[token]]), logits, rule="greedy")
        assert result.num_accepted.tolist() == [1]
        assert result.next_token.tolist() == [token]
        expected = logits[0].log_softmax(-1)[:, token]
        torch.testing.assert_close(result.logprobs[0], expected, rtol=1e-5, atol=1e-5)
