// SPDX-License-Identifier: Apache-2.0
// compact_kv on the GPU (docs/design.md section 3, step 5): position context + 1 + i of every cache
// receives what stood at context + 1 + path[i]. One launch for all caches of a call.
//
// A block serves one (cache, batch row) and a share of its columns. A column is a run of 16 bytes
// within one head (8, 4, 2 or 1 where address or strides are not aligned to more), and the thread
// that owns it makes all its moves, in the order of the path. First thread i checks entry i of the
// path and finds its addresses; the addresses and the number of moves go through shared memory.
//
// No move spoils another although ranges overlap (path [1, 2, 3]: position 1 is a source, then a
// destination). Paths ascend, so i <= path[i]: destination i can only be the source of a move up to
// i, and destination i < j <= path[j] is never the source of a later move j. A thread therefore
// loads a batch of sources, then stores them, and goes on: every source is read before the store
// that replaces it, and nothing but this thread touches the column, so no barrier is needed.
//
// Bytes moved per row: 2 * moves * H * D elements, where moves leave out the kept prefix (path[i] =
// i). Copies only: no arithmetic, any dtype. All offsets are 64-bit.
#pragma once

#include <cstdint>

#include "core/params.h"
#include "device/prim.cuh"
#include "via/compact_kv.h"

