// SPDX-License-Identifier: Apache-2.0
// The tokens of one batch row and key head that are computed together, and what they attend to.
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
  int batch_idx, head;          // head of the keys
  int first_token, num_tokens;  // none beyond the row's count
  AttentionQueries queries;     // num_tokens * group() rows

  int group() const { return params.num_heads / params.num_kv_heads; }
  std::int64_t first_seen_by(int token) const {
    return first_seen(row.context + row.depth[first_token + token], params.window);
  }
  // Floats that a state takes.
  std::int64_t state_size() const { return std::int64_t{queries.rows} * (queries.dim + 2); }
  AttentionState state_in(float* memory) const {
    return {memory, memory + queries.rows, memory + 2 * queries.rows};
  }
  void clear(const AttentionState& state) const;

  // Starts a state with the cache positions [begin, end).
  void attend_cache(std::int64_t begin, std::int64_t end, const AttentionState& state) const;
  // Adds the new tokens to it: to each its ancestors and itself.
  void attend_tree(const AttentionState& state) const;

 private:
  void attend_token(int token, const AttentionBlock& block, const AttentionState& state,
                    float* scores) const;
};

}  // namespace via::cpu
