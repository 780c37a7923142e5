// SPDX-License-Identifier: Apache-2.0
// Memory of several host tensors in one allocation: records first, then the data.
#pragma once

#include <dlpack.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>

#include "bindings/verification.h"

namespace via::python {

// A cache line: results that different threads write stay apart.
inline constexpr std::size_t kAlignment = 64;

inline std::size_t aligned(std::size_t bytes) {
  return (bytes + kAlignment - 1) & ~(kAlignment - 1);
}

// Both structs are plain memory inside the allocation; only `references` is constructed.
struct Block;

struct Piece {
  DLManagedTensorVersioned managed;
  std::int64_t shape[2];
  std::int64_t strides[2];
  Block* block;
};

struct Block {
  std::atomic<int> references;
  Piece pieces[kVerificationFields];
};

inline void release(Block* block) {
  if (block->references.fetch_sub(1, std::memory_order_acq_rel) == 1) std::free(block);
}

inline void release_piece(DLManagedTensorVersioned* managed) {
  release(static_cast<Piece*>(managed->manager_ctx)->block);
}

}  // namespace via::python
