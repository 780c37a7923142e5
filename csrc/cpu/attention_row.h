// SPDX-License-Identifier: Apache-2.0
// One batch row of tree_attention, read from the caller's arrays and checked.
#pragma once

#include <cstdint>

#include "core/tree.h"
#include "via/tree_attention.h"

namespace via::cpu {

struct AttentionRow {
  // A malformed row has no tokens: nothing is written for it, and its outputs are those of tokens
  // beyond the count.
  AttentionRow(const TreeAttentionParams& params, int batch_idx);

  int num_tokens = 0;
  std::int64_t context = 0;
  int depth[kMaxTreeTokens];
  NodeSet path[kMaxTreeTokens];  // ancestors and the token itself

 private:
  bool read_tree(const TreeAttentionParams& params, int batch_idx, int count);
};

// Keys or values of one head at a position that a well-formed row sees or writes.
char* locate(const TreeAttentionParams& params, const TokenTensor& cache, int batch_idx,
             std::int64_t position, int head);
// The same in query, key, value and out.
char* token_data(const TreeAttentionParams& params, const TokenTensor& tensor, int batch_idx,
                 int token, int head);

}  // namespace via::cpu
