// SPDX-License-Identifier: Apache-2.0
// One pass alone in a cooperative launch. Grid: what resident_blocks allows, at most; kThreads
// threads a block, T::dynamic_bytes(most_hidden_rows) of dynamic shared memory.
#pragma once

#include "persistent/pass.cuh"

namespace via::persistent {

// Called by all threads of all blocks: block, barriers and the end of the launch around `work`,
// which returns false where the launch was aborted.
template <class T, typename Work>
VIA_DEVICE void run_launch(const ModelArgs& model, Work work) {
  DYN_SMEM(dynamic);
  // Bytes: BlockShared has constructors, which shared memory does not run.
  SMEM(uint4, shared, [(sizeof(BlockShared) + sizeof(uint4) - 1) / sizeof(uint4)]);
  GridBarrier barrier;
  if (!begin_launch(model, barrier)) return;
  Block<T> block = make_block<T>(model, reinterpret_cast<BlockShared&>(shared), dynamic,
                                 static_cast<int>(blockIdx.x), static_cast<int>(gridDim.x));
  if (work(block, barrier)) end_launch(barrier);
}

template <class T, std::size_t kOptIn>
__global__ void __launch_bounds__(kThreads, 1)
    pass_kernel(const __grid_constant__ ModelArgs model, PassKind pass,
                const __grid_constant__ PassInput input) {
  if constexpr (has_body(kCompiledArch, kOptIn)) {
    run_launch<T>(model, [&](Block<T>& block, GridBarrier& barrier) {
      return run_pass<T>(block, barrier, pass, input);
    });
  }
}

}  // namespace via::persistent
