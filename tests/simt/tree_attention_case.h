// SPDX-License-Identifier: Apache-2.0
// Random calls of tree_attention and what they must give, for tree_attention_main.cpp.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <random>
#include <vector>

#include "gpu_or_simt.h"
#include "tree_attention_formats.h"
#include "via/tree_attention.h"

namespace via::testing {

inline std::mt19937 random_bits;
inline int below(int n) { return static_cast<int>(random_bits() % static_cast<unsigned>(n)); }
inline bool one_in(int n) { return below(n) == 0; }

// [rows, positions, heads, D] with gaps, in the order [B, S, H, D] or [B, H, S, D], NaN at first.
template <typename T>
struct Tensor {
  Tensor(std::int64_t rows, std::int64_t positions, std::int64_t heads, int head_dim) {
    const int step = one_in(4) ? 1 : 16 / static_cast<int>(sizeof(T));
    const auto gap = [&] { return one_in(2) ? 0 : step * below(3); };
    const std::int64_t start = gap();
    if (one_in(2)) {
      view.stride[1] = head_dim + gap();
      view.stride[2] = positions * view.stride[1] + gap();
      view.stride[0] = heads * view.stride[2] + gap();
    } else {
      view.stride[2] = head_dim + gap();
      view.stride[1] = heads * view.stride[2] + gap();
      view.stride[0] = positions * view.stride[1] + gap();
    }
    memory = std::make_unique<DeviceBuffer<T>>(start + rows * view.stride[0]);
    view.data = memory->data() + start;
  }
  T* at(std::int64_t row, std::int64_t position, std::int64_t head) const {
    return static_cast<T*>(view.data) + row * view.stride[0] + position * view.stride[1] +
           head * view.stride[2];
  }
  void draw(std::int64_t row, std::int64_t position, std::int64_t head, int head_dim) const {
    for (int d = 0; d < head_dim; ++d) {
      narrow_to(static_cast<float>(random_bits() >> 8) * 0x1p-23f - 1.0f,
                at(row, position, head)[d]);
    }
  }
  TokenTensor view;
  std::unique_ptr<DeviceBuffer<T>> memory;
};

template <typename T>
struct Case {
  explicit Case(int head_dim);
  void draw_rows();
  void draw_values();
  // Where a position of the cache lies; row -1 if nowhere.
  std::pair<std::int64_t, std::int64_t> place(int row, std::int64_t position) const {
    if (table == nullptr) return {row, position};
    const std::int64_t page = (*table)[row * pages_per_row + position / p.page_size];
    return {page < 0 || page >= p.num_pages ? -1 : page, position % p.page_size};
  }
  int parent(int row, int token) const {
    return has_parents ? static_cast<int>((*parents)[row * p.num_tokens + token]) : token - 1;
  }

  // The same row in a call of its own.
  struct Out {
    Out(const Case& given, int row)
        : p(given.p),
          count(given.counts[row]),
          out(1, count, p.num_heads, p.head_dim),
          lse(static_cast<std::size_t>(count) * p.num_heads) {
      const auto shift = [&](TokenTensor& tensor) {
        tensor.data = static_cast<T*>(tensor.data) + row * tensor.stride[0];
      };
      shift(p.query);
      shift(p.key);
      shift(p.value);
      if (given.table == nullptr) {
        shift(p.key_cache);
        shift(p.value_cache);
      } else {
        p.page_table.data = given.table->data() + row * given.pages_per_row;
      }
      p.batch_size = 1;
      p.num_tokens = count;
      p.token_counts = {};
      p.context_lens.data = given.contexts->data() + row;
      if (given.has_parents) p.parents.data = given.parents->data() + row * given.p.num_tokens;
      p.out = out.view;
      p.lse = lse.data();
    }
    bool equals(const Case& given, int row) {
      bool same = true;
      for (int i = 0; i < count * p.num_heads; ++i) {
        const int token = i / p.num_heads, head = i % p.num_heads;
        same &= same_bits(lse[i], (*given.lse)[row * given.p.num_tokens * p.num_heads + i]);
        for (int d = 0; d < p.head_dim; ++d) {
          same &= same_bits(out.at(0, token, head)[d], given.out->at(row, token, head)[d]);
        }
      }
      return same;
    }
    TreeAttentionParams p;
    int count;
    Tensor<T> out;
    DeviceBuffer<float> lse;
  };

