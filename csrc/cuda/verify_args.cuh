// SPDX-License-Identifier: Apache-2.0
// verify on CUDA: what the kernel is given, and what its work space holds.
//
// A row is cut into chunks of kChunk tokens, always the same way, and one warp reads a chunk. A
// unit of work is some chunks of one row; an item is all units of a row (or of a residual). Chunk
// records are merged in chunk order by whichever block comes last, so results depend neither on the
// grid nor on the batch.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/filters.h"
#include "core/router.h"
#include "device/prim.cuh"
#include "device/reduce.cuh"
#include "via/verify.h"

namespace via::cuda {

inline constexpr int kThreads = 256;
inline constexpr int kWarps = kThreads / kWarpSize;
using Block = BlockReduce<kThreads>;
inline constexpr int kChunk = 2048;
inline constexpr int kRows = kMaxNodes + 1;
inline constexpr unsigned kNoTicket = 0xffffffffu;
// Candidates that top-k and top-p sort in shared memory.
inline constexpr int kMaxCandidates = 4096;

// One chunk: its largest allowed logit, sum of 2^((l - max) * scale), lowest id of the maximum.
struct alignas(16) ChunkRecord {
  float max;
  float sum;
  std::int32_t argmax;  // -1 if nothing has mass
  std::uint32_t has_nan;
};

enum RowFlag : std::uint32_t {
  kRowScanned = 1,
  kRowFiltered = 2,  // cut and kept sums are in place
  kRowHasNan = 4,
  kRowHasBadId = 8,   // draft rows: id map entries outside the vocabulary
  kRowRejected = 16,  // draft rows: `residual` is known
};

// One row: slots 0..N are the verifier's rows, slot N + 1 + i the draft distribution of node i.
struct RowRecord {
  double sum;  // of the kept weights, relative to 2^(max * scale)
  union {
    double probability;    // draft rows with logits or a map: of the node's token
    RowFeatures features;  // verifier rows of requests with a router
  };
  double residual;  // draft rows: mass left after the node's rejection
  float max;
  std::int32_t argmax;
  FilterCut cut;
  std::uint32_t flags;
  std::uint32_t unused;  // no padding: a cleared record is zero throughout
};

// Where a block finds its next item, and how many requests are done. Each counter has a cache line
// of its own.
struct alignas(128) Counter {
  unsigned value;
};
struct QueueHead {
  Counter head;       // tickets taken
  Counter published;  // items
  Counter done;       // requests
  Counter closed;     // 1 when all requests are done
  Counter exited;     // blocks
};

enum class ItemKind : std::uint32_t { kTarget = 1, kDraft = 2, kFilter = 3, kResidual = 4 };

// An item published during the launch; `word` = kind << 8 | slot index, 0 = not there yet.
struct Item {
  std::int32_t batch_idx;
  unsigned word;
};

// What the host decides once per launch.
struct Plan {
  std::int32_t chunks = 0;        // of a verifier row
  std::int32_t draft_chunks = 0;  // of a draft row
  std::int32_t units = 0;         // per item
  std::int32_t first_rows = 0;    // rows per request that the static items cover
  std::int32_t first_drafts = 0;  // and draft rows
  std::int32_t window = 0;        // rows asked for at a time later
  bool scans_drafts = false;      // draft rows need a pass of their own
  bool stores_lane_max = false;   // for the filters
  bool has_residuals = false;     // drafts with a distribution may be rejected
  bool reads_leaves = false;      // route: leaf rows belong to the static items
  bool is_closed = false;         // nothing can be published
  std::int32_t item_capacity = 0;
  unsigned static_units = 0;
  unsigned long long watchdog_ns = 0;
  unsigned* abort = nullptr;  // see device/watchdog.cuh
};

// Pointers into the work space.
struct Workspace {
  QueueHead* queue = nullptr;
  Item* items = nullptr;                // [item_capacity]
  unsigned* pending = nullptr;          // [B] items that arrived in this round
  unsigned* round_size = nullptr;       // [B] items of this round; 0 = the static ones
  unsigned* arrivals = nullptr;         // [B, 2N+1] units
  RowRecord* rows = nullptr;            // [B, 2N+1]
  ChunkRecord* chunks = nullptr;        // [B, N+1, chunks]
  ChunkRecord* draft_chunks = nullptr;  // [B, N, draft_chunks]
  float* lane_max = nullptr;            // [B, N+1, chunks, 32]
  double* residual_mass = nullptr;      // [B, 2, chunks]
  float* sibling_weight = nullptr;      // [B, 2, N] residual weight of later siblings' tokens
};

struct VerifyArgs {
  VerifyParams p;
  Verification resume;
  bool has_resume = false;
  Plan plan;
  Workspace ws;

  VIA_HD int num_slots() const { return 2 * p.num_nodes + 1; }
  VIA_HD int draft_slot(int node_idx) const { return p.num_nodes + 1 + node_idx; }
};

// Prefix sum over the block: what the lower threads have, and all of it.
template <typename T>
struct Scan {
  T before;
  T total;
};
template <typename T>
VIA_DEVICE Scan<T> block_scan(T value, T* scratch) {
  Scan<T> scan;
  scan.before = Block::exclusive_sum(value, scratch, scan.total);
  return scan;
}

// By all threads of the block.
template <typename T>
VIA_DEVICE void clear(T* values, std::int64_t count, T zero = T{}) {
  for (std::int64_t i = threadIdx.x; i < count; i += kThreads) values[i] = zero;
}

VIA_DEVICE RowRecord& row_record(const VerifyArgs& args, int batch_idx, int slot) {
  return args.ws.rows[static_cast<std::int64_t>(batch_idx) * args.num_slots() + slot];
}
VIA_DEVICE ChunkRecord* chunk_records(const VerifyArgs& args, int batch_idx, int slot) {
  const std::int64_t nodes = args.p.num_nodes;
  if (slot <= nodes) {
    return args.ws.chunks + (batch_idx * (nodes + 1) + slot) * args.plan.chunks;
  }
  return args.ws.draft_chunks + (batch_idx * nodes + slot - nodes - 1) * args.plan.draft_chunks;
}
VIA_DEVICE float* lane_maxima(const VerifyArgs& args, int batch_idx, int row_idx) {
  const std::int64_t row = batch_idx * (std::int64_t{args.p.num_nodes} + 1) + row_idx;
  return args.ws.lane_max + row * args.plan.chunks * kWarpSize;
}
// Two buffers a request: the k-th residual with mass (from 1) of a row goes to buffer k % 2, so
// that one without mass leaves the one before it in place.
VIA_DEVICE int residual_buffer(int count) { return count & 1; }
VIA_DEVICE double* residual_masses(const VerifyArgs& args, int batch_idx, int buffer) {
  return args.ws.residual_mass + (2 * std::int64_t{batch_idx} + buffer) * args.plan.chunks;
}
VIA_DEVICE float* sibling_weights(const VerifyArgs& args, int batch_idx, int buffer) {
  return args.ws.sibling_weight + (2 * std::int64_t{batch_idx} + buffer) * args.p.num_nodes;
}

}  // namespace via::cuda
