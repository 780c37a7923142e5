// SPDX-License-Identifier: Apache-2.0
// The tree_attention kernels of simulate.cpp, compiled beside it.

#include "cuda/tree_attention_launch.cuh"

namespace via {

template void attention::launch_typed<float>(const attention::Args&);
template void attention::launch_typed<Float16>(const attention::Args&);
template void attention::launch_typed<BFloat16>(const attention::Args&);

}  // namespace via
