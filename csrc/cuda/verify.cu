// SPDX-License-Identifier: Apache-2.0
// verify on a GPU: entry points.

#include <stdexcept>
#include <string>

#include "cuda/check.h"
#include "cuda/verify_launch.cuh"
#include "via/verify.h"

namespace via {
namespace {

// Asked once per device; a host thread that comes second finds the same answer.
cuda::DeviceLimits device_limits() {
  constexpr int kMaxDevices = 64;
  static cuda::DeviceLimits known[kMaxDevices] = {};
  int device = 0;
  check_cuda(cudaGetDevice(&device), "verify", "cudaGetDevice");
  if (device < kMaxDevices && known[device].blocks_per_multiprocessor > 0) return known[device];
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
  if (device < kMaxDevices) known[device] = limits;
  return limits;
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
