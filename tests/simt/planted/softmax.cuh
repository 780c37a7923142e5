// SPDX-License-Identifier: Apache-2.0
// Softmax and argmax of a row of logits, one block per row, with bugs to plant:
// 1 no barrier between two uses of an array   2 one probability too many is written
// 3 shuffle under divergence                  4 shared array written one element too far
#pragma once

#include "device/reduce.cuh"

namespace via::planted {

template <int kThreads, int kBug>
__global__ void __launch_bounds__(kThreads)
    softmax_kernel(const float* logits /* [rows, n] */, float* probs /* [rows, n] */,
                   int* best /* [rows] */, int n) {
  constexpr int kWarps = kThreads / kWarpSize;
  SMEM(float, part, [kWarps]);
  SMEM(int, part_idx, [kWarps]);
  const int thread = static_cast<int>(threadIdx.x);
  const int lane_idx = thread % kWarpSize, warp_idx = thread / kWarpSize;
  const float* row = logits + static_cast<std::size_t>(blockIdx.x) * n;
  float* out = probs + static_cast<std::size_t>(blockIdx.x) * n;

  float max = -INFINITY;
  int argmax = 0x7fffffff;
  for (int i = thread; i < n; i += kThreads) {
    if (row[i] > max) {
      max = row[i];
      argmax = i;
    }
  }
  if (kBug != 3 || lane_idx < 31) {
    for (int offset = 16; offset > 0; offset /= 2) {
      const float other = __shfl_xor_sync(kFullMask, max, offset);
      const int other_idx = __shfl_xor_sync(kFullMask, argmax, offset);
      if (other > max || (other == max && other_idx < argmax)) {
        max = other;
        argmax = other_idx;
      }
    }
  }
  if (lane_idx == 0) {
    part[warp_idx + (kBug == 4 ? 1 : 0)] = max;
    part_idx[warp_idx] = argmax;
  }
  __syncthreads();
  max = part[0];
  argmax = part_idx[0];
  for (int warp = 1; warp < kWarps; ++warp) {
    if (part[warp] > max || (part[warp] == max && part_idx[warp] < argmax)) {
      max = part[warp];
      argmax = part_idx[warp];
    }
  }
  if constexpr (kBug != 1) __syncthreads();  // part[] is written again

  float sum = 0.0f;
  for (int i = thread; i < n; i += kThreads) sum += __expf(row[i] - max);
  sum = warp_sum(sum);
  if (lane_idx == 0) part[warp_idx] = sum;
  __syncthreads();
  sum = 0.0f;
  for (int warp = 0; warp < kWarps; ++warp) sum += part[warp];
  const int last = kBug == 2 ? n + 1 : n;
  for (int i = thread; i < last; i += kThreads) out[i] = i < n ? __expf(row[i] - max) / sum : 0.0f;
  if (thread == 0) best[blockIdx.x] = argmax;
}

}  // namespace via::planted
