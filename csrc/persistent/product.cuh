// SPDX-License-Identifier: Apache-2.0
// One matrix product of the persistent kernel (docs/design.md section 16): a block's rows of a
// packed weight matrix times the live tokens, on mma.m16n8k16 with the weights as the m operand and
// the tokens, padded to kTokens, as the n operand.
//
// Mapping: a sweep of at most kSweepRows rows goes over all columns once, its m16 tiles on eight
// warps (two per warp in sweeps of 256 rows). Few tiles: several warps share one and take turns
// with steps of 16 columns; which step a warp takes depends on the column alone, so that results do
// not depend on the bucket of tokens. Weights come through the ring, activations through stages
// (weight_ring.cuh, activations.cuh): one wait and one __syncthreads per stage, 64 / kTokens chunks
// of 64 columns, which also frees the slot and the stage before. ldmatrix is free of bank conflicts
// on both sides, by the exchange of 16-byte pieces.
// Bytes per block: its weights, once; live tokens * columns * 2 from L2 per sweep; see epilogue.cuh
// for results.
// Numerics: bfloat16 operands, float32 sums in the order of the columns (of a warp's steps), parts
// in their order: bitwise repeatable for a grid.
#pragma once

#include <cstdint>

#include "persistent/activations.cuh"
#include "persistent/epilogue.cuh"

namespace via::persistent {

// Where a product's parts of scratch lie.
struct ProductMemory {
  unsigned char* stages;  // or the parts of the sums, or of the squares that publish adds
  float* squares;         // [kSquareParts][kMaxTokens]
  float* vectors;         // norm weights of the owned hidden rows, or the bias of two sweeps
};
template <class T>
VIA_DEVICE ProductMemory carve_product(const Block<T>& block) {
  unsigned char* free = block.scratch;
  ProductMemory memory;
  memory.stages =
      prim::carve<unsigned char>(free, largest(T::kStages * T::kStageBytes, T::kReduceBytes));
  memory.squares = prim::carve<float>(free, T::kSquareParts * kMaxTokens);
  memory.vectors = prim::carve<float>(free, T::kVectorFloats);
  return memory;
}

// One chunk of 64 columns, `chunk` of the matrix: weights at the tile's first row (kWarps tiles to
// the next), activations [kTokens][128 bytes].
template <class T, int kTokens>
VIA_DEVICE void multiply_chunk(const WarpPart& part, int tiles, int chunk,
                               const unsigned char* weights, const unsigned char* activations,
                               Sums<T, kTokens>& sums) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  // Rows of the four 8x8 matrices of an ldmatrix, and the first piece in them.
  const int weight_row = lane % 16, weight_piece = lane / 16;
  const int token_row = lane % 8 + lane / 16 * 8, token_piece = lane / 8 % 2;
#pragma unroll
  for (int step = 0; step < 4; ++step) {
    if (((chunk * 4 + step) & (part.splits - 1)) != part.part) continue;
    const int exchange = lane % 8;
    std::uint32_t tokens[kTokens / 16][4];
#pragma unroll
    for (int i = 0; i < kTokens / 16; ++i) {
      prim::ldmatrix_x4(tokens[i], activations + (i * 16 + token_row) * 128 +
                                       ((2 * step + token_piece) ^ exchange) * 16);
    }
#pragma unroll
    for (int i = 0; i < Sums<T, kTokens>::kTiles; ++i) {
      if (part.tile + i * kWarps >= tiles) continue;
      std::uint32_t rows[4];
      prim::ldmatrix_x4(rows, weights + (i * kWarps * 16 + weight_row) * 128 +
                                  ((2 * step + weight_piece) ^ exchange) * 16);
#pragma unroll
      for (int j = 0; j < kTokens / 16; ++j) {
        const std::uint32_t left[2] = {tokens[j][0], tokens[j][1]};
        const std::uint32_t right[2] = {tokens[j][2], tokens[j][3]};
        prim::mma_bf16(sums.at[i][2 * j], rows, left);
        prim::mma_bf16(sums.at[i][2 * j + 1], rows, right);
      }
    }
  }
}

