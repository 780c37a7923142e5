// SPDX-License-Identifier: Apache-2.0
// Launching compact_kv: column widths, the table of caches, the number of blocks. Compiled by nvcc
// for the GPU and by the host compiler for the simulation.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cuda/compact_kv.cuh"

namespace via {
namespace compact {

// Launches for caches [0, num_caches) of `views`; those without bytes are left out.
template <int kCaches>
void launch_caches(const CompactKvParams& call, const PathEntries& entries, const CacheView* views,
                   int num_caches, std::int64_t wanted_blocks) {
  KernelParams<kCaches> params;
  params.entries = entries;
  const bool paged = call.page_table.data != nullptr;
  const std::int64_t rows = paged ? call.num_pages : call.batch_size;
  int count = 0;
  std::int64_t most_columns = 0;
  for (int i = 0; i < num_caches; ++i) {
    if (views[i].num_heads == 0 || views[i].head_bytes == 0) continue;
    const CacheEntry entry = params.caches[count++] = make_entry(views[i], rows);
    const std::int64_t columns = entry.num_heads * entry.head_columns;
    most_columns = std::max(most_columns, columns);
  }
  if (count == 0) return;
  // As many blocks per row as its columns feed, but no more than fill the device: a block that
  // loops costs less than one that starts.
  const std::int64_t most_chunks = (most_columns + kThreads - 1) / kThreads;
  const std::int64_t chunks = wanted_blocks / (std::int64_t{call.batch_size} * count);
  params.entries.num_chunks =
      static_cast<std::int32_t>(std::clamp<std::int64_t>(chunks, 1, most_chunks));
  const dim3 grid(call.batch_size * params.entries.num_chunks, count);
  LAUNCH(compact_kv_kernel<kCaches>, grid, dim3(kThreads), 0,
         static_cast<prim::Stream>(call.stream), params);
}

}  // namespace compact

// One launch per kMostCaches caches. `wanted_blocks`: how many fill the device.
inline void launch_compact_kv(const CompactKvParams& params, std::int64_t wanted_blocks) {
  if (params.batch_size == 0 || params.num_nodes == 0) return;
  compact::PathEntries entries;
  entries.context_lens = params.context_lens;
  entries.path = params.path;
  entries.num_accepted = params.num_accepted;
  entries.page_table = params.page_table;
  entries.capacity = params.capacity;
  entries.num_pages = params.num_pages;
  entries.num_nodes = params.num_nodes;
  while ((std::int64_t{1} << entries.page_shift) < params.page_size) ++entries.page_shift;
  for (int begin = 0; begin < params.num_caches; begin += compact::kMostCaches) {
    const int count = std::min(params.num_caches - begin, compact::kMostCaches);
    auto* const launch = count <= compact::kFewCaches ? &compact::launch_caches<compact::kFewCaches>
                         : count <= compact::kModelCaches
                             ? &compact::launch_caches<compact::kModelCaches>
                             : &compact::launch_caches<compact::kMostCaches>;
    launch(params, entries, params.caches + begin, count, wanted_blocks);
  }
}

}  // namespace via
