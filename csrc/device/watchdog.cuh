// SPDX-License-Identifier: Apache-2.0
// A limit on the time that a loop may wait for other blocks. A protocol error then ends the kernel
// with an error instead of hanging the device:
//   Watchdog watchdog{kTimeLimitNs};
//   watchdog.start();
//   while (prim::ld_acquire(flag) != expected) watchdog.poll();
// With an abort word the device survives: poll() is false once the limit is over, which sets the
// word, or once another wait has set it, and the caller gives up.
#pragma once

#include "core/macros.h"
#include "device/prim.cuh"

namespace via {

// A wait is over its limit. Kept apart: it would cost the kernels registers.
VIA_DEVICE_CALL void give_up(unsigned* abort) {
  if (abort == nullptr) prim::trap();
  prim::st_release(abort, 1u);
}

struct Watchdog {
  unsigned long long limit_ns;
  unsigned* abort = nullptr;
  unsigned long long started_ns = 0;
  unsigned polls = 0;

  __device__ __forceinline__ void start() {
    started_ns = prim::global_timer_ns();
    polls = 0;
  }
  // One turn of the waiting loop, prim::spin() included. The timer is slow: it is read rarely.
  __device__ __forceinline__ bool poll() {
    prim::spin();
    if (abort != nullptr && prim::ld_acquire(abort) != 0) return false;
    if (++polls % 1024 != 0 || prim::global_timer_ns() - started_ns <= limit_ns) return true;
    give_up(abort);
    return false;
  }
};

}  // namespace via
