// SPDX-License-Identifier: Apache-2.0
// tree_attention on the CPU (via/tree_attention.h). A task is one (batch row, some key heads, tile
// of tokens): all query heads of a key head share each key and value that is read. The context is
// cut into parts of kPart positions, always at the same places, which idle threads may take over; a
// part has an online softmax of its own, and parts are merged in order. The tokens' own ancestors
// come last, from `key` and `value`. So a token's result depends on its context, its path and its
// window alone, not on the batch, the tile or the threads. Sums in float32.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "core/softmax.h"
#include "cpu/attention_tile.h"
#include "cpu/thread_pool.h"
#include "cpu/view.h"

namespace via {
namespace cpu {
namespace {

constexpr std::int64_t kPart = 8 * kAttentionBlock;
// Query rows per tile: their scores of one block and their sums stay in the second-level cache.
constexpr int kTileRows = 64;
// Bytes of one position that a task reads in one piece, where heads lie side by side.
constexpr int kPieceBytes = 2048;
// Query rows whose arithmetic takes as long as reading their keys and values.
constexpr double kRowsPerRead = 8.0;
constexpr double kLn2 = 0.69314718055994531;

void write_cache(const AttentionTile& tile) {
  const TreeAttentionParams& params = tile.params;
  const std::size_t bytes = params.head_dim * element_size(params.dtype);
  const auto write = [&](const TokenTensor& cache, const TokenTensor& tokens, int i, int head) {
    std::memcpy(locate(params, cache, tile.batch_idx, tile.row.context + i, head),
                token_data(params, tokens, tile.batch_idx, i, head), bytes);
  };
  for (int i = 0; i < tile.row.num_tokens; ++i) {
    for (int h = 0; h < tile.num_heads; ++h) {
      write(params.key_cache, params.key, i, tile.first_head + h);
      write(params.value_cache, params.value, i, tile.first_head + h);
    }
  }
}

// One query row of a token: acc / sum; without a state 0.
void write_row(const TreeAttentionParams& params, int batch_idx, int token, int head,
               const float* acc, float sum, float reference) {
  char* const out = token_data(params, params.out, batch_idx, token, head);
  float lse = kNegInf;
  if (acc == nullptr) {
    std::memset(out, 0, params.head_dim * element_size(params.dtype));
  } else {
    attention_kernels().narrow(acc, sum == 0.0f ? 1.0f : sum, params.head_dim, params.dtype, out);
    lse = static_cast<float>((std::log2(static_cast<double>(sum)) + reference) * kLn2);
  }
  if (params.lse == nullptr) return;
  params.lse[(std::int64_t{batch_idx} * params.num_tokens + token) * params.num_heads + head] = lse;
}

// Calls body(query row, token, query head) for every query row of the tile.
template <typename Body>
void for_each_row(const AttentionTile& tile, Body body) {
  for (int h = 0; h < tile.num_heads; ++h) {
    for (int i = 0; i < tile.num_tokens; ++i) {
      for (int g = 0; g < tile.group(); ++g) {
        body(tile.row_of(h, i) + g, tile.first_token + i, (tile.first_head + h) * tile.group() + g);
      }
    }
  }
}

void attend(const AttentionTile& tile) {
  thread_local std::vector<float> query_memory, state_memory;
  const TreeAttentionParams& params = tile.params;
  const int dim = params.head_dim;
  const AttentionKernels& kernels = attention_kernels();
  float* const queries = grow(query_memory, std::int64_t{tile.num_rows()} * dim);
  for_each_row(tile, [&](int r, int token, int head) {
    kernels.widen(token_data(params, params.query, tile.batch_idx, token, head), params.dtype, dim,
                  queries + std::int64_t{r} * dim);
  });
  const std::int64_t context = tile.row.context;
  const std::int64_t first_part = first_seen(context, params.window) / kPart;
  const auto num_parts = static_cast<int>((context + kPart - 1) / kPart - first_part);
  float* const memory = grow(state_memory, (num_parts + 1) * tile.state_size());
  const auto part_state = [&](int part) {
    return tile.state_in(memory + (part + 1) * tile.state_size());
  };
  for_each_part(num_parts, [&](int part) {
    const std::int64_t begin = (first_part + part) * kPart;
    tile.attend_cache(queries, begin, std::min(begin + kPart, context), part_state(part));
  });
  const AttentionState total = tile.state_in(memory);
  tile.clear(total);
  for (int part = 0; part < num_parts; ++part) {
    kernels.merge(tile.num_rows(), dim, total, part_state(part));
  }
  tile.attend_tree(queries, total);
  for_each_row(tile, [&](int r, int token, int head) {
    write_row(params, tile.batch_idx, token, head, total.acc + std::int64_t{r} * dim, total.sum[r],
              total.reference[r]);
  });
}

// Key heads per task.
int heads_together(const TreeAttentionParams& params) {
  if (params.key_cache.stride[2] > params.key_cache.stride[1]) return 1;
  const int bytes = params.head_dim * static_cast<int>(element_size(params.dtype));
  return std::clamp(kPieceBytes / bytes, 1, params.num_kv_heads);
}

}  // namespace
}  // namespace cpu

void tree_attention_cpu(const TreeAttentionParams& params) {
  using namespace cpu;
  std::vector<AttentionRow> rows;
  rows.reserve(params.batch_size);
  const int group = params.num_heads / params.num_kv_heads;
  double positions = 0.0;
  for (int b = 0; b < params.batch_size; ++b) {
    rows.emplace_back(params, b);
    positions += static_cast<double>(rows[b].context + rows[b].num_tokens);
  }
  // Many query rows make the arithmetic take longer than the reading.
  const double weight = std::max(1.0, params.num_tokens * group / kRowsPerRead);
  const double bytes = positions * params.num_kv_heads * params.head_dim * 8.0 * weight;
  const int tile_tokens = std::max(1, kTileRows / group);
  const int tiles = (params.num_tokens + tile_tokens - 1) / tile_tokens;
  const int heads = heads_together(params);
  const int tasks_per_row = (params.num_kv_heads + heads - 1) / heads * tiles;
  const int threads = useful_threads(params.num_threads, bytes);
  for_each_task(threads, params.batch_size * tasks_per_row, [&](int task) {
    const AttentionRow& row = rows[task / tasks_per_row];
    const int first_head = task % tasks_per_row / tiles * heads;
    const int first = task % tiles * tile_tokens;
    const int tokens = std::min(tile_tokens, params.num_tokens - first);
    AttentionTile tile{params,
                       row,
                       task / tasks_per_row,
                       first_head,
                       std::min(heads, params.num_kv_heads - first_head),
                       first,
                       std::clamp(row.num_tokens - first, 0, tokens)};
    if (first == 0) write_cache(tile);
    if (tile.num_tokens > 0) attend(tile);
    // The tokens that do not count.
    tile.first_token += tile.num_tokens;
    tile.num_tokens = tokens - tile.num_tokens;
    for_each_row(tile, [&](int, int token, int head) {
      write_row(params, tile.batch_idx, token, head, nullptr, 0.0f, 0.0f);
    });
  });
}

}  // namespace via
