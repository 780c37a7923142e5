// SPDX-License-Identifier: Apache-2.0
// How a verify call is cut into units, how much work space it takes, and where things lie in it.
// Host code.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>

#include "cuda/launch.h"
#include "cuda/verify_args.cuh"

namespace via::cuda {

// What the launch needs to know of the device.
struct DeviceLimits {
  int multiprocessors;
  int blocks_per_multiprocessor;
  // A round that reads less than this lasts about as long as asking for another one (a few
  // microseconds at 4 TB/s), so that much may be read on suspicion.
  double speculative_bytes = 8e6;
  // The finest unit: a chunk for every warp of a block.
  int chunks_per_unit = kWarps;
};

// Tickets and items are counted in 32 bits.
inline constexpr double kMaxTickets = 1e9;

// Whether some request may have to be filtered.
inline bool may_filter(const VerifyParams& p) {
  const bool min_p = p.filter.min_p.data != nullptr || p.filter.min_p.value > 0.0f;
  return may_select(p.filter, p.vocab_size) || (may_draw(p.filter) && min_p);
}

inline Plan make_plan(const VerifyParams& p, const DeviceLimits& limits) {
  Plan plan;
  const std::int64_t batch = p.batch_size, nodes = p.num_nodes;
  const auto chunks_of = [](std::int64_t size) {
    return static_cast<std::int32_t>((size + kChunk - 1) / kChunk);
  };
  const bool has_draft = p.draft_probs.data != nullptr;
  plan.chunks = chunks_of(p.vocab_size);
  plan.draft_chunks = has_draft ? chunks_of(p.draft_vocab_size) : 0;
  const double item_bytes = p.logits.dtype == DType::kFloat32 ? 4.0 : 2.0;
  const double row_bytes = static_cast<double>(p.vocab_size) * item_bytes;
  const double rows =
      std::max(limits.speculative_bytes / (static_cast<double>(batch) * row_bytes), 1.0);
  plan.window = static_cast<std::int32_t>(std::min(rows, static_cast<double>(nodes + 1)));
  plan.reads_leaves = plan.window == nodes + 1;
  plan.first_rows = p.rule == Rule::kRoute ? static_cast<std::int32_t>(nodes + 1) : plan.window;
  const bool judges_drafts =
      has_draft && (p.rule == Rule::kSample || (p.rule == Rule::kRoute && p.use_draft_threshold));
  plan.scans_drafts =
      judges_drafts && (p.draft_probs_are_logits || p.draft_to_target.data != nullptr);
  if (plan.scans_drafts) {
    plan.first_drafts = static_cast<std::int32_t>(
        p.rule == Rule::kRoute ? nodes : std::min<std::int64_t>(plan.first_rows, nodes));
  }
  plan.has_residuals = judges_drafts && p.rule == Rule::kSample;
  plan.stores_lane_max = may_select(p.filter, p.vocab_size);
  // Enough blocks to fill the machine, and no units of less than a chunk per warp.
  const std::int64_t items = batch * (plan.first_rows + plan.first_drafts);
  const std::int64_t slots =
      std::int64_t{limits.multiprocessors} * limits.blocks_per_multiprocessor;
  const std::int64_t finest =
      (std::max(plan.chunks, plan.draft_chunks) + limits.chunks_per_unit - 1) /
      limits.chunks_per_unit;
  const std::int64_t wanted = (4 * slots + items - 1) / items;
  plan.units = static_cast<std::int32_t>(std::max<std::int64_t>(std::min(finest, wanted), 1));
  const double tickets = static_cast<double>(batch) * (3.0 * nodes + 1.0) * plan.units;
  if (tickets > kMaxTickets) {
    throw std::runtime_error("verify: the batch must be smaller on CUDA, got " +
                             std::to_string(batch) + " requests");
  }
  plan.static_units = static_cast<unsigned>(items * plan.units);
  const bool reads_all = plan.first_rows == nodes + 1 &&
                         (p.rule != Rule::kRoute || plan.reads_leaves) && p.resume == nullptr;
  plan.is_closed = reads_all && !plan.has_residuals && !(p.rule == Rule::kRoute && may_filter(p));
  plan.item_capacity = static_cast<std::int32_t>(batch * (4 * nodes + 2));
  plan.watchdog_ns = watchdog_ns();
  return plan;
}

// Where everything lies; returns the bytes.
inline std::size_t lay_out(const VerifyParams& p, const Plan& plan, void* base, Workspace& ws) {
  Carver carver(base);
  const std::int64_t batch = p.batch_size, nodes = p.num_nodes;
  const std::int64_t rows = batch * (nodes + 1), slots = batch * (2 * nodes + 1);
  ws.queue = carver.take<QueueHead>(1);
  ws.items = carver.take<Item>(plan.item_capacity);
  ws.pending = carver.take<unsigned>(batch);
  ws.round_size = carver.take<unsigned>(batch);
  ws.arrivals = carver.take<unsigned>(slots);
  ws.rows = carver.take<RowRecord>(slots);
  ws.chunks = carver.take<ChunkRecord>(rows * plan.chunks);
  ws.draft_chunks = carver.take<ChunkRecord>(
      plan.scans_drafts && p.draft_probs_are_logits ? batch * nodes * plan.draft_chunks : 0);
  ws.lane_max = carver.take<float>(plan.stores_lane_max ? rows * plan.chunks * kWarpSize : 0);
  ws.residual_mass = carver.take<double>(plan.has_residuals ? 2 * batch * plan.chunks : 0);
  ws.sibling_weight = carver.take<float>(plan.has_residuals ? 2 * batch * nodes : 0);
  return carver.used();
}

inline std::size_t workspace_bytes(const VerifyParams& p) {
  Workspace ws;
  return lay_out(p, make_plan(p, {1, 1}), nullptr, ws);
}

}  // namespace via::cuda
