// SPDX-License-Identifier: Apache-2.0
// The kernel of filtered_probs and its launch. Compiled by nvcc for the GPU and by the host
// compiler for the simulation.
#pragma once

#include <algorithm>

#include "cuda/filtered_probs.cuh"
#include "cuda/filtered_probs_plan.cuh"

namespace via::cuda {

static_assert(sizeof(ProbsShared) <= 48 * 1024, "static shared memory");

__global__ void __launch_bounds__(kThreads, 2)
    filtered_probs_kernel(const __grid_constant__ ProbsArgs args) {
  // Raw memory: shared memory has no constructors.
  SMEM(uint4, memory, [(sizeof(ProbsShared) + sizeof(uint4) - 1) / sizeof(uint4)]);
  run_filtered_probs(args, *reinterpret_cast<ProbsShared*>(&memory));
}

// Starts the kernel on the stream, at least one row. `workspace` holds workspace_bytes, zeroed
// once; the launch leaves it zero.
inline void launch_filtered_probs(const FilteredProbsParams& p, void* workspace,
                                  const ProbsLimits& limits, prim::Stream stream) {
  ProbsArgs args;
  args.p = p;
  if (p.probs_stride == 0) args.p.probs_stride = p.vocab_size;
  args.plan = make_plan(p, limits);
  lay_out(p, args.plan, workspace, args.ws);
  const unsigned blocks = std::min(static_cast<unsigned>(limits.slots), args.plan.tickets);
  LAUNCH(filtered_probs_kernel, blocks, kThreads, 0, stream, args);
}

}  // namespace via::cuda
