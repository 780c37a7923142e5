// SPDX-License-Identifier: Apache-2.0
// planted_<build> [kernel [bug]]: runs a kernel of planted/ with one of its bugs, 0 (default) none;
// without arguments all kernels, correct; "hang": a loop that only the watchdog ends. Exit status:
// 0 ok, 1 wrong values, 86 layer error.

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "gpu_or_simt.h"
#include "planted/gemm.cuh"
#include "planted/pipeline.cuh"
#include "planted/ring.cuh"
#include "planted/softmax.cuh"

namespace via::planted {
namespace {

using testing::Checker;
using testing::DeviceBuffer;

template <int kBug>
int run_softmax() {
  constexpr int kRows = 2, kVocab = 2000, kThreads = 256;
  std::mt19937 bits(7);
  std::normal_distribution<float> normal(0.0f, 3.0f);
  DeviceBuffer<float> logits(kRows * kVocab), probs(kRows * kVocab);
  DeviceBuffer<int> best(kRows);
  for (float& logit : logits) logit = normal(bits);
  logits[kVocab / 3] = logits[kVocab / 2] = 40.0f;  // a tie: the lower id wins
  LAUNCH((softmax_kernel<kThreads, kBug>), kRows, kThreads, 0, nullptr, logits.data(), probs.data(),
         best.data(), kVocab);
  testing::device_sync();
  Checker checker;
  for (int row = 0; row < kRows; ++row) {
    const float* in = logits.data() + row * kVocab;
    const int argmax = static_cast<int>(std::max_element(in, in + kVocab) - in);
    checker.expect(best[row] == argmax, "argmax %d, not %d", best[row], argmax);
    double sum = 0.0;
    for (int i = 0; i < kVocab; ++i) sum += std::exp(double{in[i]} - in[argmax]);
    for (int i = 0; i < kVocab; ++i) {
      const double expected = std::exp(double{in[i]} - in[argmax]) / sum;
      const double got = probs[row * kVocab + i];
      checker.expect(std::fabs(got - expected) <= 1e-5 * expected + 1e-12, "p[%d] = %g, not %g", i,
                     got, expected);
    }
  }
  return checker.status();
}

template <int kBug>
int run_pipeline() {
  constexpr int kBlocks = 6, kThreads = 128, kRounds = 3, kCount = kBlocks * kThreads;
  DeviceBuffer<int> a(kCount), b(kCount), c(kCount), sums(kRounds, 0);
  DeviceBuffer<GridBarrier> barrier(1, GridBarrier{0, 0});
  std::vector<int> ref_a(kCount), ref_b(kCount), ref_c(kCount);
  for (int i = 0; i < kCount; ++i) ref_a[i] = a[i] = i * 37 % 101;
  LAUNCH_COOP((pipeline_kernel<kThreads, kBug>), kBlocks, kThreads, 0, nullptr, a.data(), b.data(),
              c.data(), sums.data(), barrier.data(), kRounds);
  testing::device_sync();
  Checker checker;
  for (int round = 0; round < kRounds; ++round) {
    int sum = 0;
    for (int i = 0; i < kCount; ++i) ref_b[i] = ref_a[i] * 2 + round;
    for (int i = 0; i < kCount; ++i) {
      ref_c[i] = ref_b[(i + kThreads) % kCount] + ref_b[kCount - 1 - i];
    }
    for (int i = 0; i < kCount; ++i) {
      const int value = ref_c[((i ^ 31) * 7 + 3) % kCount];
      ref_a[i] = value % 1024;
      sum += value;
    }
    checker.expect(sums[round] == sum, "sum %d, not %d", sums[round], sum);
  }
  for (int i = 0; i < kCount; ++i) {
    checker.expect(a[i] == ref_a[i], "a[%d] = %d, not %d", i, a[i], ref_a[i]);
  }
  return checker.status();
}

template <int kBug>
int run_gemm() {
  constexpr int kColumns = 128, kDepth = 128;
  std::mt19937 bits(3);
  std::normal_distribution<float> normal(0.0f, 1.0f);
  DeviceBuffer<__nv_bfloat16> a(Gemm::kRows * kDepth), b(kColumns * kDepth);
  DeviceBuffer<float> c(Gemm::kRows * kColumns);
  for (auto& value : a) value = __float2bfloat16(normal(bits));
  for (auto& value : b) value = __float2bfloat16(normal(bits));
  LAUNCH(gemm_kernel<kBug>, kColumns / Gemm::kColumns, Gemm::kThreads, Gemm::shared_bytes(),
         nullptr, a.data(), b.data(), c.data(), kColumns, kDepth);
  testing::device_sync();
  Checker checker;
  for (int row = 0; row < Gemm::kRows; ++row) {
    for (int column = 0; column < kColumns; ++column) {
      double sum = 0.0;
      for (int k = 0; k < kDepth; ++k) {
        sum += double{__bfloat162float(a[row * kDepth + k])} *
               double{__bfloat162float(b[column * kDepth + k])};
      }
      const double got = c[row * kColumns + column];
      checker.expect(std::fabs(got - sum) < 1e-3, "c[%d][%d] = %g, not %g", row, column, got, sum);
    }
  }
  return checker.status();
}

template <int kBug>
int run_ring() {
  constexpr int kTiles = 13, kCount = kTiles * Ring::kTile;
  DeviceBuffer<float> x(kCount), y(kCount);
  for (int i = 0; i < kCount; ++i) x[i] = static_cast<float>(i) * 0.5f;
  LAUNCH(ring_kernel<kBug>, 1, Ring::kThreads, Ring::shared_bytes(), nullptr, x.data(), y.data(),
         kTiles);
  testing::device_sync();
  Checker checker;
  for (int i = 0; i < kCount; ++i) {
    const float expected = 3.0f * x[i] + x[i ^ 1];
    checker.expect(y[i] == expected, "y[%d] = %g, not %g", i, double{y[i]}, double{expected});
  }
  return checker.status();
}

#ifndef __CUDACC__
// Waits for nobody, and without prim::spin.
__global__ void hang_kernel(const unsigned* flag) {
  while (simt::unrecorded_load(flag) == 0u) continue;
}
int run_hang() {
  DeviceBuffer<unsigned> flag(1, 0u);
  LAUNCH(hang_kernel, 1, 32, 0, nullptr, flag.data());
  return 0;
}
#endif

struct Kernel {
  const char* name;
  std::vector<int (*)()> runs;  // by bug
};

int run(int argc, char** argv) {
  const std::vector<Kernel> kernels = {
      {"softmax", {run_softmax<0>, run_softmax<1>, run_softmax<2>, run_softmax<3>, run_softmax<4>}},
      {"pipeline",
       {run_pipeline<0>, run_pipeline<1>, run_pipeline<2>, run_pipeline<3>, run_pipeline<4>,
        run_pipeline<5>}},
      {"gemm", {run_gemm<0>, run_gemm<1>, run_gemm<2>, run_gemm<3>, run_gemm<4>, run_gemm<5>}},
      {"ring", {run_ring<0>, run_ring<1>, run_ring<2>, run_ring<3>, run_ring<4>}},
  };
#ifndef __CUDACC__
  if (argc > 1 && std::strcmp(argv[1], "hang") == 0) return run_hang();
#endif
  const std::size_t bug = argc > 2 ? static_cast<std::size_t>(std::atoi(argv[2])) : 0;
  int status = argc > 1 ? 2 : 0;
  for (const Kernel& kernel : kernels) {
    if (argc == 1) {
      status = std::max(status, kernel.runs[0]());
    } else if (std::strcmp(argv[1], kernel.name) == 0 && bug < kernel.runs.size()) {
      status = kernel.runs[bug]();
    }
  }
  return status;
}

}  // namespace
}  // namespace via::planted

int main(int argc, char** argv) { return via::planted::run(argc, argv); }
