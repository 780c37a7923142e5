// SPDX-License-Identifier: Apache-2.0
// How fast an SM consumes weight stages with wgmma (compute 9.0 only).
//
// What: weight bytes per clock and SM for wgmma m64nNk16 bf16, weights as the m operand, N = 8, 16,
// 32 or 64 tokens, both operands from shared memory by descriptor (128-byte swizzle). Two
// warpgroups, each with one or two tiles of 64 rows per stage (128 or 256 rows x 64 k).
// How: as in mma_consume; one commit group per stage, at most one in flight behind it, which is how
// the ring's consumers would run. Integer products, exact: this also proves that the packed layout
// is a valid wgmma operand.
// Informs: whether wgmma has to come early or can wait, and whether its sums agree for every N.
#include "consume.cuh"
#include "wgmma.cuh"

namespace via::s0 {
namespace {

template <int kTokens, int kRowTiles>
__global__ void __launch_bounds__(kConsumers, 1) wgmma_kernel(const ConsumeArgs args) {
#if S0_HAS_WGMMA
  extern __shared__ __align__(1024) unsigned char smem[];
  constexpr int kRows = 2 * 64 * kRowTiles;
  fill_stages(smem, args, kRows, kTokens);
  const int group = threadIdx.x / 128, warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
  float acc[kRowTiles][kTokens / 2] = {};
  const long long begin = clock64();
  for (int pass = 0; pass < args.passes; ++pass) {
    for (int stage = 0; stage < args.stages; ++stage) {
      const int first_row = stage * kRows + group * kRowTiles * 64;
      const std::uint64_t a = wgmma_descriptor(smem + first_row * kRowBytes);
      const std::uint64_t b =
          wgmma_descriptor(smem + (args.stages * kRows + stage * kTokens) * kRowBytes);
#pragma unroll
      for (int t = 0; t < kRowTiles; ++t) pin_registers(acc[t]);
      wgmma_fence();
#pragma unroll
      for (int k16 = 0; k16 < kStageK / 16; ++k16) {
#pragma unroll
        for (int t = 0; t < kRowTiles; ++t) {
          wgmma(acc[t], a + t * (64 * kRowBytes >> 4) + k16 * 2, b + k16 * 2);
        }
      }
      wgmma_commit();
      wgmma_wait<1>();
    }
  }
  wgmma_wait<0>();
#pragma unroll
  for (int t = 0; t < kRowTiles; ++t) pin_registers(acc[t]);
  __syncthreads();
  if (threadIdx.x == 0) args.clocks[blockIdx.x] = clock64() - begin;
  float* out = args.out + static_cast<std::size_t>(blockIdx.x) * kRows * kTokens;
#pragma unroll
  for (int t = 0; t < kRowTiles; ++t) {
#pragma unroll
    for (int i = 0; i < kTokens / 2; ++i) {
      const int row = (group * kRowTiles + t) * 64 + warp * 16 + lane / 4 + (i / 2) % 2 * 8;
      out[row * kTokens + i / 4 * 8 + lane % 4 * 2 + i % 2] = acc[t][i];
    }
  }
#endif
}

void run(const Session& session) {
  if (session.properties.major != 9) skip("wgmma exists on compute 9.0 only");
  bench_consume(session, wgmma_kernel<8, 1>, "wgmma", 128, 8);
  bench_consume(session, wgmma_kernel<16, 1>, "wgmma", 128, 16);
  bench_consume(session, wgmma_kernel<32, 1>, "wgmma", 128, 32);
  bench_consume(session, wgmma_kernel<64, 1>, "wgmma", 128, 64);
  bench_consume(session, wgmma_kernel<8, 2>, "wgmma", 256, 8);
  bench_consume(session, wgmma_kernel<16, 2>, "wgmma", 256, 16);
  bench_consume(session, wgmma_kernel<32, 2>, "wgmma", 256, 32);
  bench_consume(session, wgmma_kernel<64, 2>, "wgmma", 256, 64);
}

}  // namespace
}  // namespace via::s0

int main(int argc, char** argv) {
  via::s0::run(via::s0::Session("wgmma_consume", argc, argv));
  return 0;
}
