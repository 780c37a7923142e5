// SPDX-License-Identifier: Apache-2.0
// What the persistent step's kernel is given, all of it by value (docs/design.md, section 16).
#pragma once

#include <cstdint>

#include "cuda/compact_kv.cuh"
#include "cuda/filtered_probs_args.cuh"
#include "cuda/verify_args.cuh"
#include "persistent/layout.h"
#include "via/persistent.h"

namespace via::persistent {

// Accepted cache rows to be moved; keys and values are caches of one chunk per batch row.
struct MoveArgs {
  const CacheView* caches = nullptr;  // [num_caches], on the device
  std::int32_t num_caches = 0;        // 0: nothing is ever moved
  compact::PathEntries cache_rows;
  CacheView hidden;  // the saved hidden rows as one more cache
  compact::PathEntries hidden_rows;
};

struct StepArgs {
  ModelArgs model;
  StepParams step;
  PassInput block;         // root and nodes
  PassInput tail;          // backlog, root and nodes, from the saved hidden rows
  cuda::VerifyArgs slim;   // the slim verifier on the draft
  cuda::VerifyArgs audit;  // the full model on what the slim verifier decided
  cuda::VerifyArgs full;   // the full model on the draft
  cuda::ProbsArgs saved;   // distributions that the audit compares with
  MoveArgs moves;
  bool saves_rows = false;
  bool notes_path = false;
  // Scratch in the work space, written before it is read in every step.
  std::int64_t* audit_offsets = nullptr;     // [B, audit_nodes + 1] logits rows of the audit
  std::int64_t* full_offsets = nullptr;      // [B, N + 1] logits rows of root and nodes in the tail
  std::int64_t* saved_rows = nullptr;        // [B, N + 1] where a slim row's distribution goes
  cuda::ChunkRecord* path_chunks = nullptr;  // [B, N, chunks]
};
// The launch is refused by the driver beyond this; the toolkit's limit from CUDA 12.1 on.
static_assert(sizeof(StepArgs) <= 32764, "beyond the parameter space");

}  // namespace via::persistent
