// SPDX-License-Identifier: Apache-2.0
// The kernel of verify and its launch. Compiled by nvcc for the GPU and by the host compiler for
// the simulation.
#pragma once

#include <algorithm>

#include "cuda/verify.cuh"
#include "cuda/verify_plan.cuh"

namespace via::cuda {

// What a block may have without asking.
static_assert(sizeof(VerifyShared) <= 48 * 1024, "static shared memory");

__global__ void __launch_bounds__(kThreads, 2)
    verify_kernel(const __grid_constant__ VerifyArgs args) {
  // Raw memory: shared memory has no constructors.
  SMEM(uint4, memory, [(sizeof(VerifyShared) + sizeof(uint4) - 1) / sizeof(uint4)]);
  run_verify(args, *reinterpret_cast<VerifyShared*>(&memory));
}

// Starts the kernel on the stream. `workspace` holds workspace_bytes, zeroed once; the launch
// leaves zero what has to be.
inline void launch_verify(const VerifyParams& p, void* workspace, const DeviceLimits& limits,
                          prim::Stream stream) {
  VerifyArgs args;
  args.p = p;
  args.has_resume = p.resume != nullptr;
  if (args.has_resume) args.resume = *p.resume;
  args.plan = make_plan(p, limits);
  lay_out(p, args.plan, workspace, args.ws);
  const unsigned slots =
      static_cast<unsigned>(limits.multiprocessors * limits.blocks_per_multiprocessor);
  const unsigned useful =
      args.plan.is_closed
          ? args.plan.static_units
          : std::max(args.plan.static_units, static_cast<unsigned>(p.batch_size * args.plan.units));
  LAUNCH(verify_kernel, std::min(slots, useful), kThreads, 0, stream, args);
}

}  // namespace via::cuda
