// SPDX-License-Identifier: Apache-2.0
// The whole step in one cooperative launch: persistent/step.cuh with the model's passes. Grid and
// memory as persistent/pass_kernel.cuh.
#pragma once

#include "persistent/pass_kernel.cuh"
#include "persistent/step.cuh"

namespace via::persistent {

template <class T>
struct ModelPasses {
  const StepArgs& args;
  Block<T>& block;
  GridBarrier& barrier;
  PassKind kind;

  VIA_DEVICE bool run(const PassInput& input) { return call_pass(*this, input); }
  VIA_DEVICE unsigned char* scratch() const { return block.scratch; }
};

// Apart from what runs between passes, for the same reason as the phases in persistent/pass.cuh.
template <class T>
VIA_DEVICE_CALL bool call_pass(ModelPasses<T>& passes, const PassInput& input) {
  return run_pass<T>(passes.block, passes.barrier, passes.kind, input);
}

template <class T, std::size_t kOptIn>
__global__ void __launch_bounds__(kThreads, 1) step_kernel(const __grid_constant__ StepArgs args) {
  static_assert(sizeof(cuda::VerifyShared) + 128 <= T::kScratchBytes &&
                    sizeof(cuda::ProbsShared) + 128 <= T::kScratchBytes,
                "verify and filtered_probs run in the scratch of the block");
  if constexpr (has_body(kCompiledArch, kOptIn)) {
    run_launch<T>(args.model, [&](Block<T>& block, GridBarrier& barrier) {
      ModelPasses<T> passes{args, block, barrier, PassKind::kFull};
      return run_step(passes);
    });
  }
}

}  // namespace via::persistent
