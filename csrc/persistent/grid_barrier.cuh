// SPDX-License-Identifier: Apache-2.0
// The barrier of all blocks of a persistent launch, and its end when a block stays away
// (docs/design.md, section 16).
//
// A counter that only grows, also from launch to launch: the n-th barrier of a launch is open when
// it has reached base + n * blocks, compared as a signed difference, so that it may wrap. Thread 0
// adds with release and polls with acquire; __syncthreads before and behind carry the order from
// and to the other threads. 132 additions to one word take about as long as they take to arrive.
//
// `base` of the next launch is written by block 0 behind the last barrier: every block has read the
// old one by then, since it reads before it arrives for the first time. A launch without a barrier
// writes nothing.
//
// A block that waits longer than the limit names itself in Control.fault, the first to do so wins,
// and sets the abort word; every wait ends on it. A block that was only slow may still find the
// counter full and go on: at its next barrier it misses those that left, and leaves too. The abort
// word stays: later launches return at once until the host has zeroed Control and the work space.
#pragma once

#include "core/macros.h"
#include "device/prim.cuh"
#include "via/persistent.h"

namespace via::persistent {

// Polls between looks at the abort word and the clock, both slower than the counter.
inline constexpr unsigned kPollsPerLook = 64;

struct GridBarrier {
  Control* control = nullptr;
  unsigned long long limit_ns = 0;
  unsigned base = 0;  // thread 0's; nobody else uses it
  unsigned epoch = 0;
  bool is_missing = false;  // this block is to stay away
};

VIA_DEVICE bool launch_is_aborted(Control* control) {
  return prim::ld_acquire(&control->abort.value) != 0;
}

// By one thread: ends all waits of the launch. `seen` is what the wait found last.
VIA_DEVICE void abort_launch(Control* control, FaultCode code, int phase_idx, unsigned epoch,
                             unsigned seen) {
  if (atomicCAS(&control->fault[kFaultCode].value, 0u, static_cast<unsigned>(code)) == 0u) {
    control->fault[kFaultPhase].value = static_cast<unsigned>(phase_idx);
    control->fault[kFaultBlock].value = blockIdx.x;
    control->fault[kFaultEpoch].value = epoch;
    control->fault[kFaultSeen].value = seen;
  }
  prim::st_release(&control->abort.value, 1u);
}

// Called by all threads at the start of a kernel. False for all of them if the launch has been
// aborted, or one before it.
VIA_DEVICE bool begin_launch(const ModelArgs& args, GridBarrier& barrier) {
  barrier.control = args.control;
  barrier.limit_ns = args.watchdog_ns;
  barrier.epoch = 0;
  barrier.is_missing = static_cast<int>(blockIdx.x) == args.missing_block;
  bool is_aborted = false;
  if (threadIdx.x == 0) {
    barrier.base = prim::ld_acquire(&args.control->base.value);
    is_aborted = launch_is_aborted(args.control);
  }
  return __syncthreads_or(is_aborted ? 1 : 0) == 0;
}

// Thread 0: false if the wait was given up.
VIA_DEVICE bool wait_for_blocks(const GridBarrier& barrier, unsigned target, int phase_idx) {
  const unsigned* const arrivals = &barrier.control->arrivals.value;
  unsigned long long started_ns = 0;
  for (unsigned polls = 0;; ++polls) {
    const unsigned seen = prim::ld_acquire(arrivals);
    if (static_cast<int>(seen - target) >= 0) return true;
    if (polls % kPollsPerLook == kPollsPerLook - 1) {
      if (launch_is_aborted(barrier.control)) return false;
      const unsigned long long now_ns = prim::global_timer_ns();
      if (started_ns == 0) started_ns = now_ns;
      if (now_ns - started_ns > barrier.limit_ns) {
        abort_launch(barrier.control, FaultCode::kBarrier, phase_idx, barrier.epoch, seen);
        return false;
      }
    }
    prim::spin();
  }
}

// Called by all threads of all blocks. What a block wrote before is there for all behind grid_wait;
// between the two nothing may be written that others read, or read what others write.
VIA_DEVICE void grid_arrive(GridBarrier& barrier) {
  ++barrier.epoch;
  __syncthreads();
  if (threadIdx.x == 0 && !barrier.is_missing) {
    prim::add_acq_rel(&barrier.control->arrivals.value, 1u);
  }
}

// False for the whole block if the launch was aborted: no further barrier then, leave.
VIA_DEVICE bool grid_wait(const GridBarrier& barrier, int phase_idx) {
  bool is_aborted = false;
  if (threadIdx.x == 0) {
    is_aborted = !wait_for_blocks(barrier, barrier.base + barrier.epoch * gridDim.x, phase_idx);
  }
  return __syncthreads_or(is_aborted ? 1 : 0) == 0;
}

VIA_DEVICE bool grid_sync(GridBarrier& barrier, int phase_idx) {
  grid_arrive(barrier);
  return grid_wait(barrier, phase_idx);
}

// Called by all threads of all blocks that passed the last grid_sync of a launch, nothing behind it
// being waited for: prepares the next launch.
VIA_DEVICE void end_launch(const GridBarrier& barrier) {
  if (blockIdx.x == 0 && threadIdx.x == 0 && barrier.epoch != 0) {
    barrier.control->base.value = barrier.base + barrier.epoch * gridDim.x;
  }
}

}  // namespace via::persistent
