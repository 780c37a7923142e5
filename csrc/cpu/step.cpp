// SPDX-License-Identifier: Apache-2.0
// step on the CPU: a few hundred loads and stores per row, not worth threads.
#include "core/step_greedy.h"

namespace via {

void step_cpu(StepStage stage, const StepParams& params) {
  for (int row = 0; row < params.batch_size; ++row) run_stage(stage, params, row);
}

}  // namespace via