  TreeAttentionParams p;
  int pages_per_row = 0;
  bool has_parents = one_in(2);
  std::vector<int> counts;
  std::unique_ptr<Tensor<T>> query, key, value, key_cache, value_cache, out;
  std::unique_ptr<DeviceBuffer<float>> lse;
  std::unique_ptr<DeviceBuffer<std::int64_t>> contexts, parents;
  std::unique_ptr<DeviceBuffer<std::int32_t>> token_counts, table;
};

#if defined(__SANITIZE_THREAD__)
constexpr bool kHasWide = false;  // 60000 threads take long
#else
constexpr bool kHasWide = true;
#endif

template <typename T>
Case<T>::Case(int head_dim) {
  const bool is_long = one_in(6);  // partial results meet at two levels
  // Few splits per row: a context may be cut into more of them than a longer one.
  const bool is_wide = kHasWide && !is_long && one_in(6);
  p.batch_size = is_long || is_wide ? 1 : 1 + below(3);
  p.num_kv_heads = is_long ? 1 : is_wide ? 24 : 1 + below(2);
  const int groups[] = {1, 4, 8, 3};
  p.num_heads = p.num_kv_heads * (is_wide ? 1 : groups[below(4)]);
  p.num_tokens = is_wide ? 1 + below(2) : one_in(8) ? 66 : 1 + below(is_long ? 3 : 13);
  p.head_dim = head_dim;
  p.dtype = dtype_of(T{});
  p.capacity = is_long ? 2300 : is_wide ? 641 + below(64) : 16 + below(one_in(2) ? 80 : 420);
  p.capacity = std::max<std::int64_t>(p.capacity, p.num_tokens);
  p.scale = 1.0f / std::sqrt(static_cast<float>(head_dim));
  p.scale *= static_cast<float>(1 + below(8));
  if (one_in(3)) p.softcap = 1.0f + static_cast<float>(below(3));
  if (one_in(3)) p.window = 1 + below(one_in(2) ? 12 : 200);
  const int batch = p.batch_size, tokens = p.num_tokens;
  query = std::make_unique<Tensor<T>>(batch, tokens, p.num_heads, head_dim);
  key = std::make_unique<Tensor<T>>(batch, tokens, p.num_kv_heads, head_dim);
  value = std::make_unique<Tensor<T>>(batch, tokens, p.num_kv_heads, head_dim);
  out = std::make_unique<Tensor<T>>(batch, tokens, p.num_heads, head_dim);
  std::int64_t rows = batch, positions = p.capacity;
  if (one_in(2)) {
    p.page_size = 1 << below(5);
    pages_per_row = static_cast<int>((p.capacity + p.page_size - 1) / p.page_size);
    p.capacity = std::int64_t{pages_per_row} * p.page_size;
    p.num_pages = rows = std::int64_t{batch} * pages_per_row + 1;
    positions = p.page_size;
    table = std::make_unique<DeviceBuffer<std::int32_t>>(batch * pages_per_row);
    for (int i = 0; i < batch * pages_per_row; ++i) (*table)[i] = i + 1;
    std::shuffle(table->begin(), table->end(), random_bits);
    p.page_table = {table->data(), DType::kInt32, {pages_per_row}};
  }
  key_cache = std::make_unique<Tensor<T>>(rows, positions, p.num_kv_heads, head_dim);
  value_cache = std::make_unique<Tensor<T>>(rows, positions, p.num_kv_heads, head_dim);
  lse = std::make_unique<DeviceBuffer<float>>(batch * tokens * p.num_heads);
  p.query = query->view;
  p.key = key->view;
  p.value = value->view;
  p.key_cache = key_cache->view;
  p.value_cache = value_cache->view;
  p.out = out->view;
  p.lse = lse->data();
  draw_rows();
  draw_values();
}

// Contexts, counts and trees, now and then malformed.
template <typename T>
void Case<T>::draw_rows() {
  const int batch = p.batch_size, tokens = p.num_tokens;
  const bool is_ragged = one_in(2);
  contexts = std::make_unique<DeviceBuffer<std::int64_t>>(batch);
  token_counts = std::make_unique<DeviceBuffer<std::int32_t>>(batch);
  parents = std::make_unique<DeviceBuffer<std::int64_t>>(batch * tokens);
  for (int b = 0; b < batch; ++b) {
    counts.push_back(is_ragged ? below(tokens + 1) : tokens);
    if (is_ragged && one_in(12)) counts.back() = one_in(2) ? -1 : tokens + 1;
    (*token_counts)[b] = counts.back();
    const int room = static_cast<int>(p.capacity) - std::clamp(counts.back(), 0, tokens);
    const bool is_full = p.capacity > 2000 && one_in(2);
    (*contexts)[b] = is_full ? room : one_in(6) ? 0 : below(room + 1);
    if (p.num_kv_heads > 2 && one_in(2)) (*contexts)[b] = std::min(room, 513 + below(127));
    if (one_in(15)) (*contexts)[b] = one_in(2) ? -1 : room + 1;
    for (int i = 0; i < tokens; ++i) {
      (*parents)[b * tokens + i] = one_in(2) ? i - 1 : below(i + 1) - 1;
    }
    if (one_in(12)) (*parents)[b * tokens + below(tokens)] = one_in(2) ? tokens : -2;
    if (table != nullptr && one_in(8)) {
      (*table)[b * pages_per_row + below(pages_per_row)] =
          one_in(2) ? -1 : static_cast<int>(p.num_pages);
    }
  }
  p.context_lens = {contexts->data(), DType::kInt64, {1}};
  if (is_ragged) p.token_counts = {token_counts->data(), DType::kInt32, {1}};
  if (has_parents) p.parents = {parents->data(), DType::kInt64, {tokens}};
}

// Positions behind the context stay NaN; so does a value of one token now and then.
template <typename T>
void Case<T>::draw_values() {
  for (int b = 0; b < p.batch_size; ++b) {
    for (int i = 0; i < p.num_tokens; ++i) {
      for (int h = 0; h < p.num_heads; ++h) query->draw(b, i, h, p.head_dim);
    }
    for (int h = 0; h < p.num_kv_heads; ++h) {
      for (int i = 0; i < p.num_tokens; ++i) {
        key->draw(b, i, h, p.head_dim);
        if (!one_in(20)) value->draw(b, i, h, p.head_dim);
      }
      for (std::int64_t s = 0; s < std::min((*contexts)[b], p.capacity); ++s) {
        const auto [row, position] = place(b, s);
        if (row < 0) continue;
        key_cache->draw(row, position, h, p.head_dim);
        value_cache->draw(row, position, h, p.head_dim);
      }
    }
  }
}

}  // namespace via::testing

#include "tree_attention_expected.h"
