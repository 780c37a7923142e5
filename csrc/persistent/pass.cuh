// SPDX-License-Identifier: Apache-2.0
// A pass of the model over the live tokens of all rows: every block walks the phases of the pass
// that the gates keep, with a grid barrier behind each (docs/design.md, section 16).
//
// What a block decides here follows from the phase table, the gates and the counts alone, which
// are the same for all: every block runs the same phases and the same barriers. The search for the
// next phase, loads of constants that come from L2, lies between arrival and wait of a barrier.
#pragma once

#include <cstdint>

#include "core/macros.h"
#include "persistent/attention.cuh"
#include "persistent/block.cuh"
#include "persistent/grid_barrier.cuh"
#include "persistent/product.cuh"
#include "persistent/residual.cuh"
#include "persistent/rotary.cuh"
#include "persistent/stamps.cuh"
#include "persistent/weight_ring.cuh"

namespace via::persistent {

// Live token t of the pass is token t - (counts of the rows before) of its row.
template <class T>
VIA_DEVICE void make_token_table(Block<T>& block, const PassInput& input, std::int32_t* positions) {
  BlockShared& shared = block.shared;
  const int thread = static_cast<int>(threadIdx.x);
  int live = 0;
#pragma unroll 1
  for (int batch_idx = 0; batch_idx < block.model.batch_size; ++batch_idx) {
    const int count = input.counts[batch_idx], token = thread - live;
    if (thread < kMaxTokens && token >= 0 && token < count) {
      const int row = batch_idx * input.width + token;
      shared.rows[thread] = row;
      positions[thread] = input.contexts[batch_idx] + input.depths[row];
      shared.batch[thread] = batch_idx;
      shared.token[thread] = token;
    }
    live += count;
  }
  block.live_tokens = live;
}

// An open phase of the range, the norm that the next product behind it wants, the layer's cache if
// it is attention.
struct OpenPhase {
  int phase_idx;
  std::int64_t next_norm;
  Phase phase;
  LayerCache cache;
};

VIA_DEVICE int next_open(const ModelArgs& model, const PassRange& range, const Gates& gates,
                         int phase_idx) {
  while (phase_idx < range.last && !gate_is_open(gates, model.phases[phase_idx].gate)) ++phase_idx;
  return phase_idx;
}

// The first open phase from `phase_idx` on; phase_idx = range.last: there is none.
VIA_DEVICE OpenPhase find_phase(const ModelArgs& model, const PassRange& range, const Gates& gates,
                                int phase_idx) {
  OpenPhase open = {};
  open.next_norm = -1;
  open.phase_idx = next_open(model, range, gates, phase_idx);
  if (open.phase_idx == range.last) return open;
  open.phase = model.phases[open.phase_idx];
  if (open.phase.kind == PhaseKind::kAttention) {
    open.cache = model.cache.layers[open.phase.layer];
    return open;
  }
  int reader = open.phase_idx;
  do {
    reader = next_open(model, range, gates, reader + 1);
  } while (reader < range.last && model.phases[reader].input_norm < 0);
  if (reader < range.last) open.next_norm = model.phases[reader].input_norm;
  return open;
}

// Kept apart, so that what one phase computes ahead does not take registers from the others, nor
// from what runs between passes.
template <class T, int kTokens>
VIA_DEVICE_CALL void call_product(Block<T>& block, const OpenPhase& open) {
  run_product<T, kTokens>(block, open.phase, open.next_norm);
}
template <class T>
VIA_DEVICE_CALL void call_attention(Block<T>& block, const OpenPhase& open) {
  run_attention<T>(block, open.cache, pass_shared());
}

template <class T>
VIA_DEVICE void run_any_product(Block<T>& block, const OpenPhase& open) {
  if (block.live_tokens <= 16) {
    call_product<T, 16>(block, open);
  } else if (block.live_tokens <= 32) {
    call_product<T, 32>(block, open);
  } else {
    call_product<T, 64>(block, open);
  }
}

template <class T>
VIA_DEVICE void run_phase(Block<T>& block, const OpenPhase& open, PassShared& shared) {
  switch (open.phase.kind) {
    case PhaseKind::kEmbed: return run_embed<T>(block, open.phase, shared.input, open.next_norm);
    case PhaseKind::kLoad: return run_load<T>(block, open.next_norm);
    case PhaseKind::kSave: return run_save<T>(block, shared.input);
    case PhaseKind::kRotary: return rotate(block, open.phase, shared.positions);
    case PhaseKind::kAttention: return call_attention<T>(block, open);
    default: return run_any_product<T>(block, open);
  }
}

// Called by all threads of all blocks, with the same arguments; what the pass reads was written
// before a grid barrier. True behind a last barrier: the logits (kPrefix: the cache and the block's
// own saved rows) are there. Without live tokens nothing happens, no barrier either. False if the
// launch was aborted; no asynchronous copy is open then.
template <class T>
VIA_DEVICE bool run_pass(Block<T>& block, GridBarrier& barrier, PassKind pass,
                         const PassInput& input) {
  PassShared& shared = pass_shared();
  __syncthreads();
  if (threadIdx.x == 0) {
    shared.input = input;
    shared.range = block.model.passes[static_cast<int>(pass)];
  }
  make_token_table<T>(block, input, shared.positions);
  if (block.live_tokens == 0) return true;
  prime_ring<T>(block, block.model.passes[static_cast<int>(pass)],
                block.model.gates[static_cast<int>(pass)]);
  begin_attention<T>(block.model, input, shared);
  const Gates& gates = block.shared.gates;
  bool goes_on = true;
  OpenPhase open = find_phase(block.model, shared.range, gates, shared.range.first);
#pragma unroll 1
  while (goes_on && open.phase_idx < shared.range.last) {
    VIA_STAMP_BEGIN(block.model.stamps, open.phase_idx);
    run_phase<T>(block, open, shared);
    VIA_STAMP_END(block.model.stamps);
    const int phase_idx = open.phase_idx;
    // Saved rows are read by the block that saved them.
    const bool has_barrier = open.phase.kind != PhaseKind::kSave;
    if (has_barrier) grid_arrive(barrier);
    open = find_phase(block.model, shared.range, gates, phase_idx + 1);
    if (has_barrier) goes_on = grid_wait(barrier, phase_idx);
  }
  drain_ring();
  return goes_on;
}

}  // namespace via::persistent
