// SPDX-License-Identifier: Apache-2.0
// What is the same for all phases of a pass, in shared memory: read there, it takes no registers
// from the phases. What rotary embedding and attention need in all layers is made once, since loads
// from L2 at the start of a phase are time that no other block can fill.
#pragma once

#include <cstdint>

#include "cuda/tree_attention_tree.cuh"
#include "persistent/block.cuh"

namespace via::persistent {

struct PassShared {
  PassInput input;
  PassRange range;
  std::int32_t positions[kMaxTokens];  // of live token t in its text
  attention::Args attention;           // the caches' addresses are the layer's
  attention::RowPlan plans[kMaxBatch];
  attention::TreeToken tokens[kMaxTokens];  // of the unit of work
  attention::Arrival arrival;
};

// Static shared memory, which runs no constructors.
VIA_DEVICE PassShared& pass_shared() {
  SMEM(uint4, memory, [(sizeof(PassShared) + sizeof(uint4) - 1) / sizeof(uint4)]);
  return reinterpret_cast<PassShared&>(memory);
}

}  // namespace via::persistent
