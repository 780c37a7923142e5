// SPDX-License-Identifier: Apache-2.0
// The activations of a product (docs/design.md section 16): warps 6 and 7 gather the live rows of a
// row-major matrix into stages in shared memory, three stages ahead of the multiplication.
//
// A stage holds up to 64 / kTokens chunks of 64 columns of one weight slot, [chunk][kTokens][128
// bytes], the 16-byte pieces of a row exchanged by piece XOR row: the eight rows of one ldmatrix
// lie in different banks. Rows behind the live tokens are not copied: their columns of the result
// stay in accumulators that nobody reads. Beside them come the vectors that the epilogue needs,
// bias or norm weights, so that their latency is hidden too. Bytes per block and sweep: live tokens
// * columns * 2, from L2; 16-byte copies past L1, eight lanes to 128 bytes of a row.
#pragma once

#include <cstdint>

#include "persistent/weight_ring.cuh"

namespace via::persistent {

// Columns of a sweep in steps of at most kMost chunks that end with a weight slot.
template <int kMost>
struct ChunkWalk {
  int chunk = 0;  // the next
  int slot_begin = 0;
  int slot_end = 0;
  int slot_chunks = 0;
  int chunks = 0;

  ChunkWalk() = default;
  VIA_DEVICE explicit ChunkWalk(const Sweep& sweep, int all_chunks)
      : slot_end(min(sweep.slot_chunks, all_chunks)),
        slot_chunks(sweep.slot_chunks),
        chunks(all_chunks) {}
  VIA_DEVICE bool is_done() const { return chunk == chunks; }
  VIA_DEVICE bool begins_slot() const { return chunk == slot_begin; }
  VIA_DEVICE int count() const { return min(kMost, slot_end - chunk); }
  VIA_DEVICE void advance() {
    chunk += count();
    if (chunk < slot_end) return;
    slot_begin = slot_end;
    slot_end = min(slot_end + slot_chunks, chunks);
  }
};

// Row-major bfloat16 input of a product; rows as long as the product has columns.
VIA_DEVICE const unsigned char* product_input(const ModelArgs& model, PhaseKind kind) {
  const void* const input = kind == PhaseKind::kOutput ? model.buffers.attended
                            : kind == PhaseKind::kDown ? model.buffers.features
                                                       : model.buffers.normed;
  return static_cast<const unsigned char*>(input);
}

VIA_DEVICE bool changes_residual(PhaseKind kind) {
  return kind == PhaseKind::kOutput || kind == PhaseKind::kDown;
}

// Threads kWeightThreads to kThreads - 1 only call what follows.
template <class T, int kTokens>
struct StageLoader {
  static constexpr int kStageChunks = kMaxTokens / kTokens;
  static constexpr int kRowsAtATime = (kThreads - kWeightThreads) / 8;

  const unsigned char* input;
  std::int64_t row_bytes;
  unsigned char* stages;
  ChunkWalk<kStageChunks> walk;
  int stage = 0;

  VIA_DEVICE StageLoader(const Block<T>& block, const Phase& phase, unsigned char* stage_memory)
      : input(product_input(block.model, phase.kind)),
        row_bytes(std::int64_t{phase.chunks} * kChunk * 2),
        stages(stage_memory) {}

  // The next stage, or an empty one behind the last, without a commit.
  VIA_DEVICE void copy(const Block<T>& block) {
    const int thread = static_cast<int>(threadIdx.x) - kWeightThreads;
    const int piece = thread % 8, first_token = thread / 8;
    static_assert(kRowsAtATime == 8, "a thread's rows are equal modulo 8");
    const int count = walk.count();
    unsigned char* const to = stages + stage * T::kStageBytes + (piece ^ first_token) * 16;
    const unsigned char* const from = input + piece * 16 + std::int64_t{walk.chunk} * kChunk * 2;
#pragma unroll 1
    for (int token = first_token; token < block.live_tokens; token += kRowsAtATime) {
      const unsigned char* const row = from + block.shared.rows[token] * row_bytes;
#pragma unroll
      for (int chunk = 0; chunk < kStageChunks; ++chunk) {
        if (chunk < count) {
          prim::cp_async16(to + (chunk * kTokens + token) * kChunk * 2, row + chunk * kChunk * 2);
        }
      }
    }
    walk.advance();
    stage = (stage + 1) % T::kStages;
  }

  VIA_DEVICE void load(const Block<T>& block) {
    copy(block);
    prim::cp_async_commit();
  }

  // All stages but one of a sweep; `count` floats of a vector come with the last.
  VIA_DEVICE void prime(const Block<T>& block, const Sweep& sweep, int chunks, const float* vector,
                        int count, float* to) {
    walk = ChunkWalk<kStageChunks>(sweep, chunks);
    stage = 0;
#pragma unroll 1
    for (int i = 0; i < T::kStages - 1; ++i) {
      copy(block);
      if (i == T::kStages - 2) {
        for (int at = (static_cast<int>(threadIdx.x) - kWeightThreads) * 4; at < count;
             at += (kThreads - kWeightThreads) * 4) {
          prim::cp_async16(to + at, vector + at);
        }
      }
      prim::cp_async_commit();
    }
  }
};

}  // namespace via::persistent
