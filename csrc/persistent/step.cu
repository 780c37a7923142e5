// SPDX-License-Identifier: Apache-2.0
// The persistent step on a GPU: entry points.

#include <cstddef>

// Verify reads logits that the same launch wrote.
#define VIA_DATA_CHANGES
#include "cuda/check.h"
#include "persistent/step_launch.cuh"
#include "via/persistent.h"

namespace via::persistent {

std::size_t workspace_size(const StepLaunch& launch) { return step_workspace_bytes(launch); }

void step_cuda(const StepLaunch& launch) {
  constexpr const char* kOp = "PersistentEngine";
  int device = 0, opt_in = 0;
  check_cuda(cudaGetDevice(&device), kOp, "cudaGetDevice");
  check_cuda(cudaDeviceGetAttribute(&opt_in, cudaDevAttrMaxSharedMemoryPerBlockOptin, device), kOp,
             "cudaDeviceGetAttribute");
  with_preset(launch.model.shape, static_cast<std::size_t>(opt_in),
              [&](auto preset) { launch_step<decltype(preset)>(launch); });
  check_cuda(cudaGetLastError(), kOp, "launch of step_kernel");
}

}  // namespace via::persistent
