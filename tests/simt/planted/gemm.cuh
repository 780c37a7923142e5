// SPDX-License-Identifier: Apache-2.0
// C[64, n] = A[64, k] B[n, k]^T, bfloat16 in, float32 out; one block of four warps per 64 columns,
// cp.async into two buffers, ldmatrix, mma. Bugs to plant:
// 1 no __syncthreads after the wait        2 waits for one group too few
// 3 shared rows of B one row too far       4 no barrier before a buffer is filled again
// 5 result one column too far
#pragma once

#include "device/prim.cuh"

namespace via::planted {

struct Gemm {
  static constexpr int kRows = 64, kColumns = 64, kDepth = 32, kThreads = 128;
  static constexpr int kStride = kDepth + 8;  // 80 bytes: aligned, and free of bank conflicts
  static constexpr std::size_t shared_bytes() {
    return 2 * (kRows + kColumns) * kStride * sizeof(__nv_bfloat16);
  }
};

template <int kBug>
__global__ void __launch_bounds__(Gemm::kThreads)
    gemm_kernel(const __nv_bfloat16* a /* [64, k] */, const __nv_bfloat16* b /* [n, k] */,
                float* c /* [64, n] */, int n, int k) {
  constexpr int kStride = Gemm::kStride, kRows = Gemm::kRows;
  constexpr int kChunks = Gemm::kDepth / 8;  // of 16 bytes per row
  DYN_SMEM(shared);
  unsigned char* free = shared;
  __nv_bfloat16* tiles_a[2];
  __nv_bfloat16* tiles_b[2];
  for (int i = 0; i < 2; ++i) {
    tiles_a[i] = prim::carve<__nv_bfloat16>(free, kRows * kStride);
    tiles_b[i] = prim::carve<__nv_bfloat16>(free, Gemm::kColumns * kStride);
  }
  const int thread = static_cast<int>(threadIdx.x), lane = thread & 31, warp = thread >> 5;
  const int first_column = static_cast<int>(blockIdx.x) * Gemm::kColumns;

  const auto load = [&](int buffer, int k0) {
    for (int i = thread; i < (kRows + Gemm::kColumns) * kChunks; i += Gemm::kThreads) {
      const int row = i / kChunks, column = i % kChunks * 8;
      if (row < kRows) {
        prim::cp_async16(tiles_a[buffer] + row * kStride + column,
                         a + static_cast<std::size_t>(row) * k + k0 + column);
      } else {
        const int target = row - kRows + (kBug == 3 ? 1 : 0);
        prim::cp_async16(
            tiles_b[buffer] + target * kStride + column,
            b + static_cast<std::size_t>(first_column + row - kRows) * k + k0 + column);
      }
    }
    prim::cp_async_commit();
  };

  float sums[8][4] = {};
  load(0, 0);
  const int steps = k / Gemm::kDepth;
  for (int step = 0; step < steps; ++step) {
    if (step + 1 < steps) {
      load((step + 1) & 1, (step + 1) * Gemm::kDepth);
    } else {
      prim::cp_async_commit();
    }
    prim::cp_async_wait<kBug == 2 ? 2 : 1>();
    if constexpr (kBug != 1) __syncthreads();
    const __nv_bfloat16 *tile_a = tiles_a[step & 1], *tile_b = tiles_b[step & 1];
#pragma unroll
    for (int kk = 0; kk < Gemm::kDepth; kk += 16) {
      std::uint32_t fragment_a[4], fragment_b[4];
      prim::ldmatrix_x4(fragment_a,
                        tile_a + (warp * 16 + (lane & 15)) * kStride + kk + (lane >> 4) * 8);
#pragma unroll
      for (int j = 0; j < 8; j += 2) {
        prim::ldmatrix_x4(fragment_b, tile_b + (j * 8 + (lane & 7) + (lane >> 4) * 8) * kStride +
                                          kk + ((lane >> 3) & 1) * 8);
        const std::uint32_t left[2] = {fragment_b[0], fragment_b[1]};
        const std::uint32_t right[2] = {fragment_b[2], fragment_b[3]};
        prim::mma_bf16(sums[j], fragment_a, left);
        prim::mma_bf16(sums[j + 1], fragment_a, right);
      }
    }
    if constexpr (kBug != 4) __syncthreads();  // before the buffer is filled again
  }
  prim::cp_async_wait<0>();
  const int group = lane >> 2, pair = (lane & 3) * 2;
  for (int j = 0; j < 8; ++j) {
    for (int i = 0; i < 4; ++i) {
      const int row = warp * 16 + group + (i >> 1) * 8;
      const int column = first_column + j * 8 + pair + (i & 1) + (kBug == 5 ? 1 : 0);
      c[static_cast<std::size_t>(row) * n + column] = sums[j][i];
    }
  }
}

}  // namespace via::planted
