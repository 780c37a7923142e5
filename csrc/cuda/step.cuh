// SPDX-License-Identifier: Apache-2.0
// step on the GPU: the bookkeeping between a step's passes, without the host (docs/design.md,
// section 3). A block of one warp serves a batch row, and its first lane does the work of
// core/step_*.h: some hundred loads and stores, most of them independent of each other, a few
// microseconds. Bytes moved: under 4 KB per row.
#pragma once

#include "core/step_greedy.h"
#include "device/prim.cuh"
#include "via/step.h"

namespace via {
namespace cuda {

template <StepStage kStage>
__global__ void __launch_bounds__(32) step_kernel(const StepParams params) {
  if (threadIdx.x == 0) run_stage(kStage, params, static_cast<int>(blockIdx.x));
}

template <StepStage kStage>
void launch_stage(const StepParams& params) {
  const auto stream = static_cast<prim::Stream>(params.stream);
  LAUNCH(step_kernel<kStage>, params.batch_size, 32, 0, stream, params);
}

inline void launch_step(StepStage stage, const StepParams& params) {
  switch (stage) {
    case StepStage::kBegin: return launch_stage<StepStage::kBegin>(params);
    case StepStage::kSlim: return launch_stage<StepStage::kSlim>(params);
    case StepStage::kAudit: return launch_stage<StepStage::kAudit>(params);
    case StepStage::kFull: return launch_stage<StepStage::kFull>(params);
    case StepStage::kGreedy: return launch_stage<StepStage::kGreedy>(params);
  }
}

}  // namespace cuda
}  // namespace via
