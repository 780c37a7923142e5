// SPDX-License-Identifier: Apache-2.0
// filtered_probs on a GPU: entry points.

#include "cuda/check.h"
#include "cuda/filtered_probs_launch.cuh"
#include "cuda/occupancy.h"
#include "via/filter.h"

namespace via {

std::size_t filtered_probs_workspace_size(const FilteredProbsParams& params) {
  return cuda::workspace_bytes(params);
}

void filtered_probs_cuda(const FilteredProbsParams& params, void* workspace) {
  if (params.num_rows == 0) return;
  constexpr const char* kOp = "filtered_probs";
  const cuda::Occupancy found = cuda::occupancy<cuda::filtered_probs_kernel>(kOp, cuda::kThreads);
  const int slots = found.multiprocessors * found.blocks_per_multiprocessor;
  cuda::launch_filtered_probs(params, workspace, {slots}, static_cast<cudaStream_t>(params.stream));
  check_cuda(cudaGetLastError(), kOp, "launch of filtered_probs_kernel");
}

}  // namespace via
