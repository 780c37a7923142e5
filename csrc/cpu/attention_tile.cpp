// SPDX-License-Identifier: Apache-2.0
#include "cpu/attention_tile.h"

#include <algorithm>

#include "core/softmax.h"
#include "cpu/view.h"

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

// The rows of one head of a cache, position after position.
class CacheCursor {
 public:
  CacheCursor(const AttentionTile& tile, const TokenTensor& cache, int head, std::int64_t position)
      : tile_(tile), cache_(cache), head_(head), position_(position) {
    step_ = cache.stride[1] * static_cast<std::int64_t>(element_size(tile.params.dtype));
  }

  const char* next() {
    const TreeAttentionParams& params = tile_.params;
    const bool new_page = params.page_table.data != nullptr && position_ % params.page_size == 0;
    if (row_ == nullptr || new_page) {
      row_ = locate(params, cache_, tile_.batch_idx, position_, head_);
    } else {
      row_ += step_;
    }
    ++position_;
    return row_;
  }

 private:
  const AttentionTile& tile_;
  const TokenTensor& cache_;
  const int head_;
  std::int64_t position_;
  std::int64_t step_;
  const char* row_ = nullptr;
};

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
  const int bytes = params.head_dim * static_cast<int>(element_size(params.dtype));
  clear(state);
  // Heads innermost: they lie side by side in most caches.
  for (std::int64_t start = begin; start < end; start += kAttentionBlock) {
    const std::int64_t stop = std::min(start + kAttentionBlock, end);
    for (int h = 0; h < num_heads; ++h) {
      // Below `furthest` nothing is read: its page may be gone.
      const std::int64_t first = std::max(start, furthest);
      CacheCursor key(*this, params.key_cache, first_head + h, first);
      CacheCursor value(*this, params.value_cache, first_head + h, first);
      for (std::int64_t at = first; at < stop; ++at) {
        rows.set(static_cast<int>(at - start), key.next(), value.next());
      }
      if (nearest <= start) {
        const int count = static_cast<int>(stop - start);
        AttentionBlock block = make_block(rows.key_row, rows.value_row, count);
        // The next rows of this head lie too far away for the processor to see the pattern.
        const char* ahead[2 * kAttentionBlock];
        const auto num_ahead =
            static_cast<int>(std::min<std::int64_t>(end - stop, kAttentionBlock));
        for (int i = 0; i < num_ahead; ++i) {
          ahead[2 * i] = key.next();
          ahead[2 * i + 1] = value.next();
        }
        block.ahead = ahead;
        block.ahead_count = 2 * num_ahead;
        block.ahead_bytes = bytes;
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
