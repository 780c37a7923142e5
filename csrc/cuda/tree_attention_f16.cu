// SPDX-License-Identifier: Apache-2.0
// The tree_attention kernels for Float16.

#include "cuda/tree_attention_launch.cuh"

namespace via {

template void attention::launch_typed<Float16>(const attention::Args&);

}  // namespace via
