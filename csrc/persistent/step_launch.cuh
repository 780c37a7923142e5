// SPDX-License-Identifier: Apache-2.0
// Launching the persistent step. Compiled by nvcc for the GPU and by the host compiler for the
// simulation.
#pragma once

#include "persistent/pass_launch.cuh"
#include "persistent/step_calls.cuh"
#include "persistent/step_kernel.cuh"

namespace via::persistent {

inline std::size_t step_workspace_bytes(const StepLaunch& launch) {
  StepLaunch sizes = launch;
  sizes.model.buffers.workspace = nullptr;
  StepArgs args;
  return make_step_args(sizes, args).bytes;
}

template <class P>
void launch_step(const StepLaunch& launch) {
  using T = typename P::Tuning;
  StepArgs args;
  make_step_args(launch, args);
  LAUNCH_COOP((step_kernel<T, P::kOptIn>), static_cast<unsigned>(launch.grid), kThreads,
              launch_bytes<T>(launch.model.shape, launch.grid),
              static_cast<prim::Stream>(launch.stream), args);
}

}  // namespace via::persistent
