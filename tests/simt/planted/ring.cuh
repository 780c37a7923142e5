// SPDX-License-Identifier: Apache-2.0
// One producer warp, four consumer warps, a ring of bulk copies between full and empty mbarriers
// (sm_90): y[i] = 3 x[i] + x[i ^ 1]. The ring starts as zeros, written by the threads. To plant:
// 1 consumers do not wait for full    2 producer does not wait for empty   3 wrong expected bytes
// 4 no proxy fence between the zeros and the first copies
#pragma once

#include "device/prim.cuh"

namespace via::planted {

struct Ring {
  static constexpr int kSlots = 3, kTile = 256, kConsumers = 128, kThreads = kConsumers + 32;
  static constexpr std::size_t shared_bytes() { return kSlots * kTile * sizeof(float) + 256; }
};

template <int kBug>
__global__ void __launch_bounds__(Ring::kThreads)
    ring_kernel(const float* x /* [tiles, 256] */, float* y /* [tiles, 256] */, int tiles) {
  constexpr int kSlots = Ring::kSlots, kTile = Ring::kTile;
  DYN_SMEM(shared);
  unsigned char* free = shared;
  float* ring = prim::carve<float>(free, kSlots * kTile);
  prim::mbar_t* full = prim::carve<prim::mbar_t>(free, kSlots);
  prim::mbar_t* empty = prim::carve<prim::mbar_t>(free, kSlots);
  const int thread = static_cast<int>(threadIdx.x);
  if (thread == 0) {
    for (int slot = 0; slot < kSlots; ++slot) {
      prim::mbar_init(full + slot, 1);
      prim::mbar_init(empty + slot, Ring::kConsumers / 32);
    }
    prim::mbar_fence_init();
  }
  for (int i = thread; i < kSlots * kTile; i += Ring::kThreads) ring[i] = 0.0f;
  if constexpr (kBug != 4) prim::fence_proxy_async();
  __syncthreads();
  if (thread == Ring::kConsumers) {
    for (int tile = 0; tile < tiles; ++tile) {
      const int slot = tile % kSlots;
      if constexpr (kBug != 2) {
        if (tile >= kSlots) prim::mbar_wait(empty + slot, (tile / kSlots - 1) & 1);
      }
      constexpr unsigned kBytes = kTile * sizeof(float);
      prim::mbar_arrive_tx(full + slot, kBug == 3 ? kBytes + 16 : kBytes);
      prim::bulk_load(ring + slot * kTile, x + static_cast<std::size_t>(tile) * kTile, kBytes,
                      full + slot);
    }
  } else if (thread < Ring::kConsumers) {
    for (int tile = 0; tile < tiles; ++tile) {
      const int slot = tile % kSlots;
      if constexpr (kBug != 1) prim::mbar_wait(full + slot, tile / kSlots & 1);
      const float* in = ring + slot * kTile;
      for (int i = thread; i < kTile; i += Ring::kConsumers) {
        y[static_cast<std::size_t>(tile) * kTile + i] = 3.0f * in[i] + in[i ^ 1];
      }
      __syncwarp();
      if (thread % 32 == 0) prim::mbar_arrive(empty + slot);
    }
  }
}

}  // namespace via::planted
