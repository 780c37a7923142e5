// SPDX-License-Identifier: Apache-2.0
// verify: from verifier logits to decisions (ratios, route, accept) for a batch of draft trees.
#pragma once

#include <cstddef>
#include <cstdint>

#include "via/filter.h"
#include "via/types.h"

namespace via {

// Outputs of verify, one array per field, contiguous, every element written. Also the input of
// `resume`, where the arrays are only read.
struct Verification {
  float* ratios = nullptr;               // [B, N]; null for rules greedy and sample
  std::uint8_t* tiers = nullptr;         // [B, N]; null for rules greedy and sample
  std::int32_t* path = nullptr;          // [B, N] accepted nodes in order, padded -1
  std::int32_t* num_accepted = nullptr;  // [B]
  std::int64_t* next_token = nullptr;    // [B]; -1 when escalating
  std::int32_t* next_row = nullptr;      // [B] logits row that next_token came from
  bool* escalate = nullptr;              // [B]
  float* logprobs = nullptr;             // [B, N+1] accepted tokens, then the next one; padded 0
  std::int32_t* status = nullptr;        // [B] Status bits
};

// Row 0 of `logits` follows the root (the last committed token), row i+1 follows node i.
struct VerifyParams {
  std::int32_t batch_size = 0;        // B >= 1
  std::int32_t num_nodes = 0;         // N in [0, kMaxNodes]
  std::int32_t vocab_size = 0;        // V >= 1
  std::int32_t draft_vocab_size = 0;  // columns of draft_probs; = V without draft_to_target
  Rule rule = Rule::kGreedy;

  TensorView draft_token_ids;  // [B, N] int32 or int64; -1 = no node
  TensorView logits;           // [B, N+1, V] float32, float16 or bfloat16
  TensorView parents;          // [B, N] int32 or int64 ([N]: stride 0), -1 = root; none = chain
  TensorView node_counts;      // [B] int32 or int64, stride[0] used; none = N for every row
  TensorView draft_probs;      // [B, N, V_draft] distribution node i was drawn from; none = one-hot
  bool draft_probs_are_logits = false;  // true: softmax of them, as they are
  TensorView draft_to_target;           // [V_draft] int32 or int64 id map, or not given
  TensorView allowed;                  // [B, N+1, ceil(V/32)] int32 grammar bit words, or not given
  const bool* allowed_rows = nullptr;  // [B, N+1] rows that `allowed` holds for; null = all
  std::int64_t allowed_rows_stride = 0;  // elements from request to request
  TensorView uniform_samples;            // [B, N+1] float32 in [0, 1), or not given
  TensorView seed;                       // [B] int64, or not given
  TensorView position;                   // [B] int64, or not given

  FloatParam accept_threshold;    // tau_accept
  FloatParam escalate_threshold;  // tau_escalate <= tau_accept
  FloatParam draft_threshold;     // used if use_draft_threshold
  bool use_draft_threshold = false;
  RouterParam router;  // rule route: decides in place of the thresholds if use_router
  bool use_router = false;
  TensorView draft_scores;  // [B, N, 2] float32: ln p(v) and ln p1 - ln p2 of the drafter, for the
                            // router; none = these two features are 0
  FilterParams filter;

  // Other verifiers' layouts and rules (via_ext.compat); the defaults change nothing. An offset is
  // where a row starts, in elements from `data`, instead of by strides; the caller keeps it inside.
  const std::int64_t* logits_offsets = nullptr;  // [B, N+1], or null
  const std::int64_t* draft_offsets = nullptr;   // [B, N], or null
  bool logits_are_probs = false;  // logits holds probabilities, used as they stand: not normalised,
                                  // NaN and negative = 0. Rules greedy and sample, without filters
  float threshold_single = 1.0f;  // one-hot drafts: accept a child also if q(child) >= it, and
  float threshold_acc = 1.0f;     // if u < (sum of q over the children so far) / it; lossy below 1
  float* coins = nullptr;         // [B, N+1] out: the acceptance coin of every column, or null

  const Verification* resume = nullptr;  // decisions to continue from, or null
  Verification out;

  std::int32_t num_threads = 0;  // CPU: 0 = one per core
  void* stream = nullptr;        // CUDA: cudaStream_t
};

// Runs on the host, synchronously. The caller has validated sizes, dtypes and scalars; values in
// the arrays are checked here and reported in out.status.
void verify_cpu(const VerifyParams& params);

// Queues the work on params.stream of the current device and returns; same results as verify_cpu.
// Arrays and `workspace` are device memory, and stay alive and untouched until the work is done. No
// host synchronisation; may be recorded in a CUDA graph. `workspace` (see verify_workspace_size) is
// for one call at a time. Throws std::runtime_error for CUDA failures, or "built without CUDA".
void verify_cuda(const VerifyParams& params, void* workspace);

// Bytes of work space that verify_cuda needs for sizes like these. The caller zeroes it once; every
// call leaves it zero, so calls of any shape that fits may follow each other.
std::size_t verify_workspace_size(const VerifyParams& params);

}  // namespace via
