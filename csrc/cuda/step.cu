// SPDX-License-Identifier: Apache-2.0
// step on a GPU: entry point.

#include "cuda/check.h"
#include "cuda/step.cuh"

namespace via {

void step_cuda(StepStage stage, const StepParams& params) {
  cuda::launch_step(stage, params);
  check_cuda(cudaGetLastError(), "step", "launch of step_kernel");
}

}  // namespace via