// All columns of a sweep; `slot` counts the slots of the pass range. Ends with a barrier behind the
// last use of the stages.
template <class T, int kTokens>
VIA_DEVICE void multiply_sweep(const Block<T>& block, int chunks, const Sweep& sweep,
                               const WarpPart& part, StageLoader<T, kTokens>& loader, int& slot,
                               Sums<T, kTokens>& sums) {
  constexpr int kStageChunks = StageLoader<T, kTokens>::kStageChunks;
  const int tiles = (sweep.rows + 15) / 16;
  const int chunk_bytes = tiles * 16 * kChunk * 2;
  const bool loads_weights = static_cast<int>(threadIdx.x) < kWeightThreads;
  sums.clear();
  bool is_first = true;
  int stage = 0;
#pragma unroll 1
  for (ChunkWalk<kStageChunks> walk(sweep, chunks); !walk.is_done(); walk.advance()) {
    const bool begins_slot = walk.begins_slot();
    if (!loads_weights) {
      prim::cp_async_wait<T::kStages - 2>();
    } else if (begins_slot) {
      await_weights<T>(is_first);
    }
    __syncthreads();
    if (begins_slot && !is_first) {
      produce_slot(block, slot + T::kRingSlots);
      ++slot;
    }
    is_first = false;
    if (!loads_weights) loader.load(block);
    if (part.tile < tiles) {
      const unsigned char* const weights = block.ring + slot % T::kRingSlots * T::kSlotBytes +
                                           (walk.chunk - walk.slot_begin) * chunk_bytes +
                                           part.tile * 16 * kChunk * 2;
      const unsigned char* const activations = loader.stages + stage * T::kStageBytes;
#pragma unroll
      for (int i = 0; i < kStageChunks; ++i) {
        if (i < walk.count()) {
          multiply_chunk<T, kTokens>(part, tiles, walk.chunk + i, weights + i * chunk_bytes,
                                     activations + i * kTokens * kChunk * 2, sums);
        }
      }
    }
    stage = (stage + 1) % T::kStages;
  }
  // The epilogue's vector, where the sweep had fewer stages than were begun before it.
  if (!loads_weights) prim::cp_async_wait<0>();
  __syncthreads();
  produce_slot(block, slot + T::kRingSlots);
  ++slot;
}

// What the epilogue of sweep `sweep_idx` reads beside rstd, `count` floats of Weights::vectors at
// `offset`, and where it is kept: of two sweeps at a time.
struct EpilogueVector {
  std::int64_t offset = 0;
  int count = 0;
  int place = 0;
};
template <class T>
VIA_DEVICE EpilogueVector epilogue_vector(const Block<T>& block, const Phase& phase,
                                          const Sweep& sweep, int sweep_idx,
                                          std::int64_t next_norm) {
  if (phase.kind == PhaseKind::kQkv && phase.bias >= 0) {
    return {phase.bias + sweep.first_row, sweep.rows, sweep_idx % 2 * T::kSweepRows};
  }
  if (changes_residual(phase.kind) && next_norm >= 0 && sweep_idx == 0) {
    return {next_norm + block.first_hidden, block.slab_rows, 0};
  }
  return {};
}

// The product of an open phase with its epilogue, all threads of the block. Publishes the residual
// under the norm at `next_norm`, where the phase changes it. kTokens: 16, 32 or 64, at least
// live_tokens.
template <class T, int kTokens>
VIA_DEVICE void run_product(const Block<T>& block, const Phase& phase, std::int64_t next_norm) {
  const bool loads_weights = static_cast<int>(threadIdx.x) < kWeightThreads;
  const OwnRows own = own_rows(phase, block.num_blocks, block.block_idx);
  const int sweeps = sweep_count(own.count, T::kSweepRows);
  const ProductMemory memory = carve_product(block);
  StageLoader<T, kTokens> loader(block, phase, memory.stages);
  const auto prime = [&](int i) {
    if (loads_weights) return;
    const Sweep sweep = sweep_of(own.first, own.count, phase.chunks, T::kSweepRows, i);
    const EpilogueVector vector = epilogue_vector(block, phase, sweep, i, next_norm);
    loader.prime(block, sweep, phase.chunks, block.model.weights.vectors + vector.offset,
                 vector.count, memory.vectors + vector.place);
  };
  int slot = block.shared.consumed;
  Sums<T, kTokens> sums;
  bool is_primed = false;
#pragma unroll 1
  for (int i = 0; i < sweeps; ++i) {
    const Sweep sweep = sweep_of(own.first, own.count, phase.chunks, T::kSweepRows, i);
    const WarpPart part = warp_part((sweep.rows + 15) / 16);
    if (!is_primed) prime(i);
    const bool needs_rstd = i == 0 && phase.input_norm >= 0;
    if (needs_rstd) sum_squares(block, memory.squares);
    multiply_sweep(block, phase.chunks, sweep, part, loader, slot, sums);
    if (needs_rstd) find_rstd(block, memory.squares);
    // The next sweep's activations come during the epilogue, unless the sums need their place.
    is_primed = part.splits == 1 && i + 1 < sweeps;
    if (is_primed) prime(i + 1);
    if (part.splits > 1) {
      reduce_parts(sums, part, reinterpret_cast<float4*>(memory.stages));
    } else if (needs_rstd) {
      __syncthreads();
    }
    const EpilogueVector vector = epilogue_vector(block, phase, sweep, i, next_norm);
    run_epilogue(block, phase, sums, part, sweep, memory.vectors + vector.place);
    if (part.splits > 1) __syncthreads();
  }
  if (sweeps > 0 && threadIdx.x == 0) block.shared.consumed = slot;
  __syncthreads();
  if (changes_residual(phase.kind) && next_norm >= 0) {
    publish(block, memory.vectors, reinterpret_cast<float*>(memory.stages));
  }
}

}  // namespace via::persistent
