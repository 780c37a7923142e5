// SPDX-License-Identifier: Apache-2.0
// Sums, maxima and prefix sums over a warp and over a block, in an order that depends on nothing
// but the block size: the same values give the same bits on every run and every GPU.
//
// Block functions are called by all kThreads threads of the block; `scratch` points to kWords
// elements of shared memory (SMEM(double, scratch, [BlockReduce<kThreads>::kWords])), every thread
// gets the result, and the scratch is free again on return.
#pragma once

#include "core/macros.h"
#include "device/prim.cuh"

namespace via {

inline constexpr int kWarpSize = 32;
inline constexpr unsigned kFullMask = 0xffffffffu;

struct SumOf {
  template <typename T>
  VIA_HD T operator()(T a, T b) const {
    return a + b;
  }
};
// NaN counts as the smaller: only all-NaN input gives NaN.
struct MaxOf {
  template <typename T>
  VIA_HD T operator()(T a, T b) const {
    return a > b || !(b == b) ? a : b;
  }
};
struct MinOf {
  template <typename T>
  VIA_HD T operator()(T a, T b) const {
    return a < b || !(b == b) ? a : b;
  }
};

// All lanes get the result. T: float, double, or an integer of 4 or 8 bytes.
template <typename T, typename Operation>
__device__ __forceinline__ T warp_reduce(T value, Operation operation) {
#pragma unroll
  for (int offset = kWarpSize / 2; offset > 0; offset /= 2) {
    value = operation(value, __shfl_xor_sync(kFullMask, value, offset));
  }
  return value;
}
template <typename T>
__device__ __forceinline__ T warp_sum(T value) {
  return warp_reduce(value, SumOf{});
}
template <typename T>
__device__ __forceinline__ T warp_max(T value) {
  return warp_reduce(value, MaxOf{});
}
template <typename T>
__device__ __forceinline__ T warp_min(T value) {
  return warp_reduce(value, MinOf{});
}

// Sum of the values of this lane and the lanes below.
template <typename T>
__device__ __forceinline__ T warp_inclusive_sum(T value) {
  const int lane_idx = static_cast<int>(threadIdx.x) % kWarpSize;
#pragma unroll
  for (int offset = 1; offset < kWarpSize; offset *= 2) {
    const T below = __shfl_up_sync(kFullMask, value, offset);
    if (lane_idx >= offset) value += below;
  }
  return value;
}

template <int kThreads>
struct BlockReduce {
  static_assert(kThreads % kWarpSize == 0 && kThreads <= 1024, "whole warps");
  static constexpr int kWarps = kThreads / kWarpSize;
  static constexpr int kWords = kWarps;

  template <typename T>
  static __device__ T sum(T value, T* scratch) {
    return reduce(value, scratch, SumOf{});
  }
  template <typename T>
  static __device__ T max(T value, T* scratch) {
    return reduce(value, scratch, MaxOf{});
  }
  template <typename T>
  static __device__ T min(T value, T* scratch) {
    return reduce(value, scratch, MinOf{});
  }

  // Sum of the values of all threads below this one (0 for thread 0); `total` gets the block's sum.
  template <typename T>
  static __device__ T exclusive_sum(T value, T* scratch, T& total) {
    const int lane_idx = static_cast<int>(threadIdx.x) % kWarpSize;
    const int warp_idx = static_cast<int>(threadIdx.x) / kWarpSize;
    const T inclusive = warp_inclusive_sum(value);
    if (lane_idx == kWarpSize - 1) scratch[warp_idx] = inclusive;
    // Taken from the neighbour, not as inclusive - value, which would round.
    T result = __shfl_up_sync(kFullMask, inclusive, 1);
    if (lane_idx == 0) result = T{};
    __syncthreads();
    T below = T{};
    total = T{};
    for (int warp = 0; warp < kWarps; ++warp) {
      if (warp == warp_idx) below = total;
      total += scratch[warp];
    }
    __syncthreads();
    return below + result;
  }

 private:
  template <typename T, typename Operation>
  static __device__ T reduce(T value, T* scratch, Operation operation) {
    value = warp_reduce(value, operation);
    if (threadIdx.x % kWarpSize == 0) scratch[threadIdx.x / kWarpSize] = value;
    __syncthreads();
    T result = scratch[0];
    for (int warp = 1; warp < kWarps; ++warp) result = operation(result, scratch[warp]);
    __syncthreads();
    return result;
  }
};

}  // namespace via
