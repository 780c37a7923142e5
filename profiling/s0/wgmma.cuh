// SPDX-License-Identifier: Apache-2.0
// wgmma m64nNk16 (bf16 operands from shared memory, float32 accumulators), sm_90a only.
#pragma once

#include "ptx.cuh"

#if S0_HAS_WGMMA
namespace via::s0 {

// K-major operand in 128-byte swizzled rows, 8-row atoms 1024 bytes apart. 32 bytes further along k
// is +2 in a descriptor.
__device__ __forceinline__ std::uint64_t wgmma_descriptor(const void* tile) {
  return static_cast<std::uint64_t>((prim::shared_address(tile) & 0x3ffffu) >> 4) | (1ull << 16) |
         (static_cast<std::uint64_t>(1024 >> 4) << 32) | (1ull << 62);
}

__device__ __forceinline__ void wgmma_fence() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ __forceinline__ void wgmma_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
template <int kPending>
__device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

// The registers belong to the tensor core between fence and wait: keep the compiler away.
template <int kCount>
__device__ __forceinline__ void pin_registers(float (&d)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(d[i])::"memory");
}

#define S0_D1(i) "+f"(d[i])
#define S0_D4(i) S0_D1(i), S0_D1(i + 1), S0_D1(i + 2), S0_D1(i + 3)
#define S0_D16(i) S0_D4(i), S0_D4(i + 4), S0_D4(i + 8), S0_D4(i + 12)

__device__ __forceinline__ void wgmma(float (&d)[4], std::uint64_t a, std::uint64_t b) {
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3}, %4, %5, 1, 1, 1, 0, 0;"
      : S0_D4(0)
      : "l"(a), "l"(b));
}

__device__ __forceinline__ void wgmma(float (&d)[8], std::uint64_t a, std::uint64_t b) {
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n16k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7}, %8, %9, 1, 1, 1, 0, 0;"
      : S0_D4(0), S0_D4(4)
      : "l"(a), "l"(b));
}

__device__ __forceinline__ void wgmma(float (&d)[16], std::uint64_t a, std::uint64_t b) {
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15}, "
      "%16, %17, 1, 1, 1, 0, 0;"
      : S0_D16(0)
      : "l"(a), "l"(b));
}

__device__ __forceinline__ void wgmma(float (&d)[32], std::uint64_t a, std::uint64_t b) {
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
      "%32, %33, 1, 1, 1, 0, 0;"
      : S0_D16(0), S0_D16(16)
      : "l"(a), "l"(b));
}

#undef S0_D1
#undef S0_D4
#undef S0_D16

}  // namespace via::s0
#endif
