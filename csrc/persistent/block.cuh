// SPDX-License-Identifier: Apache-2.0
// What every phase of the persistent kernel is given: the model, this block's memory, the live
// tokens of the pass. The phases (all threads of the block call, block-uniform arguments):
//   weight_ring.cuh  prime_ring<T>(block, range, gates): first weights of a pass range
//                    drain_ring(): after an abort, before the kernel leaves
//   product.cuh      run_product<T, kTokens>(block, phase, next_norm): QKV .. HEAD with epilogue
//   residual.cuh     run_embed<T>(block, phase, input, next_norm), run_load<T>(block, next_norm),
//                    run_save<T>(block, input): rows of the residual
// next_norm: offset of input_norm of the next open phase that has one, -1: nothing is published.
// No phase waits for other blocks. Behind each there is a barrier of the block (the grid barrier
// has one) before the next, which carves scratch anew; save alone needs none: it only reads the
// slab.
#pragma once

#include <cstdint>

#include "core/macros.h"
#include "device/prim.cuh"
#include "persistent/layout.h"
#include "persistent/tuning.cuh"

namespace via::persistent {

// One slot's worth of weights to copy; chunks = 0: there is nothing left.
struct SlotPlan {
  const unsigned char* source;
  std::int64_t chunk_bytes;  // from a chunk to the next, in the packed matrix
  std::int32_t row_bytes;    // of one chunk, all rows of the sweep
  std::int32_t chunks;
};

// Where the weights that are copied next stand: ahead of the phase that runs.
struct RingCursor {
  std::int32_t phase_idx;  // in the table
  std::int32_t last;       // of the range
  std::int32_t sweep_idx;  // the next of the phase
  std::int32_t sweeps;
  std::int32_t chunk;  // the next of the sweep
  std::int32_t chunks;
  std::int32_t slot_chunks;
  SlotPlan next;  // chunks apart
};

// In static shared memory. Written by one thread, read by others behind a barrier.
struct BlockShared {
  float rstd[kMaxTokens];         // of live token t, for the product that runs
  std::int32_t rows[kMaxTokens];  // activation row of live token t: batch_idx * width + token
  std::int32_t batch[kMaxTokens];
  std::int32_t token[kMaxTokens];  // within its row of the batch
  Gates gates;                     // of the pass, for the walk over the table
  RingCursor cursor;
  SlotPlan plans[2];      // of slot i at i % 2; the other is being made
  std::int32_t consumed;  // slots of the range, all products so far
};

template <class T>
struct Block {
  const ModelArgs& model;
  BlockShared& shared;
  unsigned char* ring;     // [kRingSlots][kSlotBytes]
  float* slab;             // [slab_rows][kMaxTokens], slab_index
  unsigned char* scratch;  // kScratchBytes, carved by each phase
  int block_idx;
  int num_blocks;
  int first_hidden;  // hidden rows [first_hidden, first_hidden + slab_rows) are this block's
  int slab_rows;
  int live_tokens = 0;  // M; set with the token table
};

// Hidden rows that the block with the most of them owns.
VIA_HD int most_hidden_rows(int hidden_size, int grid) {
  return (hidden_size / kRowUnit + grid - 1) / grid * kRowUnit;
}

// In shared memory from the launch: SMEM(BlockShared, shared, [1]),
// dynamic_bytes(most_hidden_rows).
template <class T>
VIA_DEVICE Block<T> make_block(const ModelArgs& model, BlockShared& shared, unsigned char* dynamic,
                               int block_idx, int num_blocks) {
  const Share share = share_of(model.shape.hidden_size / kRowUnit, num_blocks, block_idx);
  const int first = share.first * kRowUnit;
  unsigned char* free = dynamic;
  unsigned char* const ring = prim::carve<unsigned char>(free, T::kRingBytes);
  const int most_rows = most_hidden_rows(model.shape.hidden_size, num_blocks);
  float* const slab = prim::carve<float>(free, static_cast<std::size_t>(most_rows) * kMaxTokens);
  return {
      model, shared, ring, slab, free, block_idx, num_blocks, first, share.last * kRowUnit - first};
}

// Element of the slab: tokens are exchanged by 8s so that neither four rows of two tokens (the
// accumulators of half a warp) nor four units of eight tokens (publish) meet in a bank.
VIA_HD int slab_index(int row, int token) {
  return row * kMaxTokens + (token ^ ((row + row / kRowUnit) % 4 * 8));
}

}  // namespace via::persistent
