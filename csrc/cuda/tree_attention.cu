// SPDX-License-Identifier: Apache-2.0
// tree_attention on a GPU: entry points. The kernels are compiled one dtype per file, so that the
// build has something to do at a time.

#include "cuda/check.h"
#include "cuda/tree_attention_dispatch.cuh"
#include "via/tree_attention.h"

namespace via {

extern template void attention::launch_typed<float>(const attention::Args&);
extern template void attention::launch_typed<Float16>(const attention::Args&);
extern template void attention::launch_typed<BFloat16>(const attention::Args&);

std::size_t tree_attention_workspace_size(const TreeAttentionParams& params) {
  return attention::workspace_bytes(params);
}

void tree_attention_cuda(const TreeAttentionParams& params, void* workspace) {
  launch_tree_attention(params, workspace);
  check_cuda(cudaGetLastError(), "tree_attention", "launch of tree_attention_kernel");
}

}  // namespace via
