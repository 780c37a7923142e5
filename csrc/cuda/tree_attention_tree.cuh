// SPDX-License-Identifier: Apache-2.0
// The new tokens of a row: their parents are checked, and become two words of visible tokens and a
// depth for each.
#pragma once

#include <cstdint>

#include "cuda/tree_attention_args.cuh"

namespace via::attention {

struct TreeToken {
  std::uint64_t low, high;  // itself and its ancestors, as far as the window reaches
  std::int32_t parent;
  std::int32_t depth;

  // A NodeSet in registers: no index that is not known when compiling.
  VIA_DEVICE bool sees(int token) const {
    return ((token < 64 ? low : high) >> (token % 64) & 1u) != 0;
  }
};

// Thread i < count follows token i to its root: as many steps as the token is deep. False for all
// threads if the tree is malformed. Behind it, whatever the block copied to shared memory before
// is there, if each thread had waited for its own copies.
template <class Shape>
VIA_DEVICE bool read_tree(const Args& args, std::int64_t batch_idx, int count,
                          TreeToken* tokens /* [kMaxTreeTokens] */) {
  const TensorView& parents = args.p.parents;
  const int thread = static_cast<int>(threadIdx.x);
  bool is_valid = true;
  static_assert(Shape::kThreads >= kMaxTreeTokens, "a thread per token");
  if (thread < count) {
    const std::int64_t parent = parents.data == nullptr
                                    ? thread - 1
                                    : read_int(parents, batch_idx * parents.stride[0] + thread);
    is_valid = parent_is_valid(parent, thread);
    tokens[thread].parent = static_cast<std::int32_t>(parent);
  }
  if (__syncthreads_and(is_valid ? 1 : 0) == 0) return false;
  if (thread < count) {
    std::uint64_t low = 0, high = 0;
    int depth = 0;
    for (int node = thread; node >= 0; node = tokens[node].parent) {
      const std::uint64_t bit = std::uint64_t{1} << (node % 64);
      if (args.p.window == 0 || depth < args.p.window) (node < 64 ? low : high) |= bit;
      ++depth;
    }
    tokens[thread].low = low;
    tokens[thread].high = high;
    tokens[thread].depth = depth - 1;
  }
  __syncthreads();
  return true;
}

}  // namespace via::attention
