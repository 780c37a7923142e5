// SPDX-License-Identifier: Apache-2.0
// verify on a GPU: entry points.

#include "cuda/check.h"
#include "cuda/occupancy.h"
#include "cuda/verify_launch.cuh"
#include "via/verify.h"

namespace via {

std::size_t verify_workspace_size(const VerifyParams& params) {
  return cuda::workspace_bytes(params);
}

void verify_cuda(const VerifyParams& params, void* workspace) {
  const cuda::Occupancy found = cuda::occupancy<cuda::verify_kernel>("verify", cuda::kThreads);
  const cuda::DeviceLimits limits = {found.multiprocessors, found.blocks_per_multiprocessor};
  cuda::launch_verify(params, workspace, limits, static_cast<cudaStream_t>(params.stream));
  check_cuda(cudaGetLastError(), "verify", "launch of verify_kernel");
}

}  // namespace via
