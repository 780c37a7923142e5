// SPDX-License-Identifier: Apache-2.0
// When each block began and ended each phase: what an SM-by-time plot needs (docs/design.md,
// section 16; profiling/phase_plot.py). Compiled in by VIA_STAMPS only: without it both hooks are
// empty, and no register, load or branch of the kernel depends on them.
//
// The caller owns the buffer, [grid] BlockStamps, zero before a launch; a launch appends. One
// thread of a block writes it, two stores of 8 bytes per phase: about 20 ns on a phase of
// microseconds. Stamps are nanoseconds of the device's global timer, which all multiprocessors
// share; its steps are 32 ns on an H100 class GPU and up to 1 us elsewhere. In the simulation they
// are a counter.
#pragma once

#include "core/macros.h"
#include "device/prim.cuh"

namespace via::persistent {

inline constexpr int kMaxStamps = 2048;  // of a block; later ones are dropped

// Work of a step that is no phase of the program.
enum StampedStage : int {
  kStampVerify = -1,
  kStampStage = -2,  // bookkeeping of the step
  kStampCompact = -3,
  kStampSlimRows = -4  // probabilities kept for the audit
};

struct Stamp {
  long long phase;  // index into the program's phases, or a StampedStage
  unsigned long long begin_ns;
  unsigned long long end_ns;
};
struct BlockStamps {
  unsigned long long count;
  Stamp stamps[kMaxStamps];
};

}  // namespace via::persistent

// Both in block-uniform code, BEGIN before the first access of the phase, END before the barrier
// behind it: the gap to the next BEGIN is the time that the block waited.
#ifdef VIA_STAMPS

namespace via::persistent {

VIA_DEVICE void stamp_begin(void* buffer, int phase) {
  if (buffer == nullptr || threadIdx.x != 0) return;
  BlockStamps& own = static_cast<BlockStamps*>(buffer)[blockIdx.x];
  if (own.count >= kMaxStamps) return;
  own.stamps[own.count].phase = phase;
  own.stamps[own.count].begin_ns = prim::global_timer_ns();
}
VIA_DEVICE void stamp_end(void* buffer) {
  if (buffer == nullptr || threadIdx.x != 0) return;
  BlockStamps& own = static_cast<BlockStamps*>(buffer)[blockIdx.x];
  if (own.count >= kMaxStamps) return;
  own.stamps[own.count].end_ns = prim::global_timer_ns();
  ++own.count;
}

}  // namespace via::persistent

#define VIA_STAMP_BEGIN(buffer, phase) ::via::persistent::stamp_begin(buffer, phase)
#define VIA_STAMP_END(buffer) ::via::persistent::stamp_end(buffer)
#else
#define VIA_STAMP_BEGIN(buffer, phase) ((void)0)
#define VIA_STAMP_END(buffer) ((void)0)
#endif
