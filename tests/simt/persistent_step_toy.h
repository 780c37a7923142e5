// SPDX-License-Identifier: Apache-2.0
// In place of the model's passes a function of verifier, row, position and token id. A pass writes
// its tokens' ids into caches and hidden rows, and the tail finds them there: rows that are moved
// wrongly, or not, show in what is decoded.
#pragma once

#include <cstdint>

#include "persistent_step_world.h"

namespace via::testing {

inline constexpr int kHiddenSize = 64;
inline constexpr int kLayers = 2;
inline constexpr int kHeadBytes = 32;  // one head of 16 elements

// Token i of row b in a pass: thread `thread` of `threads`.
VIA_HD void toy_token(const persistent::ModelArgs& model, const CacheView* caches, PassKind kind,
                      const PassInput& input, int b, int i, int thread, int threads) {
  const std::int64_t at = std::int64_t{b} * input.width + i;
  const persistent::Buffers& buffers = model.buffers;
  const int id =
      kind == PassKind::kTail
          ? static_cast<int>(
                buffers.hidden[(std::int64_t{b} * buffers.hidden_rows + i) * kHiddenSize])
          : static_cast<int>(input.token_ids[at]);
  const int position = input.contexts[b] + input.depths[at];
  if (kind == PassKind::kSlim || kind == PassKind::kPrefix) {
    float* const hidden = buffers.hidden + input.hidden_index[at] * kHiddenSize;
    for (int k = thread; k < kHiddenSize; k += threads) hidden[k] = static_cast<float>(id);
  }
  for (int c = thread; c < 2 * kLayers; c += threads) {
    char* const row = static_cast<char*>(caches[c].data) + b * caches[c].stride_bytes[0] +
                      (input.contexts[b] + i) * caches[c].stride_bytes[1];
    for (int k = 0; k < kHeadBytes / 4; ++k) reinterpret_cast<std::int32_t*>(row)[k] = id + 1 + c;
  }
  if (kind == PassKind::kPrefix) return;
  const bool is_slim = kind == PassKind::kSlim;
  const int vocab_size = model.shape.vocab_size;
  const int wanted = preferred(is_slim, b, position, vocab_size);
  const std::uint32_t row_key = mix(mix(b, position), 2 * id + is_slim);
  for (int v = thread; v < vocab_size; v += threads) {
    const float noise = static_cast<float>(mix(row_key, v) >> 8) * 0x1p-22f;
    buffers.logits[at * vocab_size + v] = noise + (v == wanted ? 12.0f : 0.0f);
  }
}

// The memory that such passes work on.
struct ToyMemory {
  ToyMemory(StepMemory& memory, const StepParams& step, int vocab);

  persistent::ModelArgs model;
  CacheView* caches;
  std::int64_t cache_count, hidden_count;
  char* cache_bytes;
};

inline ToyMemory::ToyMemory(StepMemory& memory, const StepParams& step, int vocab) {
  const int rows = step.batch_size;
  model.shape.vocab_size = vocab;
  model.shape.hidden_size = kHiddenSize;
  model.shape.num_layers = kLayers;
  model.shape.num_heads = model.shape.num_kv_heads = 1;  // for the size of the work space alone
  model.shape.head_dim = 64;
  model.batch_size = rows;
  model.cache.capacity = step.capacity;
  model.buffers.rows = rows * step.tail_width;
  model.buffers.hidden_rows = 2 + step.max_backlog + step.num_nodes;
  model.buffers.logits = memory.take<float>(std::int64_t{model.buffers.rows} * vocab);
  hidden_count = std::int64_t{rows} * model.buffers.hidden_rows * kHiddenSize;
  model.buffers.hidden = memory.take<float>(hidden_count + 4);
  cache_count = std::int64_t{rows} * step.capacity * kHeadBytes;
  cache_bytes = memory.take<char>(2 * kLayers * cache_count);
  caches = memory.take<CacheView>(2 * kLayers);
  for (int c = 0; c < 2 * kLayers; ++c) {
    caches[c] = {cache_bytes + c * cache_count,
                 {std::int64_t{step.capacity} * kHeadBytes, kHeadBytes, kHeadBytes},
                 1,
                 kHeadBytes};
  }
  model.control = memory.take<persistent::Control>(1);
  model.watchdog_ns = 60'000'000'000ull;
}

}  // namespace via::testing
