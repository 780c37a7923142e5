// SPDX-License-Identifier: Apache-2.0
// PTX that the micro-benchmarks need beyond csrc/device/prim.cuh: relaxed polling of mbarriers with
// a watchdog, clusters, multicast, and wgmma. Features of newer architectures are compiled out
// below them; the benchmark then says so at run time.
#pragma once

#include <cstdint>

#include "device/prim.cuh"

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
#define S0_HAS_BULK 1
#else
#define S0_HAS_BULK 0
#endif
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define S0_HAS_WGMMA 1
#else
#define S0_HAS_WGMMA 0
#endif

namespace via::s0 {

using Mbar = prim::mbar_t;
inline constexpr unsigned long long kWatchdogNs = 2'000'000'000ull;

// For wait loops: a wait of more than two seconds stops the kernel with an error.
class Watchdog {
 public:
  __device__ __forceinline__ void poll() {
    if ((++polls_ & 1023u) != 0) return;
    const unsigned long long now = prim::global_timer_ns();
    if (start_ == 0) start_ = now;
    if (now - start_ > kWatchdogNs) prim::trap();
  }

 private:
  unsigned polls_ = 0;
  unsigned long long start_ = 0;
};

// Grid-wide arrival without waiting for the old value.
__device__ __forceinline__ void add_release(unsigned* counter, unsigned value) {
  asm volatile("red.release.gpu.global.add.u32 [%0], %1;" ::"l"(counter), "r"(value) : "memory");
}

__device__ __forceinline__ void add_relaxed(unsigned* counter, unsigned value) {
  asm volatile("red.relaxed.gpu.global.add.u32 [%0], %1;" ::"l"(counter), "r"(value) : "memory");
}

// Named barrier with an immediate number: a register operand would reserve all sixteen.
template <int kId, int kThreads>
__device__ __forceinline__ void bar_sync() {
  asm volatile("bar.sync %0, %1;" ::"n"(kId), "n"(kThreads) : "memory");
}

__device__ __forceinline__ unsigned sm_id() {
  unsigned id;
  asm volatile("mov.u32 %0, %%smid;" : "=r"(id));
  return id;
}

#if S0_HAS_BULK
__device__ __forceinline__ bool mbar_try(const Mbar* barrier, unsigned parity) {
  std::uint32_t done;
  asm volatile(
      "{ .reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2; "
      "selp.b32 %0, 1, 0, p; }"
      : "=r"(done)
      : "r"(prim::shared_address(barrier)), "r"(parity)
      : "memory");
  return done != 0;
}

__device__ __forceinline__ void mbar_wait(const Mbar* barrier, unsigned parity) {
  Watchdog watchdog;
  while (!mbar_try(barrier, parity)) watchdog.poll();
}

__device__ __forceinline__ unsigned cluster_rank() {
  unsigned rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}

__device__ __forceinline__ void cluster_sync() {
  asm volatile("barrier.cluster.arrive.release.aligned; barrier.cluster.wait.acquire.aligned;" ::
                   : "memory");
}

// One copy into the same place of every CTA of `cta_mask`; each CTA's own barrier gets the bytes.
__device__ __forceinline__ void bulk_load_multicast(void* dst, const void* src, unsigned bytes,
                                                    Mbar* barrier, std::uint16_t cta_mask) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster "
      "[%0], [%1], %2, [%3], %4;" ::"r"(prim::shared_address(dst)),
      "l"(src), "r"(bytes), "r"(prim::shared_address(barrier)), "h"(cta_mask)
      : "memory");
}

// Arrives on the barrier at the same place in another CTA of the cluster (or in this one).
__device__ __forceinline__ void mbar_arrive_at(const Mbar* barrier, unsigned cta_rank) {
  asm volatile(
      "{ .reg .b32 remote; mapa.shared::cluster.u32 remote, %0, %1; "
      "mbarrier.arrive.release.cluster.shared::cluster.b64 _, [remote]; }" ::"r"(
          prim::shared_address(barrier)),
      "r"(cta_rank)
      : "memory");
}
#endif

}  // namespace via::s0
