// SPDX-License-Identifier: Apache-2.0
// The persistent engine's entry points in the simulation: few blocks, memory as on sm_90.

#include <algorithm>
#include <cstddef>

#include "persistent/step_launch.cuh"
#include "simulate.h"
#include "via/persistent.h"

namespace via::persistent {
namespace {

constexpr int kBlocks = 3;

}  // namespace

int resident_blocks(const ModelShape& shape, int) {
  return std::min(kBlocks, shape.hidden_size / kRowUnit);
}

std::size_t workspace_size(const StepLaunch& launch) { return step_workspace_bytes(launch); }

void step_cuda(const StepLaunch& launch) {
  const simulated::Turn turn;
  StepArgs args;
  // What an aborted launch leaves is for the host to clean up.
  const bool runs = launch.model.missing_block < 0;
  const std::size_t zero_bytes = runs ? make_step_args(launch, args).zero_bytes : 0;
  simulated::launch_clean("step", launch.model.buffers.workspace, zero_bytes, [&] {
    with_preset(launch.model.shape, kLargeBytes,
                [&](auto preset) { launch_step<decltype(preset)>(launch); });
  });
}

void pass_cuda(const ModelArgs& model, PassKind pass, const PassInput& input, int grid,
               void* stream) {
  const simulated::Turn turn;
  with_preset(model.shape, kLargeBytes, [&](auto preset) {
    launch_pass<decltype(preset)>(model, pass, input, grid, static_cast<prim::Stream>(stream));
  });
}

}  // namespace via::persistent
