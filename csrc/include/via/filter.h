// SPDX-License-Identifier: Apache-2.0
// Filtered distributions: what verify compares drafts with, and what a drafter draws from.
#pragma once

#include <cstddef>
#include <cstdint>

#include "via/types.h"

namespace via {

// The sampling filters of one call, each a number or one per batch row.
// Order: grammar mask, temperature, top-k (keeps all ties of the k-th value), top-p (smallest set
// by probability descending then id ascending, mass before each kept token < top_p), min-p.
struct FilterParams {
  FloatParam temperature;  // finite >= 0; 0 = greedy
  IntParam top_k;          // >= 0; 0 = off
  FloatParam top_p;        // (0, 1]; 1 = off
  FloatParam min_p;        // [0, 1]; 0 = off
};

// probs[r] = filtered softmax(logits[r]); at temperature 0 one-hot at the argmax (lowest id on
// ties). If `token_ids` is set, one token per row is drawn: the smallest id t with
// cumsum(probs)[t] > u * sum(probs), u from Philox(seed[r]; position[r], column, purpose 2), the
// drafter's own stream. A row with no finite allowed logit gives one-hot at the lowest allowed id.
struct FilteredProbsParams {
  std::int32_t num_rows = 0;
  std::int32_t vocab_size = 0;
  TensorView logits;                       // [R, V] float32, float16 or bfloat16
  TensorView allowed;                      // [R, ceil(V/32)] int32 bit words, or not given
  const bool* allowed_rows = nullptr;      // [R] rows that `allowed` holds for; null = all
  FilterParams filter;                     // per-row entries have length R
  const std::int64_t* seed = nullptr;      // [R]; needed with token_ids at temperature > 0
  const std::int64_t* position = nullptr;  // [R]
  std::int32_t column = 0;
  float* probs = nullptr;                    // [R, V]; may be null if token_ids is set
  std::int64_t probs_stride = 0;             // elements from row to row; 0 = vocab_size
  const std::int64_t* probs_rows = nullptr;  // [R] row of `probs` that each goes to, all different;
                                             // -1 = the row is left out; null = its own
  std::int64_t* token_ids = nullptr;         // [R], or null
  std::int64_t token_ids_stride = 1;         // elements from row to row
  std::int32_t num_threads = 0;              // CPU: 0 = one per core
  void* stream = nullptr;                    // CUDA: cudaStream_t
};

// Runs on the host, synchronously.
void filtered_probs_cpu(const FilteredProbsParams& params);

// Queues the work on params.stream of the current device and returns; same results as
// filtered_probs_cpu. No host synchronisation; may be recorded in a CUDA graph. `workspace` (see
// filtered_probs_workspace_size) is for one call at a time. Throws std::runtime_error for CUDA
// failures, or "built without CUDA".
void filtered_probs_cuda(const FilteredProbsParams& params, void* workspace);

// Bytes of work space for sizes like these. The caller zeroes it once; every call leaves it zero.
std::size_t filtered_probs_workspace_size(const FilteredProbsParams& params);

}  // namespace via
