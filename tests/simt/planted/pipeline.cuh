// SPDX-License-Identifier: Apache-2.0
// Cooperative kernel of three stages and several rounds around a grid barrier, with bugs to plant:
// 1 no grid barrier before the third stage   2 grid barrier without its leading __syncthreads
// 3 plain counter instead of an atomic       4 relaxed arrival, no release
// 5 no __syncwarp between lanes that exchange data by shared memory
#pragma once

#include "device/reduce.cuh"

namespace via::planted {

struct GridBarrier {
  unsigned count, sense;
};

template <int kBug>
__device__ inline void grid_barrier(GridBarrier* barrier, unsigned& sense) {
  if constexpr (kBug != 2) __syncthreads();
  sense ^= 1u;
  if (threadIdx.x == 0) {
    unsigned arrived = 0;
    if constexpr (kBug == 3) {
      arrived = barrier->count;
      barrier->count = arrived + 1;
      __threadfence();
    } else if constexpr (kBug == 4) {
      arrived = atomicAdd(&barrier->count, 1u);
    } else {
      arrived = prim::add_acq_rel(&barrier->count, 1u);
    }
    if (arrived == gridDim.x - 1) {
      barrier->count = 0;
      prim::st_release(&barrier->sense, sense);
    } else {
      while (prim::ld_acquire(&barrier->sense) != sense) prim::spin();
    }
  }
  __syncthreads();
}

template <int kThreads, int kBug>
__global__ void __launch_bounds__(kThreads)
    pipeline_kernel(int* a /* [n] */, int* b /* [n] */, int* c /* [n] */, int* sums /* [rounds] */,
                    GridBarrier* barrier, int rounds) {
  SMEM(int, tile, [kThreads]);
  const int thread = static_cast<int>(threadIdx.x);
  const int n = static_cast<int>(gridDim.x) * kThreads;  // elements of a, b and c
  const int i = static_cast<int>(blockIdx.x) * kThreads + thread;
  unsigned sense = 0;
  for (int round = 0; round < rounds; ++round) {
    b[i] = a[i] * 2 + round;
    grid_barrier<kBug>(barrier, sense);
    c[i] = b[(i + kThreads) % n] + b[n - 1 - i];
    if constexpr (kBug != 1) grid_barrier<kBug>(barrier, sense);
    tile[thread] = c[(i * 7 + 3) % n];
    if constexpr (kBug != 5) __syncwarp();
    const int value = tile[thread ^ 31];
    a[i] = value % 1024;
    const int sum = warp_sum(value);
    if (thread % kWarpSize == 0) atomicAdd(&sums[round], sum);
  }
}

}  // namespace via::planted
