// SPDX-License-Identifier: Apache-2.0
// How fast an SM consumes weight stages with mma.sync.
//
// What: weight bytes per clock and SM for mma.m16n8k16 bf16, weights as the m operand, 8, 16, 32 or
// 64 tokens as the n operand, both operands from shared memory through ldmatrix. Eight warps, each
// with one or two tiles of 16 rows per stage (128 or 256 rows x 64 k).
// How: every SM runs through its resident stages 2000 times, clock64 around the loop; no barrier
// inside, so this is the bound that the ring's consumers cannot pass. Integer products, exact.
// Informs: up to how many tokens mma.sync keeps ahead of device memory (bandwidth / SMs / clock),
// how much faster than that it catches up after a stall, and rows per warp.
#include "consume.cuh"

namespace via::s0 {
namespace {

template <int kTokens, int kRowTiles>
__global__ void __launch_bounds__(kConsumers, 1) mma_kernel(const ConsumeArgs args) {
  extern __shared__ __align__(1024) unsigned char smem[];
  constexpr int kRows = kConsumers / 32 * 16 * kRowTiles;
  constexpr int kTokenTiles = kTokens / 8;
  fill_stages(smem, args, kRows, kTokens);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  float acc[kRowTiles][kTokenTiles][4] = {};
  const long long begin = clock64();
  for (int pass = 0; pass < args.passes; ++pass) {
    for (int stage = 0; stage < args.stages; ++stage) {
      const unsigned char* weights = smem + stage * kRows * kRowBytes;
      const unsigned char* acts = smem + (args.stages * kRows + stage * kTokens) * kRowBytes;
#pragma unroll
      for (int k32 = 0; k32 < 2; ++k32) {
        // Four matrices of 8 tokens x 8 k: the n operands of two k steps.
        std::uint32_t b[kTokenTiles][4];
#pragma unroll
        for (int j = 0; j < kTokenTiles; ++j) {
          const int token = j * 8 + lane % 8;
          prim::ldmatrix_x4(b[j], acts + packed_offset(token, k32 * 4 + lane / 8));
        }
#pragma unroll
        for (int half = 0; half < 2; ++half) {
#pragma unroll
          for (int t = 0; t < kRowTiles; ++t) {
            const int row = (warp * kRowTiles + t) * 16 + lane % 16;
            std::uint32_t a[4];
            prim::ldmatrix_x4(a, weights + packed_offset(row, k32 * 4 + half * 2 + lane / 16));
#pragma unroll
            for (int j = 0; j < kTokenTiles; ++j) {
              const std::uint32_t pair[2] = {b[j][half * 2], b[j][half * 2 + 1]};
              prim::mma_bf16(acc[t][j], a, pair);
            }
          }
        }
      }
    }
  }
  __syncthreads();
  if (threadIdx.x == 0) args.clocks[blockIdx.x] = clock64() - begin;
  float* out = args.out + static_cast<std::size_t>(blockIdx.x) * kRows * kTokens;
#pragma unroll
  for (int t = 0; t < kRowTiles; ++t) {
#pragma unroll
    for (int j = 0; j < kTokenTiles; ++j) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int row = (warp * kRowTiles + t) * 16 + lane / 4 + (i / 2) * 8;
        out[row * kTokens + j * 8 + lane % 4 * 2 + i % 2] = acc[t][j][i];
      }
    }
  }
}

void run(const Session& session) {
  if (!session.is_at_least(8)) skip("mma.m16n8k16 bf16 needs compute 8.0");
  bench_consume(session, mma_kernel<8, 1>, "mma.sync", 128, 8);
  bench_consume(session, mma_kernel<16, 1>, "mma.sync", 128, 16);
  bench_consume(session, mma_kernel<32, 1>, "mma.sync", 128, 32);
  bench_consume(session, mma_kernel<64, 1>, "mma.sync", 128, 64);
  bench_consume(session, mma_kernel<8, 2>, "mma.sync", 256, 8);
  bench_consume(session, mma_kernel<16, 2>, "mma.sync", 256, 16);
  bench_consume(session, mma_kernel<32, 2>, "mma.sync", 256, 32);
  bench_consume(session, mma_kernel<64, 2>, "mma.sync", 256, 64);
}

}  // namespace
}  // namespace via::s0

int main(int argc, char** argv) {
  via::s0::run(via::s0::Session("mma_consume", argc, argv));
  return 0;
}
