// SPDX-License-Identifier: Apache-2.0
// The residual stream and its RMS norm (docs/design.md section 16). The residual stays in float32
// in the shared memory of the block that owns its rows: hidden_size / 8 units shared out over the
// grid, the same for embedding, saved rows, attention's and the MLP's projections.
//
// After every change the block publishes what the next product reads: bf16(x * norm weight), and
// its share of every token's sum of squares. That product sums the shares of all blocks and
// multiplies its results by 1 / sqrt(mean + epsilon): a scale per token commutes with the
// projection, so that no phase and no barrier is spent on the norm. Mapping: a warp takes four
// units of eight rows times eight tokens; see slab_index for banks. Bytes per block and token:
// publish writes 2 per owned row and 4; the sums are read by every block, 4 * grid per token, from
// L2; embed reads 2 per owned row, load and save move 4. Numerics: squares are summed over the rows
// of a unit, units, parts of the grid, in that order, whatever else stands in the pass: bitwise
// repeatable for a grid.
#pragma once

#include <cmath>
#include <cstdint>

#include "cuda/tree_attention_softmax.cuh"
#include "persistent/block.cuh"

namespace via::persistent {

// Visits every (unit of 8 owned rows, live token), visit(unit, token); what lies in other blocks'
// reach is neighbouring: four lanes have the same token.
template <class T, typename Visit>
VIA_DEVICE void for_each_unit(const Block<T>& block, Visit visit) {
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int units = block.slab_rows / kRowUnit;
  const int token_groups = (block.live_tokens + 7) / 8;
  const int groups = (units + 3) / 4 * token_groups;
  for (int group = warp; group < groups; group += kWarps) {
    const int unit = group / token_groups * 4 + lane % 4;
    const int token = group % token_groups * 8 + lane / 4;
    if (unit < units && token < block.live_tokens) visit(unit, token);
  }
}

VIA_DEVICE float low_bf16(std::uint32_t pair) { return __uint_as_float(pair << 16); }
VIA_DEVICE float high_bf16(std::uint32_t pair) { return __uint_as_float(pair & 0xffff0000u); }

// With the slab complete for the threads that read it. `norm` is the next product's norm weight of
// the first owned row, in global or shared memory; `parts` room for [units][kMaxTokens] floats.
template <class T>
VIA_DEVICE void publish(const Block<T>& block, const float* norm, float* parts) {
  const Buffers& buffers = block.model.buffers;
  const std::int64_t hidden_size = block.model.shape.hidden_size;
  for_each_unit(block, [&](int unit, int token) {
    float value[kRowUnit];
    float squares = 0.0f;
#pragma unroll
    for (int i = 0; i < kRowUnit; ++i) {
      const float x = block.slab[slab_index(unit * kRowUnit + i, token)];
      squares = fmaf(x, x, squares);
      value[i] = x * norm[unit * kRowUnit + i];
    }
    parts[unit * kMaxTokens + token] = squares;
    auto* const to = static_cast<BFloat16*>(buffers.normed) +
                     block.shared.rows[token] * hidden_size + block.first_hidden + unit * kRowUnit;
    *reinterpret_cast<uint4*>(to) = make_uint4(attention::pack(value[0], value[1], BFloat16{}),
                                               attention::pack(value[2], value[3], BFloat16{}),
                                               attention::pack(value[4], value[5], BFloat16{}),
                                               attention::pack(value[6], value[7], BFloat16{}));
  });
  __syncthreads();
  const int token = static_cast<int>(threadIdx.x);
  if (token < block.live_tokens) {
    float squares = 0.0f;
    for (int unit = 0; unit < block.slab_rows / kRowUnit; ++unit) {
      squares += parts[unit * kMaxTokens + token];
    }
    buffers.square_sums[block.block_idx * kMaxTokens + token] = squares;
  }
}

// After embed or load: every thread reads the rows that it has written itself.
template <class T>
VIA_DEVICE void publish_slab(const Block<T>& block, std::int64_t next_norm) {
  if (next_norm < 0) return;
  unsigned char* free = block.scratch;
  float* const parts = prim::carve<float>(free, T::kUnitParts);
  publish(block, block.model.weights.vectors + next_norm + block.first_hidden, parts);
}

// Embeddings of the live tokens into the slab; ids outside the vocabulary count as 0. Tied: read
// from the packed LM head at phase.weights.
template <class T>
VIA_DEVICE void run_embed(const Block<T>& block, const Phase& phase, const PassInput& input,
                          std::int64_t next_norm) {
  const ModelShape& shape = block.model.shape;
  const std::int64_t padded_vocab = padded_to(shape.vocab_size, kRowUnit);
  for_each_unit(block, [&](int unit, int token) {
    std::int64_t id = input.token_ids[block.shared.rows[token]];
    if (id < 0 || id >= shape.vocab_size) id = 0;
    const int column = block.first_hidden + unit * kRowUnit;
    const std::int64_t element = shape.is_tied
                                     ? phase.weights + packed_index(id, column, padded_vocab)
                                     : id * shape.hidden_size + column;
    const void* const table =
        shape.is_tied ? block.model.weights.packed : block.model.weights.embedding;
    const uint4 piece =
        *reinterpret_cast<const uint4*>(static_cast<const BFloat16*>(table) + element);
    const std::uint32_t pairs[4] = {piece.x, piece.y, piece.z, piece.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int row = unit * kRowUnit + 2 * i;
      block.slab[slab_index(row, token)] = low_bf16(pairs[i]);
      block.slab[slab_index(row + 1, token)] = high_bf16(pairs[i]);
    }
  });
  publish_slab(block, next_norm);
}

VIA_DEVICE float* hidden_row(const ModelArgs& model, std::int64_t row) {
  return model.buffers.hidden + row * model.shape.hidden_size;
}

// Saved rows into the slab: of batch row b and token i, row b * hidden_rows + i.
template <class T>
VIA_DEVICE void run_load(const Block<T>& block, std::int64_t next_norm) {
  for_each_unit(block, [&](int unit, int token) {
    const std::int64_t row =
        std::int64_t{block.shared.batch[token]} * block.model.buffers.hidden_rows +
        block.shared.token[token];
    const auto* const from = reinterpret_cast<const float4*>(hidden_row(block.model, row) +
                                                             block.first_hidden + unit * kRowUnit);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float4 value = from[half];
      const int slab_row = unit * kRowUnit + half * 4;
      block.slab[slab_index(slab_row, token)] = value.x;
      block.slab[slab_index(slab_row + 1, token)] = value.y;
      block.slab[slab_index(slab_row + 2, token)] = value.z;
      block.slab[slab_index(slab_row + 3, token)] = value.w;
    }
  });
  publish_slab(block, next_norm);
}

