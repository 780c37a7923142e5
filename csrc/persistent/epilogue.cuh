// SPDX-License-Identifier: Apache-2.0
// What becomes of a product's accumulators (docs/design.md section 16): QKV and logits in float32,
// SwiGLU, additions to the residual.
//
// A thread holds, of a 16 x 8 tile of results (weight rows x tokens), rows lane / 4 and lane / 4 +
// 8 of tokens 2 (lane % 4) and the next. Rows behind the sweep's and tokens behind the live ones
// are garbage and are left alone. A warp's store to global memory covers, for each of four tokens,
// 32 contiguous bytes of float32 (16 of bfloat16): whole sectors, no detour through shared memory.
// Bytes per live token: QKV 4 a row, logits 4, features 2 a pair of rows, each once; the residual
// stays in shared memory.
// Numerics: one multiplication by rstd after the sum over all columns; SwiGLU in float32, rounded
// once.
#pragma once

#include <cstdint>

#include "persistent/residual.cuh"

namespace via::persistent {

// How a sweep's m16 tiles are divided among eight warps: with four tiles or less, `splits` warps
// share a tile, warp `part` of them taking every splits-th step of 16 columns.
struct WarpPart {
  int tile;
  int splits;  // a power of two
  int part;
};
VIA_DEVICE WarpPart warp_part(int tiles) {
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int splits = tiles > 4 ? 1 : tiles > 2 ? 2 : tiles > 1 ? 4 : 8;
  return {warp % (kWarps / splits), splits, warp / (kWarps / splits)};
}

template <class T, int kTokens>
struct Sums {
  static constexpr int kTiles = T::kSweepRows > 16 * kWarps ? 2 : 1;  // of a warp, kWarps apart
  static constexpr int kColumns = kTokens / 8;
  float at[kTiles][kColumns][4];

  VIA_DEVICE void clear() {
#pragma unroll
    for (auto& tile : at) {
#pragma unroll
      for (auto& column : tile) {
#pragma unroll
        for (float& sum : column) sum = 0.0f;
      }
    }
  }
};

// Visits the results that are this thread's to write: visit(row, token, sums), where row counts
// from the sweep's first and sums are (row, token), (row, token + 1), (row + 8, token), (row + 8,
// token + 1). The row exists; row + 8 and the tokens may not.
template <class T, int kTokens, typename Visit>
VIA_DEVICE void for_each_sum(const Sums<T, kTokens>& sums, const WarpPart& part, int rows,
                             Visit visit) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
  for (int i = 0; i < Sums<T, kTokens>::kTiles; ++i) {
    const int row = (part.tile + i * kWarps) * 16 + lane / 4;
    if (row < rows) {
#pragma unroll
      for (int column = 0; column < Sums<T, kTokens>::kColumns; ++column) {
        if ((column & (part.splits - 1)) == part.part) {
          visit(row, column * 8 + lane % 4 * 2, sums.at[i][column]);
        }
      }
    }
  }
}

// Warps that share a tile exchange their sums through shared memory: room for kWarps * 16 * kTokens
// floats. Each is left with the results of some columns, added in the order of the parts. Barriers
// before, and before the memory is used again; one within.
template <class T, int kTokens>
VIA_DEVICE void reduce_parts(Sums<T, kTokens>& sums, const WarpPart& part, float4* memory) {
  constexpr int kColumns = kTokens / 8;
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
#pragma unroll
  for (int column = 0; column < kColumns; ++column) {
    const float (&own)[4] = sums.at[0][column];
    memory[(warp * kColumns + column) * 32 + lane] = make_float4(own[0], own[1], own[2], own[3]);
  }
  __syncthreads();
#pragma unroll
  for (int column = 0; column < kColumns; ++column) {
    if ((column & (part.splits - 1)) == part.part) {
      float4 total = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll 1
      for (int i = 0; i < part.splits; ++i) {
        const int giver = i * (kWarps / part.splits) + part.tile;
        const float4 value = memory[(giver * kColumns + column) * 32 + lane];
        total = i == 0 ? value
                       : make_float4(total.x + value.x, total.y + value.y, total.z + value.z,
                                     total.w + value.w);
      }
      sums.at[0][column][0] = total.x;
      sums.at[0][column][1] = total.y;
      sums.at[0][column][2] = total.z;
      sums.at[0][column][3] = total.w;
    }
  }
}

