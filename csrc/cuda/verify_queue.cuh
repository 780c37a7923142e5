// SPDX-License-Identifier: Apache-2.0
// The work queue of one launch. Tickets are taken in order: the first belong to the items known
// before the launch, the others to what requests ask for later. Only a running block holds a
// ticket, and what it waits for is published by another that runs: the queue needs no co-residency,
// and the results do not depend on who takes what. Counters are zero before and after a launch.
#pragma once

#include <cstdint>

#include "core/tree.h"
#include "cuda/verify_args.cuh"
#include "device/watchdog.cuh"

namespace via::cuda {

struct Work {
  ItemKind kind;
  int batch_idx;
  int slot;
  int unit;
  bool is_static;
  bool is_in_range;  // static items: there is such a row or node
  int base;          // static items: the row where the request's walk starts
};

// In shared memory: what thread 0 found out for the block.
struct QueueState {
  Work work;
  unsigned ticket;  // kNoTicket, or taken already
  int is_open;
  int is_last;
  unsigned first_item;
  std::uint8_t is_scanned[2 * kRows];  // by slot
};

// First row of a request's walk that an earlier call has not decided.
VIA_DEVICE int base_row(const VerifyArgs& args, int batch_idx) {
  if (!args.has_resume) return 0;
  const std::int64_t accepted = args.resume.num_accepted[batch_idx];
  if (accepted <= 0 || accepted > args.p.num_nodes) return 0;
  const int node = args.resume.path[batch_idx * std::int64_t{args.p.num_nodes} + accepted - 1];
  return node >= 0 && node < args.p.num_nodes ? row_of_node(node) : 0;
}

// A static item covers a row counted from where the walk starts. Rows before it take the slots of
// those past the end, so that every item counts its arrivals in a slot of its own.
VIA_DEVICE Work static_work(const VerifyArgs& args, unsigned ticket) {
  const unsigned item = ticket / static_cast<unsigned>(args.plan.units);
  const unsigned batch_size = static_cast<unsigned>(args.p.batch_size);
  Work work;
  work.unit = static_cast<int>(ticket % static_cast<unsigned>(args.plan.units));
  work.batch_idx = static_cast<int>(item % batch_size);
  work.slot = static_cast<int>(item / batch_size);
  work.kind = ItemKind::kTarget;
  work.is_static = true;
  work.is_in_range = true;
  work.base = base_row(args, work.batch_idx);
  if (work.slot < args.plan.first_rows) {
    const int offset = work.slot;
    const bool is_chain = args.p.parents.data == nullptr;
    work.slot = work.base + offset;
    if (work.slot > args.p.num_nodes) {
      work.slot -= args.p.num_nodes + 1;
      work.is_in_range = false;
    }
    // In a tree the rows that follow in number need not follow on the path.
    if (work.base > 0 && !is_chain && offset > 0) work.is_in_range = false;
  } else {
    work.slot = args.draft_slot(work.slot - args.plan.first_rows);
    work.kind = ItemKind::kDraft;
  }
  return work;
}

// Waits for the published item behind a ticket; false when all requests are done, or the launch is
// given up. One thread.
VIA_DEVICE bool wait_for_work(const VerifyArgs& args, unsigned ticket, Work& work) {
  const unsigned units = static_cast<unsigned>(args.plan.units);
  const unsigned item_idx = ticket / units;
  Watchdog watchdog{args.plan.watchdog_ns, args.plan.abort};
  watchdog.start();
  while (true) {
    if (item_idx < static_cast<unsigned>(args.plan.item_capacity)) {
      const Item& item = args.ws.items[item_idx];
      const unsigned word = prim::ld_acquire(&item.word);
      if (word != 0) {
        work.kind = static_cast<ItemKind>(word >> 8);
        work.slot = static_cast<int>(word & 0xffu);
        work.batch_idx = item.batch_idx;
        work.unit = static_cast<int>(ticket % units);
        work.is_static = false;
        return true;
      }
    }
    if (prim::ld_acquire(&args.ws.queue->closed.value) != 0) return false;
    if (!watchdog.poll()) return false;
  }
}

// Puts the block's next work into `state`; false when all requests are done.
VIA_DEVICE_CALL bool take_work(const VerifyArgs& args, QueueState& state) {
  const unsigned static_units = args.plan.static_units;
  // Nobody looks at the last work any more: finish_unit and finish_item end with barriers.
  if (threadIdx.x == 0) {
    const unsigned ticket =
        state.ticket != kNoTicket ? state.ticket : atomicAdd(&args.ws.queue->head.value, 1u);
    state.ticket = kNoTicket;
    state.is_open = 1;
    if (ticket < static_units) {
      state.work = static_work(args, ticket);
    } else if (args.plan.is_closed || !wait_for_work(args, ticket - static_units, state.work)) {
      state.is_open = 0;
    }
  }
  __syncthreads();
  return state.is_open != 0;
}

// True for the block that finishes the item; what the other blocks wrote is then visible to all its
// threads.
VIA_DEVICE bool finish_unit(const VerifyArgs& args, QueueState& state) {
  const Work& work = state.work;
  unsigned& arrivals =
      args.ws.arrivals[static_cast<std::int64_t>(work.batch_idx) * args.num_slots() + work.slot];
  __syncthreads();
  if (threadIdx.x == 0) {
    const unsigned before = prim::add_acq_rel(&arrivals, 1u);
    state.is_last = before + 1 == static_cast<unsigned>(args.plan.units);
    if (state.is_last) arrivals = 0;
  }
  __syncthreads();
  return state.is_last != 0;
}

// True for the block that finishes the last item of the request's round.
VIA_DEVICE bool finish_item(const VerifyArgs& args, QueueState& state) {
  const Work& work = state.work;
  __syncthreads();
  if (threadIdx.x == 0) {
    // Read before arriving: after that another block may already have begun the next round.
    const unsigned size = work.is_static
                              ? static_cast<unsigned>(args.plan.first_rows + args.plan.first_drafts)
                              : args.ws.round_size[work.batch_idx];
    const unsigned before = prim::add_acq_rel(&args.ws.pending[work.batch_idx], 1u);
    state.is_last = before + 1 == size;
  }
  __syncthreads();
  return state.is_last != 0;
}

// Publishes one item for every thread with `wanted`; returns how many there were.
VIA_DEVICE int publish_items(const VerifyArgs& args, int batch_idx, bool wanted, ItemKind kind,
                             int slot, QueueState& state, unsigned* scratch) {
  const auto scan = block_scan(wanted ? 1u : 0u, scratch);
  if (scan.total == 0) return 0;
  if (threadIdx.x == 0) {
    args.ws.pending[batch_idx] = 0;
    args.ws.round_size[batch_idx] = scan.total;
    state.first_item = atomicAdd(&args.ws.queue->published.value, scan.total);
  }
  __syncthreads();
  if (wanted) {
    Item& item = args.ws.items[state.first_item + scan.before];
    item.batch_idx = batch_idx;
    prim::st_release(&item.word, static_cast<unsigned>(kind) << 8 | static_cast<unsigned>(slot));
  }
  return static_cast<int>(scan.total);
}

// A request is decided: what it left in the work space becomes zero again, since another call may
// lay the same memory out in another way.
VIA_DEVICE_CALL void finish_request(const VerifyArgs& args, int batch_idx, QueueState& state) {
  const int i = static_cast<int>(threadIdx.x);
  const int slots = args.num_slots();
  if (i < slots) state.is_scanned[i] = row_record(args, batch_idx, i).flags != 0;
  __syncthreads();
  for (int slot = 0; slot < slots; ++slot) {
    if (!state.is_scanned[slot]) continue;
    const bool is_draft = slot > args.p.num_nodes;
    if (!is_draft || args.p.draft_probs_are_logits) {
      clear(chunk_records(args, batch_idx, slot),
            is_draft ? args.plan.draft_chunks : args.plan.chunks);
    }
    if (!is_draft && args.plan.stores_lane_max) {
      clear(lane_maxima(args, batch_idx, slot), std::int64_t{args.plan.chunks} * kWarpSize);
    }
  }
  RowRecord zero = {};
  zero.cut = {0.0f, 0};
  clear(&row_record(args, batch_idx, 0), slots, zero);
  if (args.plan.has_residuals) {
    clear(residual_masses(args, batch_idx, 0), 2 * std::int64_t{args.plan.chunks});
    clear(sibling_weights(args, batch_idx, 0), 2 * std::int64_t{args.p.num_nodes});
  }
  if (i == 0) {
    args.ws.pending[batch_idx] = 0;
    args.ws.round_size[batch_idx] = 0;
  }
  if (i != 0) return;
  QueueHead& queue = *args.ws.queue;
  // Relaxed: what this request wrote is for the next launch, not for another block.
  const unsigned before = atomicAdd(&queue.done.value, 1u);
  if (before + 1 == static_cast<unsigned>(args.p.batch_size)) {
    prim::st_release(&queue.closed.value, 1u);
  }
}

// The last block to leave zeroes the queue.
VIA_DEVICE_CALL void leave_queue(const VerifyArgs& args, QueueState& state) {
  QueueHead& queue = *args.ws.queue;
  if (threadIdx.x == 0) {
    state.is_last = prim::add_acq_rel(&queue.exited.value, 1u) + 1 == gridDim.x;
  }
  __syncthreads();
  if (state.is_last == 0) return;
  const unsigned published = queue.published.value;
  clear(args.ws.items, published);
  __syncthreads();
  if (threadIdx.x == 0) {
    queue.head.value = queue.published.value = 0;
    queue.done.value = queue.closed.value = queue.exited.value = 0;
  }
}

}  // namespace via::cuda
