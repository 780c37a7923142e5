// SPDX-License-Identifier: Apache-2.0
#include "cpu/attention_tile.h"

#include <algorithm>

#include "core/softmax.h"

namespace via::cpu {
namespace {

// Keys and values of a block as float32 rows: the caller's own, or widened copies.
class BlockRows {
 public:
  BlockRows(const TreeAttentionParams& params, std::vector<float>& memory, int capacity)
      : dim_(params.head_dim), dtype_(params.dtype) {
    if (dtype_ == DType::kFloat32) return;
    keys_ = grow(memory, std::int64_t{2} * capacity * dim_);
    values_ = keys_ + std::int64_t{capacity} * dim_;
  }

  void set(int idx, const char* key, const char* value) {
    key_row[idx] = float_row(key, keys_, idx);
    value_row[idx] = float_row(value, values_, idx);
  }

  const float* key_row[kMaxTreeTokens];
  const float* value_row[kMaxTreeTokens];

 private:
  const float* float_row(const char* from, float* copies, int idx) const {
    if (dtype_ == DType::kFloat32) return reinterpret_cast<const float*>(from);
    float* const copy = copies + std::int64_t{idx} * dim_;
    attention_kernels().widen(from, dtype_, dim_, copy);
    return copy;
  }

  const int dim_;
  const DType dtype_;
  float* keys_ = nullptr;
  float* values_ = nullptr;
};

// Copies of pointers, filled up to a multiple of 16 with the last one.
AttentionBlock make_block(const float** keys, const float** values, int count) {
  for (int i = count; i % 16 != 0; ++i) {
    keys[i] = keys[count - 1];
    values[i] = values[count - 1];
  }
  return {keys, values, count};
}

}  // namespace

void AttentionTile::clear(const AttentionState& state) const {
  const int rows = num_rows();
  std::fill(state.reference, state.reference + rows, kNegInf);
  std::fill(state.sum, state.sum + rows, 0.0f);
  std::fill(state.acc, state.acc + std::int64_t{rows} * params.head_dim, 0.0f);
}

void AttentionTile::attend_rows(const float* queries, int first, int count,
                                const AttentionBlock& block, const AttentionState& state,
                                float* scores) const {
  const std::int64_t offset = std::int64_t{first} * params.head_dim;
  attention_kernels().attend(
      {queries + offset, count, params.head_dim, params.scale, params.softcap}, block,
      {state.reference + first, state.sum + first, state.acc + offset}, scores);
}

void AttentionTile::attend_cache(const float* queries, std::int64_t begin, std::int64_t end,
                                 const AttentionState& state) const {
  thread_local std::vector<float> block_memory, score_memory;
  const int head_rows = row_of(1, 0);
  float* const scores = grow(score_memory, std::int64_t{head_rows} * kAttentionBlock);
  BlockRows rows(params, block_memory, kAttentionBlock);
  std::int64_t nearest = 0;  // from here on every token sees all
  std::int64_t furthest = end;
  for (int i = 0; i < num_tokens; ++i) {
    nearest = std::max(nearest, first_seen_by(i));
    furthest = std::min(furthest, first_seen_by(i));
  }
  clear(state);
  // Heads innermost: they lie side by side in most caches.
  for (std::int64_t start = begin; start < end; start += kAttentionBlock) {
    const std::int64_t stop = std::min(start + kAttentionBlock, end);
    for (int h = 0; h < num_heads; ++h) {
      // Below `furthest` nothing is read: its page may be gone.
      for (std::int64_t at = std::max(start, furthest); at < stop; ++at) {
        rows.set(static_cast<int>(at - start),
                 locate(params, params.key_cache, batch_idx, at, first_head + h),
                 locate(params, params.value_cache, batch_idx, at, first_head + h));
      }
      if (nearest <= start) {
        const int count = static_cast<int>(stop - start);
        const AttentionBlock block = make_block(rows.key_row, rows.value_row, count);
        attend_rows(queries, row_of(h, 0), head_rows, block, state, scores);
        continue;
      }
      for (int i = 0; i < num_tokens; ++i) {
        const std::int64_t from = std::max(start, first_seen_by(i));
        if (from >= stop) continue;
        const AttentionBlock block =
            make_block(rows.key_row + (from - start), rows.value_row + (from - start),
                       static_cast<int>(stop - from));
        attend_rows(queries, row_of(h, i), group(), block, state, scores);
      }
    }
  }
}

void AttentionTile::attend_tree(const float* queries, const AttentionState& state) const {
  thread_local std::vector<float> token_memory, score_memory;
  float* const scores = grow(score_memory, std::int64_t{group()} * kAttentionBlock);
  BlockRows tokens(params, token_memory, kMaxTreeTokens);
  const int last = first_token + num_tokens;
  for (int h = 0; h < num_heads; ++h) {
    for (int j = 0; j < last; ++j) {
      tokens.set(j, token_data(params, params.key, batch_idx, j, first_head + h),
                 token_data(params, params.value, batch_idx, j, first_head + h));
    }
    // Every token has a list of its own.
    for (int i = 0; i < num_tokens; ++i) {
      const int own = first_token + i;
      const float* keys[kAttentionBlock];
      const float* values[kAttentionBlock];
      int count = 0;
      for (int j = 0; j <= own; ++j) {
        if (row.path[own].has(j) && row.context + row.depth[j] >= first_seen_by(i)) {
          keys[count] = tokens.key_row[j];
          values[count] = tokens.value_row[j];
          ++count;
        }
        if (count == kAttentionBlock || (j == own && count > 0)) {
          attend_rows(queries, row_of(h, i), group(), make_block(keys, values, count), state,
                      scores);
          count = 0;
        }
      }
    }
  }
}

}  // namespace via::cpu
