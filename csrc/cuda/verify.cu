// SPDX-License-Identifier: Apache-2.0
// verify on a GPU: entry points.

#include <mutex>
#include <stdexcept>

#include "cuda/check.h"
#include "cuda/verify_launch.cuh"
#include "via/verify.h"

namespace via {
namespace {

cuda::DeviceLimits ask_limits(int device) {
  cuda::DeviceLimits limits = {};
  check_cuda(
      cudaDeviceGetAttribute(&limits.multiprocessors, cudaDevAttrMultiProcessorCount, device),
      "verify", "cudaDeviceGetAttribute");
  check_cuda(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&limits.blocks_per_multiprocessor,
                                                           cuda::verify_kernel, cuda::kThreads, 0),
             "verify", "cudaOccupancyMaxActiveBlocksPerMultiprocessor");
  if (limits.blocks_per_multiprocessor < 1) {
    throw std::runtime_error("verify: this build has no kernel that fits the device");
  }
  return limits;
}

// Of the current device, asked once; threads that come at the same time wait for the first.
cuda::DeviceLimits device_limits() {
  constexpr int kMaxDevices = 64;
  static std::once_flag asked[kMaxDevices];
  static cuda::DeviceLimits known[kMaxDevices];
  int device = 0;
  check_cuda(cudaGetDevice(&device), "verify", "cudaGetDevice");
  if (device >= kMaxDevices) return ask_limits(device);
  std::call_once(asked[device], [&] { known[device] = ask_limits(device); });
  return known[device];
}

}  // namespace

std::size_t verify_workspace_size(const VerifyParams& params) {
  return cuda::workspace_bytes(params);
}

void verify_cuda(const VerifyParams& params, void* workspace) {
  const cuda::DeviceLimits limits = device_limits();
  cuda::launch_verify(params, workspace, limits, static_cast<cudaStream_t>(params.stream));
  check_cuda(cudaGetLastError(), "verify", "launch of verify_kernel");
}

}  // namespace via
