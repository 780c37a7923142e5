// SPDX-License-Identifier: Apache-2.0
// A shared library with a kernel in it, as the Python module is when it is built for the
// simulation: tests/test_simt.py loads it into its own process.

#include <cstring>
#include <stdexcept>

#include "device/reduce.cuh"

namespace via {
namespace {

constexpr int kThreads = 128;

// out[i] = x[i] minus the mean of its block of 128; a negative n traps.
__global__ void center_kernel(const float* x /* [n] */, float* out /* [n] */, int n) {
  SMEM(double, scratch, [BlockReduce<kThreads>::kWords]);
  if (n < 0) prim::trap();
  const int i = static_cast<int>(blockIdx.x) * kThreads + static_cast<int>(threadIdx.x);
  const double value = i < n ? x[i] : 0.0;
  const double mean = BlockReduce<kThreads>::sum(value, scratch) / kThreads;
  if (i < n) out[i] = static_cast<float>(value - mean);
}

}  // namespace
}  // namespace via

// 0, or 1 with a text in `error`.
extern "C" __attribute__((visibility("default"))) int embedded_center(const float* x, float* out,
                                                                      int n, char* error,
                                                                      std::size_t error_bytes) {
  using via::kThreads;
  via::simt::options().throw_on_error = true;
  try {
    const int blocks = n < 0 ? 1 : (n + kThreads - 1) / kThreads;
    LAUNCH(via::center_kernel, blocks, kThreads, 0, nullptr, x, out, n);
    return 0;
  } catch (const std::runtime_error& caught) {
    std::strncpy(error, caught.what(), error_bytes - 1);
    return 1;
  }
}