// Rows of float32, `stride` long: QKV with its bias in shared memory (or null), logits.
template <class T, int kTokens>
VIA_DEVICE void write_rows(const Block<T>& block, const Sums<T, kTokens>& sums,
                           const WarpPart& part, const Sweep& sweep, const float* bias, float* out,
                           std::int64_t stride) {
  for_each_sum(sums, part, sweep.rows, [&](int row, int first_token, const float (&sum)[4]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int own_row = row + i / 2 * 8, token = first_token + i % 2;
      if (own_row < sweep.rows && sweep.first_row + own_row < stride && token < block.live_tokens) {
        const float value = sum[i] * block.shared.rstd[token];
        out[block.shared.rows[token] * stride + sweep.first_row + own_row] =
            bias != nullptr ? value + bias[own_row] : value;
      }
    }
  });
}

// silu(x) = x / (1 + e^-x)
VIA_DEVICE float silu(float x) {
  constexpr float kLog2E = 1.44269504f;
  return x / (1.0f + prim::exp2_approx(-x * kLog2E));
}

// Gate rows of a tile are rows 0 to 7, the up rows of the same features 8 to 15.
template <class T, int kTokens>
VIA_DEVICE void write_features(const Block<T>& block, const Sums<T, kTokens>& sums,
                               const WarpPart& part, const Sweep& sweep) {
  const int size = block.model.shape.intermediate_size;
  const std::int64_t stride = padded_to(size, kChunk);
  auto* const features = static_cast<BFloat16*>(block.model.buffers.features);
  for_each_sum(sums, part, sweep.rows, [&](int row, int first_token, const float (&sum)[4]) {
    const int feature = (sweep.first_row + row) / kPairUnit * kRowUnit + row % kRowUnit;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int token = first_token + i;
      if (feature < size && token < block.live_tokens) {
        const float rstd = block.shared.rstd[token];
        const float value = silu(sum[i] * rstd) * (sum[2 + i] * rstd);
        features[block.shared.rows[token] * stride + feature] =
            bits_as<BFloat16>(__float2bfloat16_rn(value));
      }
    }
  });
}

// Attention's and the MLP's projections. Tokens behind the live ones are added too: nobody reads
// them.
template <class T, int kTokens>
VIA_DEVICE void add_to_residual(const Block<T>& block, const Sums<T, kTokens>& sums,
                                const WarpPart& part, const Sweep& sweep) {
  const int first = sweep.first_row - block.first_hidden;
  for_each_sum(sums, part, sweep.rows, [&](int row, int token, const float (&sum)[4]) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      if (row + half * 8 < sweep.rows) {
        auto* const cell =
            reinterpret_cast<float2*>(block.slab + slab_index(first + row + half * 8, token));
        const float2 old = *cell;
        *cell = make_float2(old.x + sum[2 * half], old.y + sum[2 * half + 1]);
      }
    }
  });
}

template <class T, int kTokens>
VIA_DEVICE void run_epilogue(const Block<T>& block, const Phase& phase,
                             const Sums<T, kTokens>& sums, const WarpPart& part, const Sweep& sweep,
                             const float* vector) {
  const Buffers& buffers = block.model.buffers;
  switch (phase.kind) {
    case PhaseKind::kQkv:
      write_rows(block, sums, part, sweep, phase.bias >= 0 ? vector : nullptr, buffers.qkv,
                 phase.rows);
      break;
    case PhaseKind::kHead:
      write_rows(block, sums, part, sweep, nullptr, buffers.logits, block.model.shape.vocab_size);
      break;
    case PhaseKind::kGateUp: write_features(block, sums, part, sweep); break;
    default: add_to_residual(block, sums, part, sweep); break;
  }
}

}  // namespace via::persistent
