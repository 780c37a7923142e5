// SPDX-License-Identifier: Apache-2.0
// The choice of the dtype, apart from the launches: each dtype is compiled in a file of its own.
#pragma once

#include "cuda/tree_attention_launch.cuh"

namespace via {

// `workspace` holds attention::workspace_bytes, zeroed once; the launch leaves it zero.
inline void launch_tree_attention(const TreeAttentionParams& params, void* workspace) {
  if (params.batch_size == 0 || params.num_tokens == 0 || params.num_heads == 0) return;
  attention::Args args = attention::make_args(params);
  attention::lay_out(args, workspace);
  switch (params.dtype) {
    case DType::kFloat32: return attention::launch_typed<float>(args);
    case DType::kFloat16: return attention::launch_typed<Float16>(args);
    default: return attention::launch_typed<BFloat16>(args);
  }
}

}  // namespace via
