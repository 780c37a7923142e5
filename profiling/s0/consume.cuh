// SPDX-License-Identifier: Apache-2.0
// What the two tensor-core benchmarks share: stages of weights and activations in shared memory in
// the packed layout (rows of 64 bf16 = 128 bytes, 16-byte pieces XORed with row mod 8), small
// integers so that float32 sums are exact, the expected products, and the timing loop.
#pragma once

#include <cuda_bf16.h>

#include "bench.cuh"
#include "ptx.cuh"

namespace via::s0 {

inline constexpr int kConsumers = 256;
inline constexpr int kRowBytes = 128;
inline constexpr int kStageK = 64;
inline constexpr int kPasses = 2000;  // keeps |sums| below 2^24 for 5 stages

struct ConsumeArgs {
  int stages;
  int passes;         // times that all stages are consumed
  float* out;         // [gridDim.x][rows][tokens]
  long long* clocks;  // [gridDim.x]
};

__host__ __device__ __forceinline__ int weight_value(int stage, int row, int k) {
  return (stage + row * 7 + k * 3) % 5 - 2;
}
__host__ __device__ __forceinline__ int act_value(int stage, int token, int k) {
  return (stage * 2 + token * 5 + k) % 7 - 3;
}

// Byte offset of a 16-byte piece of a packed row.
__host__ __device__ __forceinline__ int packed_offset(int row, int piece) {
  return row * kRowBytes + ((piece ^ (row & 7)) << 4);
}

// All stages: weights first, then activations.
__device__ __forceinline__ void fill_stages(unsigned char* smem, const ConsumeArgs& args, int rows,
                                            int tokens) {
  const int per_stage = (rows + tokens) * kStageK;
  for (int i = threadIdx.x; i < args.stages * per_stage; i += blockDim.x) {
    const int stage = i / per_stage, row = i % per_stage / kStageK, k = i % kStageK;
    const bool weight = row < rows;
    const int line = weight ? row : row - rows;
    unsigned char* base = weight ? smem + stage * rows * kRowBytes
                                 : smem + (args.stages * rows + stage * tokens) * kRowBytes;
    const int value = weight ? weight_value(stage, line, k) : act_value(stage, line, k);
    auto* piece = reinterpret_cast<__nv_bfloat16*>(base + packed_offset(line, k / 8));
    piece[k % 8] = __float2bfloat16_rn(static_cast<float>(value));
  }
#if S0_HAS_BULK
  prim::fence_proxy_async();  // wgmma reads through the asynchronous proxy
#endif
  __syncthreads();
}

// Sum over all stages, once per pass.
inline float expected_product(const ConsumeArgs& args, int row, int token) {
  int sum = 0;
  for (int stage = 0; stage < args.stages; ++stage) {
    for (int k = 0; k < kStageK; ++k)
      sum += weight_value(stage, row, k) * act_value(stage, token, k);
  }
  return static_cast<float>(sum) * static_cast<float>(args.passes);
}

// Median over the CTAs of weight bytes per clock.
template <typename Kernel>
void bench_consume(const Session& session, Kernel kernel, const char* method, int rows,
                   int tokens) {
  if (session.out_of_time()) return;
  const int stage_bytes = (rows + tokens) * kRowBytes;
  const int fitting = (session.max_smem() - 2048) / stage_bytes;
  const std::string p = params("method", method, "tokens", tokens, "stage_rows", rows);
  if (fitting < 2) {
    print_row(p, 0.0, "", "skipped", "two stages do not fit into shared memory");
    return;
  }
  const int grid = session.num_sms();
  Buffer<float> out(static_cast<std::size_t>(grid) * rows * tokens);
  Buffer<long long> clocks(grid);
  const ConsumeArgs args{std::min(fitting, 5), kPasses, out.get(), clocks.get()};
  const int smem = args.stages * stage_bytes;
  S0_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, smem));
  std::vector<double> rates;
  for (int repeat = 0; repeat < 3; ++repeat) {
    kernel<<<grid, kConsumers, smem>>>(args);
    S0_CHECK(cudaGetLastError());
    S0_CHECK(cudaDeviceSynchronize());
    if (repeat == 0) continue;
    for (const long long clock : clocks.copy()) {
      rates.push_back(static_cast<double>(rows) * kRowBytes * args.stages * args.passes /
                      static_cast<double>(clock));
    }
  }
  std::vector<float> expected;
  for (int i = 0; i < rows * tokens; ++i) {
    expected.push_back(expected_product(args, i / tokens, i % tokens));
  }
  const std::vector<float> host = out.copy();
  for (std::size_t i = 0; i < host.size(); ++i) {
    if (host[i] != expected[i % expected.size()])
      fail(p, "product " + std::to_string(i) + " differs");
  }
  print_row(p, quantile(rates, 0.5), "bytes/clk/SM");
}

}  // namespace via::s0
