// SPDX-License-Identifier: Apache-2.0
// filtered_probs and draft_sample on CUDA: one launch from logits to probabilities, to one drawn
// token per row, or to both (docs/design.md section 2).
//   probs(t) = keep(t) exp(l_t / T) / sum over kept,  token = first t with cumsum(probs)[t] > u sum
// Mapping: blocks of 256 threads take units of work, some 2048-token chunks of one row, a warp to a
// chunk. The last block to finish the scan of a row merges its chunks, filters and draws; then any
// blocks write the row (cuda/filtered_probs_write.cuh). A greedy row is zeroed while it is scanned,
// and its 1 is set by the block that finds the argmax.
// Bytes: every element once for tokens; with probabilities 4 more per token, and the elements of
// chunks that keep something once more, mostly from the second-level cache; 16 per chunk.
// Numerics: cuda/verify_scan.cuh; no float atomics, every sum in an order of its own: results are
// bitwise repeatable and independent of grid and batch.
#pragma once

#include <cstdint>

#include "core/philox.h"
#include "cuda/filtered_probs_args.cuh"
#include "cuda/filtered_probs_write.cuh"
#include "cuda/verify_draw.cuh"
#include "device/watchdog.cuh"

namespace via::cuda {

struct ProbsShared {
  SelectState select;
  DrawState draw;
  SelectBuffer buffer;
  Excluded excluded;     // none
  unsigned ticket;       // of the unit at work
  unsigned next_ticket;  // kNoTicket, or taken already
  int is_last;
};

// True for the block that is the last of `units` to arrive; what the others wrote is then visible
// to all its threads.
VIA_DEVICE bool arrive(unsigned* arrivals, int units, ProbsShared& shared) {
  __syncthreads();
  if (threadIdx.x == 0) {
    shared.is_last = prim::add_acq_rel(arrivals, 1u) + 1 == static_cast<unsigned>(units);
    if (shared.is_last != 0) *arrivals = 0;
  }
  __syncthreads();
  return shared.is_last != 0;
}

// The row's part of the work space becomes zero again.
VIA_DEVICE_CALL void clear_row(const ProbsArgs& args, int row_idx) {
  clear(chunk_records(args, row_idx), args.plan.chunks);
  if (args.plan.stores_lane_max) {
    clear(lane_maxima(args, row_idx), std::int64_t{args.plan.chunks} * kWarpSize);
  }
}

VIA_DEVICE Law row_law(const ProbsArgs& args, int row_idx, float scale, const RowRecord& record) {
  return {logits_row(args.p, row_idx), chunk_records(args, row_idx), args.plan.chunks, scale,
          record};
}

// A row's token: drawn, or the only one that has mass.
VIA_DEVICE std::int32_t row_token(const ProbsArgs& args, int row_idx, const Law& law,
                                  bool is_greedy, ProbsShared& shared) {
  const FilteredProbsParams& p = args.p;
  if (!law.has_mass()) {
    return lowest_allowed(law.row, reinterpret_cast<int*>(shared.draw.scratch));
  }
  if (is_greedy || law.is_one_hot() || p.token_ids == nullptr) return law.record.argmax;
  float uniform = 0.0f;
  if (p.seed != nullptr && p.position != nullptr) {
    uniform = philox_uniform(p.seed[row_idx], p.position[row_idx],
                             static_cast<std::uint32_t>(p.column), kPurposeDrafter);
  }
  return draw_without(law, chunk_records(args, row_idx), 0, uniform, shared.excluded, shared.draw);
}

// What follows when all chunks of a row are scanned.
VIA_DEVICE_CALL void finish_row(const ProbsArgs& args, int row_idx, const RequestParams& params,
                                ProbsShared& shared) {
  const FilteredProbsParams& p = args.p;
  const bool is_greedy = params.is_greedy();
  const float scale = params.scale();
  ChunkRecord* const records = chunk_records(args, row_idx);
  RowRecord record = merge_chunks(records, args.plan.chunks, scale, shared.draw.scratch);
  if (params.needs_filter(p.vocab_size) && record.max > kNegInf && record.max < kPosInf) {
    record = filter_row(logits_row(p, row_idx), record, params.filters, scale, records,
                        args.plan.chunks, lane_maxima(args, row_idx), shared.buffer, shared.select);
  }
  const std::int32_t token =
      row_token(args, row_idx, row_law(args, row_idx, scale, record), is_greedy, shared);
  const bool is_written_later = args.plan.writes && !is_greedy;
  if (threadIdx.x == 0) {
    if (p.token_ids != nullptr) p.token_ids[row_idx * p.token_ids_stride] = token;
    if (p.probs != nullptr && is_greedy) probs_row(p, row_idx)[token] = 1.0f;
    if (is_written_later) {
      // Where there is no mass the writers take this for the one token.
      if (!(record.max > kNegInf)) record.argmax = token;
      args.ws.rows[row_idx] = record;
      // All threads are done with the work space: the functions above end with barriers.
      prim::st_release(&args.ws.is_ready[row_idx], 1u);
    }
  }
  if (!is_written_later) clear_row(args, row_idx);
}

VIA_DEVICE_CALL void run_scan(const ProbsArgs& args, const ProbsUnit& unit, ProbsShared& shared) {
  const FilteredProbsParams& p = args.p;
  const RequestParams params = row_params(p, unit.row_idx);
  if (p.probs != nullptr && params.is_greedy()) {
    const std::int64_t end = std::int64_t{unit.last} * kChunk;
    write_zeros(probs_row(p, unit.row_idx), std::int64_t{unit.first} * kChunk,
                end < p.vocab_size ? end : p.vocab_size, static_cast<int>(threadIdx.x), kThreads);
  }
  const unsigned ticket = scan_unit(logits_row(p, unit.row_idx), params.scale(), unit.first,
                                    unit.last, chunk_records(args, unit.row_idx),
                                    lane_maxima(args, unit.row_idx), &args.ws.queue->head.value);
  if (threadIdx.x == 0) shared.next_ticket = ticket;
  if (arrive(&args.ws.scanned[unit.row_idx], args.plan.units, shared)) {
    finish_row(args, unit.row_idx, params, shared);
  }
}

// False if the launch is given up.
VIA_DEVICE_CALL bool run_write(const ProbsArgs& args, const ProbsUnit& unit, ProbsShared& shared) {
  const FilteredProbsParams& p = args.p;
  const RequestParams params = row_params(p, unit.row_idx);
  if (params.is_greedy()) return true;
  if (threadIdx.x == 0) {
    Watchdog watchdog{args.plan.watchdog_ns, args.plan.abort};
    watchdog.start();
    bool waits = true;
    while (waits && prim::ld_acquire(&args.ws.is_ready[unit.row_idx]) == 0) waits = watchdog.poll();
    shared.is_last = waits;
  }
  __syncthreads();
  if (shared.is_last == 0) return false;
  const Law law = row_law(args, unit.row_idx, params.scale(), args.ws.rows[unit.row_idx]);
  for (int c = unit.first + static_cast<int>(threadIdx.x) / kWarpSize; c < unit.last; c += kWarps) {
    write_chunk(law, c, probs_row(p, unit.row_idx));
  }
  if (!arrive(&args.ws.written[unit.row_idx], args.plan.units, shared)) return true;
  clear_row(args, unit.row_idx);
  if (threadIdx.x != 0) return true;
  RowRecord zero = {};
  zero.cut = {0.0f, 0};
  args.ws.rows[unit.row_idx] = zero;
  args.ws.is_ready[unit.row_idx] = 0;
  return true;
}

// Everybody leaves with the same ticket.
VIA_DEVICE unsigned take_ticket(const ProbsArgs& args, ProbsShared& shared) {
  __syncthreads();  // all threads are done with the last unit
  if (threadIdx.x == 0) {
    const unsigned next = shared.next_ticket;
    shared.ticket = next != kNoTicket ? next : atomicAdd(&args.ws.queue->head.value, 1u);
    shared.next_ticket = kNoTicket;
  }
  __syncthreads();
  return shared.ticket;
}

// A block's part of a call; as cuda/verify.cuh, run_verify.
VIA_DEVICE void run_filtered_probs(const ProbsArgs& args, ProbsShared& shared) {
  if (threadIdx.x == 0) {
    shared.next_ticket = kNoTicket;
    shared.excluded.count = 0;
  }
  while (true) {
    const unsigned ticket = take_ticket(args, shared);
    if (ticket >= args.plan.tickets) break;
    const ProbsUnit unit = probs_unit(args, ticket);
    if (target_index(args.p, unit.row_idx) < 0) continue;
    if (!unit.is_write) {
      run_scan(args, unit, shared);
    } else if (!run_write(args, unit, shared)) {
      break;
    }
  }
  // The last block to leave zeroes the queue.
  ProbsQueue& queue = *args.ws.queue;
  if (threadIdx.x == 0 && prim::add_acq_rel(&queue.exited.value, 1u) + 1 == gridDim.x) {
    queue.head.value = queue.exited.value = 0;
  }
}

}  // namespace via::cuda
