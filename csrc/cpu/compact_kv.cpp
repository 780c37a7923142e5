// SPDX-License-Identifier: Apache-2.0
// compact_kv on the CPU (algorithm.md section 2, step 7): position context + 1 + i receives
// position context + 1 + path[i]. Paths ascend, so i <= path[i] and a move never overwrites a later
// source. A task is one (cache, batch row) pair; bytes moved: 2 * num_accepted * H * D elements at
// most.
#include "via/compact_kv.h"

#include <cstring>

#include "cpu/thread_pool.h"
#include "cpu/view.h"

namespace via {
namespace cpu {
namespace {

// The bytes of one position below the capacity; null if its page is none of the pool.
char* locate(const CompactKvParams& params, const CacheView& cache, int batch_idx,
             std::int64_t position) {
  char* const data = static_cast<char*>(cache.data);
  if (params.page_table.data == nullptr) {
    return data + batch_idx * cache.stride_bytes[0] + position * cache.stride_bytes[1];
  }
  const std::int64_t slot = position / params.page_size;
  const std::int64_t page =
      read_int(params.page_table, batch_idx * params.page_table.stride[0] + slot);
  if (page < 0 || page >= params.num_pages) return nullptr;
  return data + page * cache.stride_bytes[0] + position % params.page_size * cache.stride_bytes[1];
}

void move_position(const CacheView& cache, const char* from, char* to) {
  if (cache.stride_bytes[2] == cache.head_bytes) {
    std::memmove(to, from, static_cast<std::size_t>(cache.num_heads * cache.head_bytes));
    return;
  }
  for (int head = 0; head < cache.num_heads; ++head) {
    const std::int64_t offset = head * cache.stride_bytes[2];
    std::memmove(to + offset, from + offset, static_cast<std::size_t>(cache.head_bytes));
  }
}

void compact_row(const CompactKvParams& params, const CacheView& cache, int batch_idx) {
  if (cache.num_heads == 0 || cache.head_bytes == 0) return;  // its strides mean nothing
  const std::int64_t root =
      read_int(params.context_lens, batch_idx * params.context_lens.stride[0]);
  if (root < -1 || root >= params.capacity) return;
  const std::int64_t first = root + 1;
  const std::int64_t accepted =
      read_int(params.num_accepted, batch_idx * params.num_accepted.stride[0]);
  std::int64_t last = -1;
  for (std::int64_t i = 0; i < accepted && i < params.num_nodes; ++i) {
    const std::int64_t node = read_int(params.path, batch_idx * params.path.stride[0] + i);
    if (node <= last || node >= params.num_nodes) return;
    // Not first + node >= capacity: the sum may exceed int64, the difference is at least 0.
    if (node >= params.capacity - first) return;
    last = node;
    const char* const from = locate(params, cache, batch_idx, first + node);
    char* const to = locate(params, cache, batch_idx, first + i);
    if (from == nullptr || to == nullptr) return;
    if (node != i) move_position(cache, from, to);
  }
}

}  // namespace
}  // namespace cpu

void compact_kv_cpu(const CompactKvParams& params) {
  double bytes = 0.0;
  for (int i = 0; i < params.num_caches; ++i) {
    const CacheView& cache = params.caches[i];
    bytes += 2.0 * cache.num_heads * static_cast<double>(cache.head_bytes);
  }
  bytes *= static_cast<double>(params.batch_size) * params.num_nodes;
  const int threads = cpu::useful_threads(params.num_threads, bytes);
  cpu::for_each_task(threads, params.num_caches * params.batch_size, [&](int task) {
    cpu::compact_row(params, params.caches[task / params.batch_size], task % params.batch_size);
  });
}

}  // namespace via
