// SPDX-License-Identifier: Apache-2.0
// The tokens and key heads of one batch row that are computed together, and what they attend to.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/attention.h"
#include "cpu/attention_row.h"

namespace via::cpu {

// Memory that a thread keeps from call to call.
inline float* grow(std::vector<float>& memory, std::int64_t size) {
  if (static_cast<std::int64_t>(memory.size()) < size) memory.resize(size);
  return memory.data();
}

struct AttentionTile {
  const TreeAttentionParams& params;
  const AttentionRow& row;
  int batch_idx;
  int first_head, num_heads;    // of the keys
  int first_token, num_tokens;  // none beyond the row's count

  int group() const { return params.num_heads / params.num_kv_heads; }
  // Query rows: head after head, token after token, query head after query head.
  int row_of(int head_idx, int token) const { return (head_idx * num_tokens + token) * group(); }
  int num_rows() const { return row_of(num_heads, 0); }
  std::int64_t first_seen_by(int token) const {
    return first_seen(row.context + row.depth[first_token + token], params.window);
  }
  // Floats that a state of all rows takes.
  std::int64_t state_size() const { return std::int64_t{num_rows()} * (params.head_dim + 2); }
  AttentionState state_in(float* memory) const {
    return {memory, memory + num_rows(), memory + 2 * num_rows()};
  }
  void clear(const AttentionState& state) const;

  // Starts a state with the cache positions [begin, end).
  void attend_cache(const float* queries, std::int64_t begin, std::int64_t end,
                    const AttentionState& state) const;
  // Adds the new tokens to it: to each its ancestors and itself.
  void attend_tree(const float* queries, const AttentionState& state) const;

 private:
  // `count` rows from `first` on meet a block.
  void attend_rows(const float* queries, int first, int count, const AttentionBlock& block,
                   const AttentionState& state, float* scores) const;
};

}  // namespace via::cpu
