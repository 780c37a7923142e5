// SPDX-License-Identifier: Apache-2.0
// A limit on the time that a loop may wait for other blocks. A protocol error then ends the kernel
// with an error instead of hanging the device:
//   Watchdog watchdog{kTimeLimitNs};
//   watchdog.start();
//   while (prim::ld_acquire(flag) != expected) watchdog.poll();
#pragma once

#include "device/prim.cuh"

namespace via {

struct Watchdog {
  unsigned long long limit_ns;
  unsigned long long started_ns = 0;
  unsigned polls = 0;

  __device__ __forceinline__ void start() {
    started_ns = prim::global_timer_ns();
    polls = 0;
  }
  // One turn of the waiting loop, prim::spin() included. The timer is slow: it is read rarely.
  __device__ __forceinline__ void poll() {
    prim::spin();
    if (++polls % 1024 == 0 && prim::global_timer_ns() - started_ns > limit_ns) prim::trap();
  }
};

}  // namespace via
