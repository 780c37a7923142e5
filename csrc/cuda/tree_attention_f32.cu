// SPDX-License-Identifier: Apache-2.0
// The tree_attention kernels for float.

#include "cuda/tree_attention_launch.cuh"

namespace via {

template void attention::launch_typed<float>(const attention::Args&);

}  // namespace via
