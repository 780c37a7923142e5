# SPDX-License-Identifier: Apache-2.0
"""Bad arguments of the drop-ins: the type of the error, its text, and nothing written."""

import re
from types import SimpleNamespace

import pytest
import torch

from via_ext.compat import flashinfer, sglang, vllm

B, K, N, V, S = 2, 3, 4, 6, 3
IDS = torch.zeros(B, K, dtype=torch.int64)
FLASHINFER = {
    "draft_probs": torch.full((B, K, V), 1 / V),
    "draft_token_ids": IDS,
    "target_probs": torch.full((B, K + 1, V), 1 / V),
}
COUNTER = torch.zeros(B, dtype=torch.int32)
TREE = {
    "predicts": torch.full((B * N,), 7, dtype=torch.int32),
    "accept_index": torch.full((B, S), 7, dtype=torch.int32),
    "accept_token_num": torch.full((B,), 7, dtype=torch.int32),
    "candidates": torch.zeros(B, N, dtype=torch.int64),
    "retrive_index": torch.arange(B * N).view(B, N),
    "retrive_next_token": torch.tensor([[1, 2, 3, -1]] * B),
    "retrive_next_sibling": torch.full((B, N), -1),
}
SGLANG = {
    **TREE,
    "uniform_samples": torch.zeros(B, N),
    "uniform_samples_for_final_sampling": torch.zeros(B),
    "target_probs": torch.full((B, N, V), 1 / V),
}
GREEDY = {**TREE, "target_predict": torch.zeros(B, N, dtype=torch.int64)}
SAMPLING = SimpleNamespace(
    all_greedy=False, all_random=False, temperature=torch.ones(B), generators={}
)
V1 = {
    "draft_token_ids": torch.zeros(5, dtype=torch.int32),
    "num_draft_tokens": [2, 3],
    "max_spec_len": 3,
    "cu_num_draft_tokens": torch.tensor([2, 5]),
    "draft_probs": torch.full((5, V), 1 / V),
    "target_probs": torch.full((5, V), 1 / V),
    "bonus_token_ids": torch.zeros(B, 1, dtype=torch.int64),
    "sampling_metadata": SAMPLING,
}
V2 = {
    "target_logits": torch.zeros(7, V),
    "draft_logits": torch.zeros(4, K, V),
    "draft_sampled": torch.zeros(7, dtype=torch.int64),
    "cu_num_logits": torch.tensor([0, 3, 7]),
    "pos": torch.arange(7),
    "idx_mapping": torch.tensor([0, 2]),
    "expanded_idx_mapping": torch.tensor([0, 0, 0, 2, 2, 2, 2]),
    "expanded_local_pos": torch.tensor([0, 1, 2, 0, 1, 2, 3]),
    "temperature": torch.ones(4),
    "seed": torch.arange(4),
    "num_speculative_steps": K,
}
META = torch.device("meta")
LONG = torch.zeros(1, 128, dtype=torch.int64)

FUNCTIONS = {
    "chain_speculative_sampling": (flashinfer.chain_speculative_sampling, FLASHINFER),
    "tree_speculative_sampling_target_only": (
        sglang.tree_speculative_sampling_target_only,
        SGLANG,
    ),
    "verify_tree_greedy": (sglang.verify_tree_greedy, GREEDY),
    "v1": (vllm.v1.rejection_sample, V1),
    "v2": (vllm.v2.rejection_sample, V2),
}
CHAIN, TREES, WALK = list(FUNCTIONS)[:3]