namespace via {
namespace compact {

inline constexpr int kThreads = 128;  // one per node: more than kMaxNodes
inline constexpr int kWarps = kThreads / 32;
inline constexpr int kBatch = 8;  // loads in flight per thread; a usual path is shorter
inline constexpr int kWidth = 16;
inline constexpr unsigned kFullMask = 0xffffffffu;
static_assert(kThreads > kMaxNodes, "the last thread's entry has to end every path");

// One cache as the kernel sees it. Heads without a gap between them count as one.
struct CacheEntry {
  char* data;
  std::int64_t stride_bytes[3];  // row or page, position, head
  std::int64_t head_columns;
  std::int32_t num_heads;
  std::int32_t width;  // bytes per column
};

// The widest column that keeps every access aligned. Strides of dimensions of size 1 may be
// anything and are not used.
__host__ __device__ inline CacheEntry make_entry(const CacheView& view, std::int64_t rows) {
  const bool dense = view.num_heads == 1 || view.stride_bytes[2] == view.head_bytes;
  const std::int64_t head_bytes = dense ? view.num_heads * view.head_bytes : view.head_bytes;
  CacheEntry entry;
  entry.data = static_cast<char*>(view.data);
  for (int i = 0; i < 3; ++i) entry.stride_bytes[i] = view.stride_bytes[i];
  if (rows == 1) entry.stride_bytes[0] = 0;
  if (dense) entry.stride_bytes[2] = 0;
  entry.num_heads = dense ? 1 : view.num_heads;
  std::uintptr_t bits = kWidth | reinterpret_cast<std::uintptr_t>(view.data) | head_bytes;
  for (const std::int64_t stride : entry.stride_bytes) bits |= stride;
  entry.width = static_cast<std::int32_t>(bits & (~bits + 1));
  entry.head_columns = head_bytes / entry.width;
  return entry;
}

struct PathEntries {
  TensorView context_lens;  // [B]
  TensorView path;          // [B, N]
  TensorView num_accepted;  // [B]
  TensorView page_table;    // [B, max_pages], or not given
  std::int64_t capacity = 0;
  std::int64_t num_pages = 0;
  std::int32_t num_nodes = 0;
  std::int32_t page_shift = 0;  // log2(page_size)
  std::int32_t num_chunks = 0;  // blocks that share one (cache, batch row)
};

// A table of caches goes along by value: nothing to allocate, copy or keep alive, also in a graph.
// The launch copies all of it, hence three sizes: a few caches, one model within the 4 KB that
// launches copy at no extra cost, and the most that fits the 32 KB limit with room to spare.
template <int kCaches>
struct KernelParams {
  PathEntries entries;
  CacheEntry caches[kCaches];
};
inline constexpr int kFewCaches = 8;
inline constexpr int kModelCaches = 80;
inline constexpr int kMostCaches = 512;
static_assert(sizeof(KernelParams<kModelCaches>) <= 4096, "beyond the cheap parameter space");
static_assert(sizeof(KernelParams<kMostCaches>) <= 32764, "beyond the parameter space");

// Bytes from the start of the cache; meaningless unless `valid`.
struct Move {
  std::int64_t from;
  std::int64_t to;
  bool valid;
};

// Byte offset of a position below the capacity; kNowhere if its page is none of the pool.
inline constexpr std::int64_t kNowhere = INT64_MIN;
__device__ inline std::int64_t locate(const PathEntries& entries, const CacheEntry& cache,
                                      std::int64_t batch_idx, std::int64_t position) {
  if (entries.page_table.data == nullptr) {
    return batch_idx * cache.stride_bytes[0] + position * cache.stride_bytes[1];
  }
  const std::int64_t slot = position >> entries.page_shift;
  const std::int64_t page =
      read_int(entries.page_table, batch_idx * entries.page_table.stride[0] + slot);
  if (page < 0 || page >= entries.num_pages) return kNowhere;
  const std::int64_t row = position - (slot << entries.page_shift);
  return page * cache.stride_bytes[0] + row * cache.stride_bytes[1];
}

// Entry i of a path by itself: the path is good up to its first entry that is not valid. All values
// are loaded before any is judged, so that their latencies overlap.
__device__ inline Move read_move(const PathEntries& entries, const CacheEntry& cache,
                                 std::int64_t batch_idx, int i) {
  Move move{};
  if (i >= entries.num_nodes) return move;
  const std::int64_t begin = batch_idx * entries.path.stride[0];
  const std::int64_t node = read_int(entries.path, begin + i);
  const std::int64_t last = i > 0 ? read_int(entries.path, begin + i - 1) : -1;
  const std::int64_t root =
      read_int(entries.context_lens, batch_idx * entries.context_lens.stride[0]);
  const std::int64_t accepted =
      read_int(entries.num_accepted, batch_idx * entries.num_accepted.stride[0]);
  if (i >= accepted || root < -1 || root >= entries.capacity) return move;
  if (node < i || node <= last || node >= entries.num_nodes) return move;
  // Not root + 1 + node >= capacity: a sum may exceed int64, this difference is at least 0.
  if (node >= entries.capacity - (root + 1)) return move;
  move.from = locate(entries, cache, batch_idx, root + 1 + node);
  move.to = node == i ? move.from : locate(entries, cache, batch_idx, root + 1 + i);
  move.valid = move.from != kNowhere && move.to != kNowhere;
  return move;
}

// Index of the first set bit, kThreads if there is none.
__device__ inline int first_set(const unsigned* words /* [kWarps] */) {
  for (int word = 0; word < kWarps; ++word) {
    if (words[word] != 0) return 32 * word + __ffs(static_cast<int>(words[word])) - 1;
  }
  return kThreads;
}

template <class Column>
__device__ inline void move_columns(const CacheEntry& cache, const Move* moves, int begin, int end,
                                    std::int64_t first, std::int64_t stride) {
  const std::int64_t columns = cache.num_heads * cache.head_columns;
  for (std::int64_t column = first; column < columns; column += stride) {
    const std::int64_t head = cache.num_heads == 1 ? 0 : column / cache.head_columns;
    const std::int64_t within = (column - head * cache.head_columns) * sizeof(Column);
    char* const base = cache.data + head * cache.stride_bytes[2] + within;
    for (int i = begin; i < end; i += kBatch) {
      Column held[kBatch];
#pragma unroll
      for (int k = 0; k < kBatch; ++k) {
        if (i + k < end) held[k] = *reinterpret_cast<const Column*>(base + moves[i + k].from);
      }
#pragma unroll
      for (int k = 0; k < kBatch; ++k) {
        if (i + k < end) *reinterpret_cast<Column*>(base + moves[i + k].to) = held[k];
      }
    }
  }
}

// Thread i of kThreads looks at entry i of the path.
__device__ inline void find_moves(const PathEntries& entries, const CacheEntry& cache,
                                  std::int64_t batch_idx, int i, Move* moves /* [kThreads] */,
                                  unsigned* ends /* [kWarps] */, unsigned* moving /* [kWarps] */) {
  const int warp_idx = i / 32;
  const Move move = read_move(entries, cache, batch_idx, i);
  const unsigned end_mask = __ballot_sync(kFullMask, !move.valid);
  const unsigned moving_mask = __ballot_sync(kFullMask, move.valid && move.from != move.to);
  moves[i] = move;
  if (i % 32 == 0) {
    ends[warp_idx] = end_mask;
    moving[warp_idx] = moving_mask;
  }
}

// Behind a barrier: thread i's columns of share `chunk` of the row. kIsWide: of 16 bytes, known
// when compiling.
template <bool kIsWide = false>
__device__ inline void make_moves(const PathEntries& entries, const CacheEntry& cache,
                                  std::int64_t chunk, int i, const Move* moves,
                                  const unsigned* ends, const unsigned* moving) {
  const int end = first_set(ends);
  const int begin = first_set(moving);

  const std::int64_t first = chunk * kThreads + i;
  const std::int64_t stride = std::int64_t{entries.num_chunks} * kThreads;
  if constexpr (kIsWide) {
    return move_columns<uint4>(cache, moves, begin, end, first, stride);
  }
  switch (cache.width) {
    case 16: move_columns<uint4>(cache, moves, begin, end, first, stride); break;
    case 8: move_columns<uint2>(cache, moves, begin, end, first, stride); break;
    case 4: move_columns<std::uint32_t>(cache, moves, begin, end, first, stride); break;
    case 2: move_columns<std::uint16_t>(cache, moves, begin, end, first, stride); break;
    default: move_columns<std::uint8_t>(cache, moves, begin, end, first, stride); break;
  }
}

// Grid: (B * num_chunks, caches).
template <int kCaches>
__global__ void __launch_bounds__(kThreads)
    compact_kv_kernel(const __grid_constant__ KernelParams<kCaches> params) {
  SMEM(Move, moves, [kThreads]);
  SMEM(unsigned, ends, [kWarps]);
  SMEM(unsigned, moving, [kWarps]);
  const PathEntries& entries = params.entries;
  const CacheEntry& cache = params.caches[blockIdx.y];
  const int i = static_cast<int>(threadIdx.x);
  const std::int64_t batch_idx = blockIdx.x / entries.num_chunks;
  find_moves(entries, cache, batch_idx, i, moves, ends, moving);
  __syncthreads();
  make_moves(entries, cache, blockIdx.x % entries.num_chunks, i, moves, ends, moving);
}

}  // namespace compact
}  // namespace via