// The slab into the saved rows that input.hidden_index names; only this block reads them again.
template <class T>
VIA_DEVICE void run_save(const Block<T>& block, const PassInput& input) {
  for_each_unit(block, [&](int unit, int token) {
    const std::int64_t row = input.hidden_index[block.shared.rows[token]];
    auto* const to = reinterpret_cast<float4*>(hidden_row(block.model, row) + block.first_hidden +
                                               unit * kRowUnit);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int slab_row = unit * kRowUnit + half * 4;
      to[half] = make_float4(
          block.slab[slab_index(slab_row, token)], block.slab[slab_index(slab_row + 1, token)],
          block.slab[slab_index(slab_row + 2, token)], block.slab[slab_index(slab_row + 3, token)]);
    }
  });
}

// A token's sum of squares over all blocks, in two steps. Part i of 16 takes the blocks of its
// share, in order; a barrier must follow.
template <class T>
VIA_DEVICE void sum_squares(const Block<T>& block, float* parts /* [kSquareParts][kMaxTokens] */) {
  const int part = static_cast<int>(threadIdx.x) / 16;
  const Share blocks = share_of(block.num_blocks, T::kSquareParts, part);
  for (int token = static_cast<int>(threadIdx.x) % 16; token < block.live_tokens; token += 16) {
    const float* const sums = block.model.buffers.square_sums + token;
    float sum = 0.0f;
#pragma unroll 4
    for (int i = blocks.first; i < blocks.last; ++i) sum += sums[i * kMaxTokens];
    parts[part * kMaxTokens + token] = sum;
  }
}
template <class T>
VIA_DEVICE void find_rstd(const Block<T>& block, const float* parts) {
  const int token = static_cast<int>(threadIdx.x);
  if (token >= block.live_tokens) return;
  float sum = 0.0f;
  for (int part = 0; part < T::kSquareParts; ++part) sum += parts[part * kMaxTokens + token];
  const ModelShape& shape = block.model.shape;
  block.shared.rstd[token] =
      1.0f / sqrtf(sum / static_cast<float>(shape.hidden_size) + shape.norm_epsilon);
}

}  // namespace via::persistent