# Function, argument, its value, the error's text: after the argument's name if it starts with
# "must".
TYPE_ERRORS = [
    (CHAIN, "draft_token_ids", [[1]], "must be a tensor, got list"),
    (CHAIN, "draft_token_ids", IDS.float(), "must be int32 or int64, got torch.float32"),
    (
        CHAIN,
        "target_probs",
        torch.ones(B, K + 1, V, dtype=torch.int64),
        "must be floating point, got torch.int64",
    ),
    (
        CHAIN,
        "maybe_output_accepted_token_num",
        torch.zeros(B),
        "must be int32 or int64, got torch.float32",
    ),
    (CHAIN, "seed", 1.5, "must be an integer or int64, got float"),
    (CHAIN, "seed", True, "must be an integer or int64, got bool"),
    (CHAIN, "seed", COUNTER, "must be an integer or int64, got torch.int32"),
    (TREES, "candidates", 3, "must be a tensor, got int"),
    (TREES, "retrive_next_token", torch.zeros(B, N), "must be int32 or int64, got torch.float32"),
    (TREES, "retrive_next_sibling", None, "must be a tensor, got NoneType"),
    (TREES, "predicts", torch.zeros(8), "must be int32 or int64, got"),
    (
        TREES,
        "uniform_samples_for_final_sampling",
        IDS[:, 0],
        "must be floating point, got torch.int64",
    ),
    (TREES, "threshold_single", "1", "must be a number, got str"),
    ("v1", "target_probs", None, "must be a tensor, got NoneType"),
    ("v1", "num_draft_tokens", torch.tensor([2, 3]), "must be a list of integers, got Tensor"),
    ("v1", "max_spec_len", 3.0, "must be an integer, got float"),
    ("v2", "num_speculative_steps", "3", "must be an integer,"),
    ("v2", "seed", torch.ones(4), "must be int32 or int64, got torch.float32"),
    (
        "v2",
        "temperature",
        torch.ones(4, dtype=torch.int64),
        "must be floating point, got torch.int64",
    ),
    ("v2", "expanded_idx_mapping", None, "must be a tensor, got"),
]
VALUE_ERRORS = [
    (CHAIN, "draft_token_ids", IDS[0], "must have shape [B, K], got [3]"),
    (CHAIN, "draft_token_ids", LONG, "draft_token_ids.shape[1] must be at most 127, got 128"),
    (CHAIN, "target_probs", torch.ones(B, K, V), "must have shape [B, K+1, V], got [2, 3, 6]"),
    (CHAIN, "target_probs", IDS, "must have shape [B, K+1, V], got"),
    (CHAIN, "target_probs", torch.ones(B, K + 1, 0), "must have a vocabulary, got shape [2, 4, 0]"),
    (
        CHAIN,
        "draft_probs",
        torch.ones(B, K, V + 1),
        "must have shape [B, K, V] = [2, 3, 6], got [2, 3, 7]",
    ),
    (
        CHAIN,
        "draft_probs",
        torch.ones(B, K, V, device=META),
        "must be on cpu as draft_token_ids is, got meta",
    ),
    (
        CHAIN,
        "maybe_output_emitted_draft_token_num",
        COUNTER[:1],
        "must have shape [B] = [2], got [1]",
    ),
    (CHAIN, "offset", 3, "seed must be given with offset, got None"),
    (CHAIN, "seed", torch.arange(3), "must have length 1 or 2, got [3]"),
    (
        TREES,
        "candidates",
        torch.zeros(B, 0, dtype=torch.int64),
        "must have the root's column, got shape [2, 0]",
    ),
    (
        WALK,
        "candidates",
        torch.zeros(B, 129, dtype=torch.int64),
        "candidates.shape[1] must be at most 128, got 129",
    ),
    (WALK, "retrive_index", IDS, "must have shape [B, N] = [2, 4], got [2, 3]"),
    (
        WALK,
        "predicts",
        torch.zeros(16, dtype=torch.int32)[::2],
        "must be contiguous, got strides (2,)",
    ),
    (
        WALK,
        "accept_index",
        torch.zeros(B, 0, dtype=torch.int32),
        "must have the root's column, got shape [2, 0]",
    ),
    (
        TREES,
        "accept_token_num",
        torch.zeros(3, dtype=torch.int32),
        "must have shape [B] = [2], got [3]",
    ),
    (TREES, "target_probs", torch.ones(B, 3, V), "must have shape [B, N, V], got [2, 3, 6]"),
    (TREES, "uniform_samples", torch.zeros(B, 3), "must have shape [B, N] = [2, 4], got [2, 3]"),
    (TREES, "threshold_single", 1.5, "must be in [0, 1], got 1.5"),
    (TREES, "threshold_acc", -0.1, "must be in [0, 1], got -0.1"),
    (TREES, "threshold_acc", float("nan"), "must be in [0, 1], got nan"),
    (WALK, "target_predict", IDS, "must have shape [B, N] = [2, 4], got [2, 3]"),
    ("v1", "target_probs", IDS.float()[0], "must have shape [T, V], got"),
    (
        "v1",
        "draft_token_ids",
        torch.zeros(4, dtype=torch.int32),
        "must have shape [T] = [5], got [4]",
    ),
    ("v1", "max_spec_len", 2, "must be at least 3, got 2"),
    ("v1", "max_spec_len", 128, "must be at most 127, got 128"),
    ("v1", "cu_num_draft_tokens", torch.tensor([0, 2, 5]), "must have shape [B] = [2], got [3]"),
    ("v1", "draft_probs", torch.ones(5, V - 1), "must have shape [T, V] = [5, 6], got [5, 5]"),
    (
        "v1",
        "bonus_token_ids",
        torch.zeros(B, 2, dtype=torch.int64),
        "must have shape [B, 1] or [B] = [2, 1], got [2, 2]",
    ),
    (
        "v1",
        "sampling_metadata",
        SimpleNamespace(all_greedy=0, all_random=0, temperature=None),
        "sampling_metadata.temperature must be given unless all_greedy or all_random, got None",
    ),
    ("v2", "synthetic_conditional_rates", torch.ones(K), "must be None, got rates"),
    ("v2", "use_block_verification", True, "must be False, got True"),
    ("v2", "num_speculative_steps", 128, "must be at most 127, got 128"),
    ("v2", "num_speculative_steps", -1, "must be at least 0,"),
    ("v2", "pos", torch.arange(6), "must have shape [n] = [7], got [6]"),
    ("v2", "cu_num_logits", torch.tensor([0, 7]), "must have shape [B+1] = [3], got [2]"),
    (
        "v2",
        "draft_logits",
        torch.zeros(4, K + 1, V),
        "must have shape [R, K, V_draft], got [4, 4, 6]",
    ),
]


@pytest.mark.parametrize(
    ("name", "argument", "value", "text", "error"),
    [(*case, TypeError) for case in TYPE_ERRORS] + [(*case, ValueError) for case in VALUE_ERRORS],
)
def test_bad_arguments(name, argument, value, text, error):
    function, arguments = FUNCTIONS[name]
    op = "rejection_sample" if name in ("v1", "v2") else name
    text = f"{argument} {text}" if text.startswith("must") else text
    with pytest.raises(error, match=re.escape(f"{op}: {text}")):
        function(**{**arguments, argument: value})
    for output in list(TREE.values())[:3]:
        assert (output == 7).all()


def test_seed_and_offset_are_of_one_kind():
    text = "seed and offset must both be integers or tensors, got int and Tensor"
    with pytest.raises(ValueError, match=text):
        flashinfer.chain_speculative_sampling(**FLASHINFER, seed=1, offset=torch.arange(2))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_arguments_are_good_unchanged(name):
    function, arguments = FUNCTIONS[name]
    extra = {"seed": 3} if name == CHAIN else {}
    own = {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in arguments.items()}
    function(**own, **extra)
