// SPDX-License-Identifier: Apache-2.0
// compact_kv: move the cache rows of the accepted path to where the sequence continues.
#pragma once

#include <cstdint>

#include "via/types.h"

namespace via {

// One cache tensor: [B, S, H, D], or paged [pages, page_size, H, D]. Strides count bytes, so that
// one call may mix dtypes; the last dimension is contiguous.
struct CacheView {
  void* data = nullptr;
  std::int64_t stride_bytes[3] = {0, 0, 0};  // row or page, position, head
  std::int32_t num_heads = 0;
  std::int64_t head_bytes = 0;  // D * sizeof(element)
};

// For every row b and i < num_accepted[b]: position context_lens[b] + 1 + i receives what stood at
// context_lens[b] + 1 + path[b][i]. Paths ascend, so moves never overwrite a later source.
// A path entry outside [0, N), not ascending, or beyond the capacity stops that row's moves there.
// Different positions of a row are different memory: a page stands in a row's table once, as far as
// the positions moved reach, and no two rows share one there.
struct CompactKvParams {
  std::int32_t batch_size = 0;
  std::int32_t num_nodes = 0;  // N: columns of path, at most kMaxNodes
  std::int32_t num_caches = 0;
  std::int64_t capacity = 0;  // positions per row: S, or max_pages * page_size
  const CacheView* caches = nullptr;
  TensorView context_lens;       // [B] int32 or int64: index of the root's row
  TensorView path;               // [B, N] int32 or int64, padded -1
  TensorView num_accepted;       // [B] int32 or int64
  TensorView page_table;         // [B, max_pages] int32, or not given
  std::int32_t page_size = 0;    // power of two; paged only
  std::int64_t num_pages = 0;    // paged only: entries outside [0, num_pages) stop the row
  std::int32_t num_threads = 0;  // CPU: 0 = one per core
  void* stream = nullptr;        // CUDA: cudaStream_t
};

void compact_kv_cpu(const CompactKvParams& params);

// Queues the work on params.stream of the current device and returns: one launch for up to 512
// caches. `caches` is host memory, read before the return; everything else is device memory. No
// host synchronisation; may be recorded in a CUDA graph. Throws std::runtime_error for CUDA
// failures, or "built without CUDA".
void compact_kv_cuda(const CompactKvParams& params);

}  // namespace via
