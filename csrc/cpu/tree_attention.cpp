// SPDX-License-Identifier: Apache-2.0
// tree_attention on the CPU (via/tree_attention.h). A task is one (batch row, key head, tile of
// tokens): all query heads of the key head share each key and value that is read. The context is
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
constexpr double kLn2 = 0.69314718055994531;

void write_cache(const TreeAttentionParams& params, const AttentionRow& row, int batch_idx,
                 int head) {
  const std::size_t bytes = params.head_dim * element_size(params.dtype);
  for (int i = 0; i < row.num_tokens; ++i) {
    std::memcpy(locate(params, params.key_cache, batch_idx, row.context + i, head),
                token_data(params, params.key, batch_idx, i, head), bytes);
    std::memcpy(locate(params, params.value_cache, batch_idx, row.context + i, head),
                token_data(params, params.value, batch_idx, i, head), bytes);
  }
}

// One token of a tile; without a state (null reference): 0 and -inf.
void write_token(const AttentionTile& tile, int token, const AttentionState& state) {
  const TreeAttentionParams& params = tile.params;
  const int own = tile.first_token + token;
  for (int g = 0; g < tile.group(); ++g) {
    const int head = tile.head * tile.group() + g;
    char* const out = token_data(params, params.out, tile.batch_idx, own, head);
    float lse = kNegInf;
    if (state.reference == nullptr) {
      std::memset(out, 0, params.head_dim * element_size(params.dtype));
    } else {
      const int r = token * tile.group() + g;
      const float sum = state.sum[r];
      attention_kernels().narrow(state.acc + std::int64_t{r} * params.head_dim,
                                 sum == 0.0f ? 0.0f : 1.0f / sum, params.head_dim, params.dtype,
                                 out);
      lse = static_cast<float>((std::log2(static_cast<double>(sum)) + state.reference[r]) * kLn2);
    }
    if (params.lse == nullptr) continue;
    params.lse[(std::int64_t{tile.batch_idx} * params.num_tokens + own) * params.num_heads + head] =
        lse;
  }
}

void attend_tile(AttentionTile& tile) {
  thread_local std::vector<float> query_memory, state_memory;
  const TreeAttentionParams& params = tile.params;
  AttentionQueries& queries = tile.queries;
  queries = {nullptr, tile.num_tokens * tile.group(), params.head_dim, params.scale,
             params.softcap};
  float* const rows = grow(query_memory, std::int64_t{queries.rows} * queries.dim);
  for (int r = 0; r < queries.rows; ++r) {
    const char* const from =
        token_data(params, params.query, tile.batch_idx, tile.first_token + r / tile.group(),
                   tile.head * tile.group() + r % tile.group());
    attention_kernels().widen(from, params.dtype, queries.dim,
                              rows + std::int64_t{r} * queries.dim);
  }
  queries.data = rows;
  const std::int64_t context = tile.row.context;
  const std::int64_t first_part = first_seen(context, params.window) / kPart;
  const auto num_parts = static_cast<int>((context + kPart - 1) / kPart - first_part);
  float* const memory = grow(state_memory, (std::max(num_parts, 0) + 1) * tile.state_size());
  for_each_part(num_parts, [&](int part) {
    const std::int64_t begin = (first_part + part) * kPart;
    tile.attend_cache(begin, std::min(begin + kPart, context),
                      tile.state_in(memory + (part + 1) * tile.state_size()));
  });
  const AttentionState total = tile.state_in(memory);
  tile.clear(total);
  for (int part = 0; part < num_parts; ++part) {
    attention_kernels().merge(queries.rows, queries.dim, total,
                              tile.state_in(memory + (part + 1) * tile.state_size()));
  }
  tile.attend_tree(total);
  for (int i = 0; i < tile.num_tokens; ++i) write_token(tile, i, total);
}

}  // namespace
}  // namespace cpu

void tree_attention_cpu(const TreeAttentionParams& params) {
  using namespace cpu;
  std::vector<AttentionRow> rows;
  rows.reserve(params.batch_size);
  double bytes = 0.0;
  for (int b = 0; b < params.batch_size; ++b) {
    rows.emplace_back(params, b);
    bytes += static_cast<double>(rows[b].context) * params.num_kv_heads * params.head_dim * 8.0;
  }
  const int group = params.num_heads / params.num_kv_heads;
  const int tile_tokens = std::max(1, kTileRows / group);
  const int tiles = (params.num_tokens + tile_tokens - 1) / tile_tokens;
  const int threads = useful_threads(params.num_threads, bytes);
  const int tasks_per_row = params.num_kv_heads * tiles;
  for_each_task(threads, params.batch_size * tasks_per_row, [&](int task) {
    const int b = task / tasks_per_row;
    const int head = task % tasks_per_row / tiles;
    const int first = task % tiles * tile_tokens;
    const int tokens = std::min(tile_tokens, params.num_tokens - first);
    const int live = std::clamp(rows[b].num_tokens - first, 0, tokens);
    AttentionTile tile{params, rows[b], b, head, first, live, {}};
    if (first == 0) write_cache(params, rows[b], b, head);
    for (int i = live; i < tokens; ++i) write_token(tile, i, {});
    if (live > 0) attend_tile(tile);
  });
}

}  // namespace via
