// SPDX-License-Identifier: Apache-2.0
// The vectorised loops of tree_attention, as a table per instruction set. Query rows meet keys in
// blocks; what a row gets from a block depends on the block and on its own state only, not on the
// rows beside it.
#pragma once

#include <cstdint>

#include "via/types.h"

namespace via::cpu {

// Positions per block: 32 KiB of float32 keys for D = 128, which the second-level cache holds.
inline constexpr int kAttentionBlock = 64;

// Online softmax of several query rows. Weights are 2^(exponent - reference), references integers,
// so that states merge by powers of two.
struct AttentionState {
  float* reference;  // [rows], -inf before the first score
  float* sum;        // [rows] of weights
  float* acc;        // [rows, D] of weights * values
};

struct AttentionQueries {
  const float* data;  // [rows, D]
  std::int32_t rows;  // query heads of one key head, token after token
  std::int32_t dim;   // D, a multiple of 16
  float scale;        // of the dot products
  float softcap;      // 0 = none
};

// Keys and values of `count` <= kAttentionBlock positions. Pointers up to the next multiple of 16
// are valid too, whatever they point at.
struct AttentionBlock {
  const float* const* keys;
  const float* const* values;
  std::int32_t count;
  // Rows of `ahead_bytes` that come to the second-level cache meanwhile.
  const char* const* ahead = nullptr;
  std::int32_t ahead_count = 0;
  std::int32_t ahead_bytes = 0;
};

struct AttentionKernels {
  // Adds a block to the states of the rows. scores: [rows, kAttentionBlock] of scratch.
  void (*attend)(const AttentionQueries& queries, const AttentionBlock& block,
                 const AttentionState& state, float* scores);
  // Adds the states of later positions.
  void (*merge)(std::int32_t rows, std::int32_t dim, const AttentionState& into,
                const AttentionState& next);
  // `count` elements as float32.
  void (*widen)(const void* from, DType dtype, std::int32_t count, float* to);
  // from / divisor in another dtype.
  void (*narrow)(const float* from, float divisor, std::int32_t count, DType dtype, void* to);
};

namespace isa_base {
void fill_attention(AttentionKernels& table);
}
namespace isa_v3 {
void fill_attention(AttentionKernels& table);
}
namespace isa_v4 {
void fill_attention(AttentionKernels& table);
}

// Of the instruction set in use (kernels.h).
const AttentionKernels& attention_kernels();

}  // namespace via::cpu
