// SPDX-License-Identifier: Apache-2.0
// The stream of weights (docs/design.md section 16): a ring of slots in shared memory, filled by
// warps 0 to 5 in the order in which the block's products will use it, ahead of them.
//
// Slot i of a pass range lies at i % kRingSlots and holds the chunks that layout.h's Sweep gives
// it, rows padded to whole m16 tiles (the padding is whatever was there). The last thread of the
// block walks the phase table one slot ahead of the copies; closed gates are passed over. While a
// product uses slot i, slots up to i + kRingSlots - 1 are under way, those of later phases
// included: weights stream through epilogues and grid barriers, and stop only where the range ends.
//
// Counting: one commit group per slot and thread, an empty one where nothing is left, so that
// "all but the newest n groups" means the same slot in every thread. Other cp.async of these
// threads between two slots (attention) must have been waited for; they only make waits stricter.
// Bytes: every weight of the open phases once, rows / blocks of it per block, past L1, first out of
// L2 (activations, keys and values are to stay there).
#pragma once

#include <cstdint>

#include "persistent/block.cuh"

namespace via::persistent {

inline constexpr int kWeightThreads = kThreads - 64;  // the others copy activations
inline constexpr int kWalker = kThreads - 1;

// Rows of a product that a block owns.
struct OwnRows {
  int first;
  int count;
};
VIA_HD OwnRows own_rows(const Phase& phase, int num_blocks, int block_idx) {
  const Share share = share_of(phase.rows / phase.unit, num_blocks, block_idx);
  return {share.first * phase.unit, (share.last - share.first) * phase.unit};
}

// Moves to the next sweep of an open phase; false at the end of the range. One thread.
template <class T>
VIA_DEVICE bool next_sweep(const Block<T>& block, RingCursor& cursor) {
  while (true) {
    if (cursor.sweep_idx < cursor.sweeps) {
      const Phase& phase = block.model.phases[cursor.phase_idx];
      const OwnRows own = own_rows(phase, block.num_blocks, block.block_idx);
      const Sweep sweep =
          sweep_of(own.first, own.count, phase.chunks, T::kSweepRows, cursor.sweep_idx++);
      const std::int64_t element = phase.weights + packed_index(sweep.first_row, 0, phase.rows);
      cursor.chunk = 0;
      cursor.chunks = phase.chunks;
      cursor.slot_chunks = sweep.slot_chunks;
      cursor.next = {static_cast<const unsigned char*>(block.model.weights.packed) + element * 2,
                     std::int64_t{phase.rows} * kChunk * 2, sweep.rows * kChunk * 2, 0};
      return true;
    }
    if (cursor.phase_idx + 1 >= cursor.last) return false;
    const Phase& next = block.model.phases[++cursor.phase_idx];
    cursor.sweep_idx = cursor.sweeps = 0;
    if (next.rows > 0 && gate_is_open(block.shared.gates, next.gate)) {
      const OwnRows own = own_rows(next, block.num_blocks, block.block_idx);
      cursor.sweeps = sweep_count(own.count, T::kSweepRows);
    }
  }
}

// The slot at the cursor, which moves on; divisions and reads of the table once per sweep. One
// thread.
template <class T>
VIA_DEVICE SlotPlan next_plan(const Block<T>& block, RingCursor& cursor) {
  if (cursor.chunk == cursor.chunks && !next_sweep(block, cursor)) return {};
  SlotPlan plan = cursor.next;
  plan.chunks = min(cursor.slot_chunks, cursor.chunks - cursor.chunk);
  cursor.next.source += plan.chunks * plan.chunk_bytes;
  cursor.chunk += plan.chunks;
  return plan;
}

// Copies slot `slot` of the range, which must be free, and plans the one behind it. Every thread of
// the block; between two calls there is a __syncthreads.
template <class T>
VIA_DEVICE void produce_slot(const Block<T>& block, int slot) {
  const int thread = static_cast<int>(threadIdx.x);
  if (thread < kWeightThreads) {
    const SlotPlan plan = block.shared.plans[slot % 2];
    const int padded_bytes = padded_to(plan.row_bytes, 16 * kChunk * 2);
    const prim::CachePolicy policy = prim::evict_first();
    unsigned char* to = block.ring + slot % T::kRingSlots * T::kSlotBytes;
    const unsigned char* from = plan.source;
    int chunk = 0, byte = thread * 16;
    while (true) {
      for (; byte >= plan.row_bytes && chunk < plan.chunks; byte -= plan.row_bytes) {
        ++chunk;
        to += padded_bytes;
        from += plan.chunk_bytes;
      }
      if (chunk >= plan.chunks) break;
      prim::cp_async16(to + byte, from + byte, policy);
      byte += kWeightThreads * 16;
    }
    prim::cp_async_commit();
  } else if (thread == kWalker) {
    block.shared.plans[(slot + 1) % 2] = next_plan(block, block.shared.cursor);
  }
}

// First weights of a pass range under its gates; behind a barrier. The range before has been used
// up. Reads weights only: may run before other blocks are ready.
template <class T>
VIA_DEVICE void prime_ring(const Block<T>& block, const PassRange& range, const Gates& gates) {
  if (threadIdx.x == kWalker) {
    block.shared.gates = gates;
    block.shared.consumed = 0;
    // As if at the end of the phase before the first.
    RingCursor cursor = {};
    cursor.phase_idx = range.first - 1;
    cursor.last = range.last;
    block.shared.cursor = cursor;
    block.shared.plans[0] = next_plan(block, block.shared.cursor);
  }
  __syncthreads();
#pragma unroll 1
  for (int slot = 0; slot < T::kRingSlots; ++slot) {
    produce_slot(block, slot);
    __syncthreads();
  }
}

// Before a block leaves with slots that nobody used.
VIA_DEVICE void drain_ring() { prim::cp_async_wait<0>(); }

// One slot of the ring in use: every thread waits for its own copies of it; a barrier must follow.
// The first slot of a sweep was followed by kRingSlots - 1 others, a later one by one less.
template <class T>
VIA_DEVICE void await_weights(bool is_first_of_sweep) {
  if (is_first_of_sweep) {
    prim::cp_async_wait<T::kRingSlots - 1>();
  } else {
    prim::cp_async_wait<T::kRingSlots - 2>();
  }
}

}  // namespace via::persistent
