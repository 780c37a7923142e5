// SPDX-License-Identifier: Apache-2.0
// tree_attention: the new tokens of a draft tree attend to a KV cache and to their own ancestors.
#pragma once

#include <cstddef>
#include <cstdint>

#include "via/types.h"

namespace via {

// At most this many new tokens per row: two 64-bit ancestor words.
inline constexpr int kMaxTreeTokens = 128;

// Four-dimensional tensor, dtype of the call. Strides count elements; the last dimension is
// contiguous and has no entry.
struct TokenTensor {
  void* data = nullptr;
  std::int64_t stride[3] = {0, 0, 0};  // row (or page), position, head
};

// Token i of row b stands at text position context_lens[b] + depth(i), where a root of the forest
// (parent -1) has depth 0. It sees the cache positions below context_lens[b], its ancestors and
// itself; with a window only positions > own position - window. Keys and values of the new tokens
// are written to the cache at positions context_lens[b] + i.
//
// out = sum_j softmax_j(score) value_j, score = cap(scale * query . key), cap(x) = softcap *
// tanh(x / softcap); accumulated in float32. Reductions run in an order that depends on a row's
// context_lens alone, so its result does not depend on the batch.
//
// A malformed row (parent not in [-1, i), context_lens negative or with its tokens beyond the
// capacity, a page outside the pool) writes nothing to the cache, out is 0 and lse -inf there.
struct TreeAttentionParams {
  std::int32_t batch_size = 0;    // B
  std::int32_t num_tokens = 0;    // M in [0, kMaxTreeTokens]
  std::int32_t num_heads = 0;     // Hq, a multiple of num_kv_heads
  std::int32_t num_kv_heads = 0;  // Hkv
  std::int32_t head_dim = 0;      // D in {64, 80, 96, 128, 256}
  DType dtype = DType::kFloat32;  // of query, key, value, caches and out

  TokenTensor query;        // [B, M, Hq, D]
  TokenTensor key;          // [B, M, Hkv, D], after RoPE
  TokenTensor value;        // [B, M, Hkv, D]
  TokenTensor key_cache;    // [B, S, Hkv, D] or [pages, page_size, Hkv, D]
  TokenTensor value_cache;  // like key_cache
  TokenTensor out;          // [B, M, Hq, D]
  float* lse = nullptr;     // [B, M, Hq] contiguous: log-sum-exp of the scores; may be null

  TensorView context_lens;       // [B] int32 or int64
  TensorView parents;            // [B, M] int32 or int64 ([M]: stride 0); none = chain
  TensorView token_counts;       // [B] int32 or int64: later tokens get out 0; none = M
  TensorView page_table;         // [B, max_pages] int32, or not given
  std::int32_t page_size = 0;    // power of two; paged only
  std::int64_t num_pages = 0;    // paged only
  std::int64_t capacity = 0;     // positions per row: S, or max_pages * page_size
  float scale = 0.0f;            // usually 1 / sqrt(D)
  float softcap = 0.0f;          // 0 = none
  std::int64_t window = 0;       // positions seen, the own one included; 0 = all
  std::int32_t num_threads = 0;  // CPU: 0 = one per core
  void* stream = nullptr;        // CUDA: cudaStream_t
};

// Runs on the host, synchronously. Sizes, dtypes and strides have been validated by the caller.
void tree_attention_cpu(const TreeAttentionParams& params);

// Queues the work on params.stream of the current device and returns. No host synchronisation; may
// be recorded in a CUDA graph. `workspace` (see tree_attention_workspace_size) is for one call at a
// time. Throws std::runtime_error for CUDA failures, or "built without CUDA".
void tree_attention_cuda(const TreeAttentionParams& params, void* workspace);

// Bytes of work space for sizes like these. The caller zeroes it once; every call leaves it zero,
// so calls of any operation and shape that fits may follow each other.
std::size_t tree_attention_workspace_size(const TreeAttentionParams& params);

}  // namespace via
