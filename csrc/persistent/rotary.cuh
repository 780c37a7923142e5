// SPDX-License-Identifier: Apache-2.0
// Phase kRotary: from the products of the QKV phase to what attention reads. Queries and keys are
// normed per head, where the model has a norm there, and rotated to their text position in pairs of
// elements half a head apart (Su et al., 2021; the "rotate half" of Hugging Face); values are only
// rounded.
//
// A warp takes one (token, head) at a time, heads of a token in a row: queries, keys, values. Reads
// 4 bytes per element once, writes 2. All in float32; one rounding to bfloat16 at the end, where
// Hugging Face rounds after every step.
#pragma once

#include <cstdint>

#include "core/half.h"
#include "core/macros.h"
#include "device/reduce.cuh"
#include "persistent/block.cuh"

namespace via::persistent {

inline constexpr int kMostHeadPairs = 2;  // of a lane: head_dim / 64

// RMSNorm over a head of which each lane holds its pairs.
VIA_DEVICE void norm_head(const float* weight, float epsilon, int head_dim, int pairs,
                          float (&low)[kMostHeadPairs], float (&high)[kMostHeadPairs]) {
  const int lane_idx = static_cast<int>(threadIdx.x) % kWarpSize;
  float squares = 0.0f;
#pragma unroll
  for (int i = 0; i < kMostHeadPairs; ++i) squares += low[i] * low[i] + high[i] * high[i];
  squares = warp_sum(squares);
  const float scale = 1.0f / sqrtf(squares / static_cast<float>(head_dim) + epsilon);
#pragma unroll
  for (int i = 0; i < kMostHeadPairs; ++i) {
    if (i >= pairs) continue;
    const int at = i * kWarpSize + lane_idx;
    low[i] *= scale * weight[at];
    high[i] *= scale * weight[head_dim / 2 + at];
  }
}

VIA_DEVICE void rotate_head(const ModelArgs& args, const Phase& phase, int row,
                            std::int64_t position, int head) {
  const ModelShape& shape = args.shape;
  const int lane_idx = static_cast<int>(threadIdx.x) % kWarpSize;
  const int queries = shape.num_heads, keys = shape.num_kv_heads;
  const int half = shape.head_dim / 2, pairs = half / kWarpSize;
  const float* const from =
      args.buffers.qkv + (std::int64_t{row} * (queries + 2 * keys) + head) * shape.head_dim;
  float low[kMostHeadPairs] = {}, high[kMostHeadPairs] = {};
#pragma unroll
  for (int i = 0; i < kMostHeadPairs; ++i) {
    if (i >= pairs) continue;
    low[i] = from[i * kWarpSize + lane_idx];
    high[i] = from[half + i * kWarpSize + lane_idx];
  }
  const bool is_query = head < queries, is_value = head >= queries + keys;
  if (!is_value) {
    if (phase.head_norms >= 0) {
      const float* const weight =
          args.weights.vectors + phase.head_norms + (is_query ? 0 : shape.head_dim);
      norm_head(weight, shape.norm_epsilon, shape.head_dim, pairs, low, high);
    }
    const std::int64_t angles = position * half;
    const auto* const cosines = static_cast<const BFloat16*>(args.weights.cosines) + angles;
    const auto* const sines = static_cast<const BFloat16*>(args.weights.sines) + angles;
#pragma unroll
    for (int i = 0; i < kMostHeadPairs; ++i) {
      if (i >= pairs) continue;
      const int at = i * kWarpSize + lane_idx;
      const float cosine = to_float(cosines[at]), sine = to_float(sines[at]);
      const float turned = low[i] * cosine - high[i] * sine;
      high[i] = high[i] * cosine + low[i] * sine;
      low[i] = turned;
    }
  }
  const Buffers& buffers = args.buffers;
  void* const to_all = is_query ? buffers.query : is_value ? buffers.value : buffers.key;
  const int heads = is_query ? queries : keys;
  const int own = is_query ? head : is_value ? head - queries - keys : head - queries;
  BFloat16* const to =
      static_cast<BFloat16*>(to_all) + (std::int64_t{row} * heads + own) * shape.head_dim;
#pragma unroll
  for (int i = 0; i < kMostHeadPairs; ++i) {
    if (i >= pairs) continue;
    narrow(low[i], to[i * kWarpSize + lane_idx]);
    narrow(high[i], to[half + i * kWarpSize + lane_idx]);
  }
}

// Called by all threads of all blocks. `positions`: of the live tokens in their text.
template <class T>
VIA_DEVICE void rotate(const Block<T>& block, const Phase& phase, const std::int32_t* positions) {
  const ModelShape& shape = block.model.shape;
  const int heads = shape.num_heads + 2 * shape.num_kv_heads;
  const int warp_idx = static_cast<int>(threadIdx.x) / kWarpSize;
  // Neighbouring heads go to different blocks: few of them use many multiprocessors.
#pragma unroll 1
  for (int task = warp_idx * block.num_blocks + block.block_idx; task < block.live_tokens * heads;
       task += kWarps * block.num_blocks) {
    const int token = task / heads;
    rotate_head(block.model, phase, block.shared.rows[token], positions[token], task % heads);
  }
}

}  // namespace via::persistent
