// SPDX-License-Identifier: Apache-2.0
// How a filtered_probs call is cut into units, and where things lie in the work space. Host code.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>

#include "cuda/filtered_probs_args.cuh"
#include "cuda/launch.h"

namespace via::cuda {

// What the launch needs to know of the device.
struct ProbsLimits {
  int slots;                     // resident blocks
  int chunks_per_unit = kWarps;  // the finest unit: a chunk for every warp of a block
};

// Tickets are counted in 32 bits.
inline constexpr double kMaxProbsTickets = 1e9;

inline ProbsPlan make_plan(const FilteredProbsParams& p, const ProbsLimits& limits) {
  ProbsPlan plan;
  const std::int64_t rows = p.num_rows, slots = limits.slots;
  plan.chunks = static_cast<std::int32_t>((std::int64_t{p.vocab_size} + kChunk - 1) / kChunk);
  plan.writes = p.probs != nullptr && may_draw(p.filter);
  plan.stores_lane_max = may_select(p.filter, p.vocab_size);
  const std::int64_t finest =
      (plan.chunks + limits.chunks_per_unit - 1) / std::int64_t{limits.chunks_per_unit};
  // A row that is read once: enough units to fill the machine. One that is read twice: small units,
  // so that few rows are under way and the second pass finds them in the cache.
  const std::int64_t wanted = (4 * slots + rows - 1) / rows;
  plan.units = static_cast<std::int32_t>(plan.writes ? finest : std::min(finest, wanted));
  // Twice what runs at a time: scanned, merged and filtered before its turn comes.
  plan.lag =
      plan.writes
          ? static_cast<std::int32_t>(std::min(rows, (2 * slots + plan.units - 1) / plan.units))
          : p.num_rows;
  const double tickets = static_cast<double>(rows) * plan.units * (plan.writes ? 2.0 : 1.0);
  if (tickets > kMaxProbsTickets) {
    throw std::runtime_error("filtered_probs: logits must have fewer rows on CUDA, got " +
                             std::to_string(rows));
  }
  plan.tickets = static_cast<unsigned>(tickets);
  plan.watchdog_ns = watchdog_ns();
  return plan;
}

// Where everything lies; returns the bytes.
inline std::size_t lay_out(const FilteredProbsParams& p, const ProbsPlan& plan, void* base,
                           ProbsWorkspace& ws) {
  Carver carver(base);
  const std::int64_t rows = p.num_rows, chunks = rows * plan.chunks;
  const std::int64_t laws = plan.writes ? rows : 0;
  ws.queue = carver.take<ProbsQueue>(1);
  ws.scanned = carver.take<unsigned>(rows);
  ws.written = carver.take<unsigned>(laws);
  ws.is_ready = carver.take<unsigned>(laws);
  ws.rows = carver.take<RowRecord>(laws);
  ws.chunks = carver.take<ChunkRecord>(chunks);
  ws.lane_max = carver.take<float>(plan.stores_lane_max ? chunks * kWarpSize : 0);
  return carver.used();
}

inline std::size_t workspace_bytes(const FilteredProbsParams& p) {
  ProbsWorkspace ws;
  return lay_out(p, make_plan(p, {1}), nullptr, ws);
}

}  // namespace via::cuda
