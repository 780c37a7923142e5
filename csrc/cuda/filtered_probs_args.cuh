// SPDX-License-Identifier: Apache-2.0
// filtered_probs on CUDA: what the kernel is given, and what its work space holds. Chunks and their
// records are those of verify (cuda/verify_args.cuh).
#pragma once

#include <cstdint>

#include "cuda/verify_request.cuh"
#include "via/filter.h"

namespace via::cuda {

// Each counter has a cache line of its own.
struct ProbsQueue {
  Counter head;    // tickets taken
  Counter exited;  // blocks
};

// What the host decides once per launch.
struct ProbsPlan {
  std::int32_t chunks = 0;  // of a row
  std::int32_t units = 0;   // per row, of a scan and of a write
  std::int32_t lag = 0;     // rows scanned before the first one is written
  unsigned tickets = 0;
  bool writes = false;           // rows at a temperature > 0 have probabilities to write
  bool stores_lane_max = false;  // for the filters
  unsigned long long watchdog_ns = 0;
  unsigned* abort = nullptr;  // see device/watchdog.cuh
};

// Pointers into the work space.
struct ProbsWorkspace {
  ProbsQueue* queue = nullptr;
  unsigned* scanned = nullptr;    // [R] units that arrived
  unsigned* written = nullptr;    // [R]
  unsigned* is_ready = nullptr;   // [R] 1 = the law stands in `rows` and `chunks`
  RowRecord* rows = nullptr;      // [R]
  ChunkRecord* chunks = nullptr;  // [R, chunks]
  float* lane_max = nullptr;      // [R, chunks, 32]
};

struct ProbsArgs {
  FilteredProbsParams p;
  ProbsPlan plan;
  ProbsWorkspace ws;
};

// A unit of work: chunks [first, last) of one row.
struct ProbsUnit {
  int row_idx;
  int first;
  int last;
  bool is_write;
};

// Scans run `lag` rows ahead of writes, so that a row is mostly ready when its turn to be written
// comes, and still in the second-level cache:
//   s0 .. s(lag-1), s(lag) w0, s(lag+1) w1, ..., w(R-lag) .. w(R-1)
// What a write waits for has lower tickets, which running blocks hold.
VIA_DEVICE ProbsUnit probs_unit(const ProbsArgs& args, unsigned ticket) {
  const ProbsPlan& plan = args.plan;
  const unsigned units = static_cast<unsigned>(plan.units);
  const unsigned item = ticket / units, unit_idx = ticket % units;
  const unsigned rows = static_cast<unsigned>(args.p.num_rows);
  const unsigned lag = static_cast<unsigned>(plan.lag);
  unsigned row_idx = item;
  bool is_write = false;
  if (item >= 2 * rows - lag) {
    is_write = true;
    row_idx = item - rows;
  } else if (item >= lag) {
    is_write = (item - lag) % 2 != 0;
    row_idx = (item - lag) / 2 + (is_write ? 0 : lag);
  }
  const std::int64_t chunks = plan.chunks;
  return {static_cast<int>(row_idx), static_cast<int>(unit_idx * chunks / plan.units),
          static_cast<int>((unit_idx + 1) * chunks / plan.units), is_write};
}

VIA_DEVICE RequestParams row_params(const FilteredProbsParams& p, int row_idx) {
  RequestParams params = {};  // rows of logits, no thresholds
  params.filters = {read_param(p.filter.temperature, row_idx), read_param(p.filter.top_k, row_idx),
                    read_param(p.filter.top_p, row_idx), read_param(p.filter.min_p, row_idx)};
  params.is_refused = !filters_are_valid(params.filters);
  if (params.is_refused) params.filters = {};
  return params;
}

// Logits row under the grammar mask.
VIA_DEVICE Row logits_row(const FilteredProbsParams& p, int row_idx) {
  Row row = row_at(p.logits, row_idx * p.logits.stride[0], p.vocab_size);
  if (p.allowed.data != nullptr && (p.allowed_rows == nullptr || p.allowed_rows[row_idx])) {
    row.allowed = static_cast<const std::uint32_t*>(p.allowed.data) + row_idx * p.allowed.stride[0];
  }
  return row;
}

// Row of `probs`; negative: the row is left out.
VIA_DEVICE std::int64_t target_index(const FilteredProbsParams& p, int row_idx) {
  return p.probs_rows != nullptr ? p.probs_rows[row_idx] : row_idx;
}
VIA_DEVICE float* probs_row(const FilteredProbsParams& p, int row_idx) {
  return p.probs + target_index(p, row_idx) * p.probs_stride;
}
VIA_DEVICE ChunkRecord* chunk_records(const ProbsArgs& args, int row_idx) {
  return args.ws.chunks + std::int64_t{row_idx} * args.plan.chunks;
}
// Null where no filter needs them.
VIA_DEVICE float* lane_maxima(const ProbsArgs& args, int row_idx) {
  if (!args.plan.stores_lane_max) return nullptr;
  return args.ws.lane_max + std::int64_t{row_idx} * args.plan.chunks * kWarpSize;
}

}  // namespace via::cuda
