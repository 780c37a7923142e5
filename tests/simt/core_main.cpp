// SPDX-License-Identifier: Apache-2.0
// The headers of csrc/core inside a kernel: same results as on the host. Statistics of a row travel
// through shared memory, so that copies of whole structs are seen by the race build.

#include <cmath>
#include <cstdint>

#include "core/accept.h"
#include "core/exp2.h"
#include "core/filters.h"
#include "core/half.h"
#include "core/philox.h"
#include "core/residual.h"
#include "core/route.h"
#include "core/softmax.h"
#include "core/tree.h"
#include "device/reduce.cuh"
#include "gpu_or_simt.h"

namespace via {
namespace {

using testing::Checker;
using testing::DeviceBuffer;

constexpr int kThreads = 64;

struct Result {
  float uniform, half, bfloat, weight, cut, lowest_above;
  double probability, ratio;
  int tier, accepted;
};

__device__ SoftmaxStats one_logit(float logit, float scale, int id) {
  SoftmaxStats stats;
  stats.max = logit;
  stats.argmax = id;
  stats.exponent = floor(exponent_of(logit, scale));
  stats.sum = exp2(exponent_of(logit, scale) - stats.exponent);
  return stats;
}

// What one thread computes from its logit and the statistics of the row.
__host__ __device__ inline Result evaluate(int i, float logit, float temperature,
                                           const SoftmaxStats& stats) {
  Result result;
  const float scale = exponent_scale(temperature);
  result.uniform = philox_uniform(1234, 10 + i, static_cast<std::uint32_t>(i), kPurposeCoin);
  result.half = to_float(Float16{static_cast<std::uint16_t>(i * 500)});
  result.bfloat = to_float(BFloat16{static_cast<std::uint16_t>(i * 500)});
  float weight[1] = {logit};
  exp2_weights<ScalarOps, 1>(weight, scale, kRoundToInteger - 8.0f);
  result.weight = weight[0];
  result.cut = min_p_cut(0.25f, stats.max, temperature).logit;
  result.lowest_above = nextafterf(logit, kPosInf);
  result.probability = probability(logit, scale, stats.sum, stats.exponent);
  result.ratio = draft_ratio(logit, i, stats.max, stats.argmax, temperature);
  RouteThresholds tau;
  result.tier = static_cast<int>(route_tier(static_cast<float>(result.ratio), 0.5, tau));
  result.accepted = accept_token(result.uniform, 0.5, result.probability) ? 1 : 0;
  return result;
}

__global__ void core_kernel(const float* logits /* [kThreads] */, float temperature,
                            Result* results /* [kThreads] */, SoftmaxStats* row) {
  SMEM(SoftmaxStats, parts, [kThreads]);
  const int i = static_cast<int>(threadIdx.x);
  parts[i] = one_logit(logits[i], exponent_scale(temperature), i);
  for (int half = 1; half < kThreads; half *= 2) {
    __syncthreads();
    if (i % (2 * half) == 0) merge_stats(parts[i], parts[i + half]);
  }
  __syncthreads();
  if (i == 0) *row = parts[0];
  results[i] = evaluate(i, logits[i], temperature, parts[0]);
}

bool near(double a, double b) { return std::fabs(a - b) <= 1e-6 * std::fabs(b); }

int run() {
  constexpr float kTemperature = 0.8f;
  DeviceBuffer<float> logits(kThreads);
  DeviceBuffer<Result> results(kThreads);
  DeviceBuffer<SoftmaxStats> row(1);
  for (int i = 0; i < kThreads; ++i) logits[i] = static_cast<float>(i * 29 % 64) * 0.125f;
  LAUNCH(core_kernel, 1, kThreads, 0, nullptr, logits.data(), kTemperature, results.data(),
         row.data());
  testing::device_sync();

  Checker checker;
  double sum = 0.0;
  int argmax = 0;
  for (int i = 0; i < kThreads; ++i) {
    if (logits[i] > logits[argmax]) argmax = i;
    sum += std::exp(double{logits[i]} / double{kTemperature});
  }
  const SoftmaxStats stats = row[0];
  const double got = stats.sum * std::exp2(stats.exponent);
  checker.expect(near(got, sum), "sum of weights %g, not %g", got, sum);
  checker.expect(stats.argmax == argmax, "argmax %d, not %d", static_cast<int>(stats.argmax),
                 argmax);
  for (int i = 0; i < kThreads; ++i) {
    const Result expected = evaluate(i, logits[i], kTemperature, stats);
    const Result& result = results[i];
    const double softmax = std::exp(double{logits[i]} / double{kTemperature}) / sum;
    checker.expect(near(result.probability, softmax), "probability %d: %g, not %g", i,
                   result.probability, softmax);
    checker.expect(result.uniform == expected.uniform && result.half == expected.half &&
                       result.bfloat == expected.bfloat && result.cut == expected.cut &&
                       result.lowest_above == expected.lowest_above,
                   "exact results differ in thread %d", i);
    checker.expect(near(result.weight, expected.weight) && near(result.ratio, expected.ratio),
                   "weight or ratio differ in thread %d", i);
    checker.expect(result.tier == expected.tier && result.accepted == expected.accepted,
                   "tier or decision differ in thread %d", i);
  }
  return checker.status();
}

}  // namespace
}  // namespace via

int main() { return via::run(); }
