// SPDX-License-Identifier: Apache-2.0
// device/reduce.cuh and device/watchdog.cuh against loops on the host.

#include <cmath>
#include <limits>
#include <random>
#include <stdexcept>
#include <string>

#include "device/reduce.cuh"
#include "device/watchdog.cuh"
#include "gpu_or_simt.h"

namespace via {
namespace {

using testing::Checker;
using testing::DeviceBuffer;

enum Output { kSum, kMax, kMin, kBefore, kTotal, kWarpSum, kWarpMax, kWarpMin, kOutputs };

// Twice with the same scratch: a barrier that is missing in between shows.
template <typename T, int kThreads>
__global__ void reduce_kernel(const T* in /* [2, kThreads] */,
                              T* out /* [2, kOutputs, kThreads] */) {
  using Block = BlockReduce<kThreads>;
  SMEM(T, scratch, [Block::kWords]);
  for (int round = 0; round < 2; ++round) {
    const T value = in[round * kThreads + threadIdx.x];
    T* results = out + round * kOutputs * kThreads + threadIdx.x;
    results[kSum * kThreads] = Block::sum(value, scratch);
    results[kMax * kThreads] = Block::max(value, scratch);
    results[kMin * kThreads] = Block::min(value, scratch);
    T total;
    results[kBefore * kThreads] = Block::exclusive_sum(value, scratch, total);
    results[kTotal * kThreads] = total;
    results[kWarpSum * kThreads] = warp_sum(value);
    results[kWarpMax * kThreads] = warp_max(value);
    results[kWarpMin * kThreads] = warp_min(value);
  }
}

// Integers of at most 20 bits: sums are exact in every type, so the order cannot matter here.
template <typename T, int kThreads>
void check_exact(Checker& checker) {
  std::mt19937 bits(11);
  DeviceBuffer<T> in(2 * kThreads), out(2 * kOutputs * kThreads);
  for (T& value : in) value = static_cast<T>(bits() >> 20);
  LAUNCH((reduce_kernel<T, kThreads>), 1, kThreads, 0, nullptr, in.data(), out.data());
  testing::device_sync();
  for (int round = 0; round < 2; ++round) {
    const T* values = in.data() + round * kThreads;
    T sum{}, max = values[0], min = values[0];
    for (int i = 0; i < kThreads; ++i) {
      sum += values[i];
      max = MaxOf{}(max, values[i]);
      min = MinOf{}(min, values[i]);
    }
    T before{};
    for (int i = 0; i < kThreads; ++i) {
      T warp[3] = {T{}, values[i / 32 * 32], values[i / 32 * 32]};
      for (int lane = 0; lane < 32; ++lane) {
        const T value = values[i / 32 * 32 + lane];
        warp[0] += value;
        warp[1] = MaxOf{}(warp[1], value);
        warp[2] = MinOf{}(warp[2], value);
      }
      const T expected[kOutputs] = {sum, max, min, before, sum, warp[0], warp[1], warp[2]};
      for (int output = 0; output < kOutputs; ++output) {
        const T got = out[(round * kOutputs + output) * kThreads + i];
        checker.expect(got == expected[output], "%d threads, output %d of thread %d: %g, not %g",
                       kThreads, output, i, double(got), double(expected[output]));
      }
      before += values[i];
    }
  }
}

// Every thread gets the same bits, near the float64 sum, and a second launch gives them again.
void check_order(Checker& checker) {
  constexpr int kThreads = 256;
  std::mt19937 bits(5);
  std::normal_distribution<float> normal(0.0f, 1.0f);
  DeviceBuffer<float> in(2 * kThreads), out(2 * kOutputs * kThreads),
      again(2 * kOutputs * kThreads);
  for (float& value : in) value = normal(bits);
  LAUNCH((reduce_kernel<float, kThreads>), 1, kThreads, 0, nullptr, in.data(), out.data());
  LAUNCH((reduce_kernel<float, kThreads>), 1, kThreads, 0, nullptr, in.data(), again.data());
  testing::device_sync();
  double sum = 0.0;
  for (int i = 0; i < kThreads; ++i) sum += in[i];
  checker.expect(std::fabs(out[0] - sum) < 1e-4, "sum %g, not %g", double{out[0]}, sum);
  for (int i = 0; i < kThreads; ++i) {
    checker.expect(out[i] == out[0], "thread %d has another sum", i);
    for (int output = 0; output < kOutputs; ++output) {
      const int at = output * kThreads + i;
      checker.expect(out[at] == again[at], "output %d differs in a second launch", output);
    }
  }
}

// Maxima and minima pass over NaN.
void check_nan(Checker& checker) {
  constexpr int kThreads = 64;
  DeviceBuffer<float> in(2 * kThreads, std::numeric_limits<float>::quiet_NaN());
  DeviceBuffer<float> out(2 * kOutputs * kThreads);
  in[7] = 3.0f;
  in[40] = -2.0f;
  LAUNCH((reduce_kernel<float, kThreads>), 1, kThreads, 0, nullptr, in.data(), out.data());
  testing::device_sync();
  checker.expect(out[kMax * kThreads] == 3.0f, "max %g among NaN", double{out[kMax * kThreads]});
  checker.expect(out[kMin * kThreads] == -2.0f, "min %g among NaN", double{out[kMin * kThreads]});
  const float all_nan = out[(kOutputs + kMax) * kThreads];
  checker.expect(std::isnan(all_nan), "max of NaN only: %g", double{all_nan});
}

// Block 1 waits for a flag that block 0 sets, or does not.
__global__ void watchdog_kernel(unsigned* flag, int set, unsigned* seen) {
  if (threadIdx.x != 0) return;
  if (blockIdx.x == 0) {
    if (set != 0) prim::st_release(flag, 1u);
    return;
  }
  Watchdog watchdog{1000 * 1000};
  watchdog.start();
  while (prim::ld_acquire(flag) == 0u) watchdog.poll();
  *seen = 1;
}

void check_watchdog(Checker& checker) {
  DeviceBuffer<unsigned> flag(1, 0u), seen(1, 0u);
  LAUNCH_COOP(watchdog_kernel, 2, 32, 0, nullptr, flag.data(), 1, seen.data());
  testing::device_sync();
  checker.expect(seen[0] == 1, "the flag was not seen");
#ifndef __CUDACC__  // on a GPU the trap would end the process's context
  flag[0] = 0;
  std::string error;
  simt::options().throw_on_error = true;
  try {
    LAUNCH_COOP(watchdog_kernel, 2, 32, 0, nullptr, flag.data(), 0, seen.data());
  } catch (const std::runtime_error& caught) {
    error = caught.what();
  }
  simt::options().throw_on_error = false;
  checker.expect(error.find("trap") == 0, "watchdog: %s", error.c_str());
#endif
}

int run() {
  Checker checker;
  check_exact<float, 32>(checker);
  check_exact<float, 256>(checker);
  check_exact<double, 128>(checker);
  check_exact<double, 512>(checker);
  check_exact<unsigned, 256>(checker);
  check_exact<int, 1024>(checker);
  check_exact<unsigned long long, 64>(checker);
  check_order(checker);
  check_nan(checker);
  check_watchdog(checker);
  return checker.status();
}

}  // namespace
}  // namespace via

int main() { return via::run(); }
