// SPDX-License-Identifier: Apache-2.0
// One warp's part of attention: 16 query rows against the keys of its group, tile by tile, with the
// online softmax of FlashAttention-2 (Dao, 2023) in registers.
//
// Registers follow mma.m16n8k16: lane l holds, of rows l / 4 and l / 4 + 8, columns 2 (l % 4) and
// the next of every eight: `scores` per eight keys, `sums` per eight elements of the head.
// 16-bit formats: tensor cores, float32 accumulation, weights rounded to the format for the second
// product. float32: the same layout, multiplied and added lane by lane.
#pragma once

#include <cstdint>

#include "core/softmax.h"
#include "cuda/tree_attention_tile.cuh"
#include "cuda/tree_attention_tree.cuh"

namespace via::attention {

VIA_DEVICE void multiply_add(float (&c)[4], const std::uint32_t (&a)[4],
                             const std::uint32_t (&b)[2], BFloat16) {
  prim::mma_bf16(c, a, b);
}
VIA_DEVICE void multiply_add(float (&c)[4], const std::uint32_t (&a)[4],
                             const std::uint32_t (&b)[2], Float16) {
  prim::mma_f16(c, a, b);
}
VIA_DEVICE std::uint32_t pack(float low, float high, BFloat16) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return bits_as<std::uint32_t>(pair);
}
VIA_DEVICE std::uint32_t pack(float low, float high, Float16) {
  const __half2 pair = __floats2half2_rn(low, high);
  return bits_as<std::uint32_t>(pair);
}
// Whether one of two packed elements is an infinity or NaN.
VIA_DEVICE bool has_special(std::uint32_t pair, BFloat16) {
  return (pair & 0x7f80u) == 0x7f80u || (pair & 0x7f800000u) == 0x7f800000u;
}
VIA_DEVICE bool has_special(std::uint32_t pair, Float16) {
  return (pair & 0x7c00u) == 0x7c00u || (pair & 0x7c000000u) == 0x7c000000u;
}

template <class Shape>
struct WarpState {
  using T = typename Shape::Element;
  static constexpr int kColumns = Shape::kHeadDim / 8;
  static constexpr int kKeyBlocks = Shape::kGroupKeys / 8;
  static constexpr int kSteps = Shape::kHeadDim / 16;

  float sums[kColumns][4] = {};
  float max[2] = {kNegInf, kNegInf};  // of the scores; at the end in units of log2
  float total[2] = {0.0f, 0.0f};      // this lane's share
  std::uint32_t query[Shape::kKeepsQuery ? kSteps : 1][4];
};

VIA_DEVICE int lane_idx() { return static_cast<int>(threadIdx.x) % kWarpSize; }

template <class Shape>
VIA_DEVICE void load_query(std::uint32_t (&fragment)[4],
                           const typename Shape::Element* rows /* the warp's 16 */, int step) {
  const int lane = lane_idx();
  prim::ldmatrix_x4(fragment, rows + lane % 16 * Shape::kStride + step * 16 + lane / 16 * 8);
}

template <class Shape>
VIA_DEVICE void keep_query(WarpState<Shape>& state, const typename Shape::Element* rows) {
  if constexpr (Shape::kKeepsQuery) {
#pragma unroll
    for (int step = 0; step < WarpState<Shape>::kSteps; ++step) {
      load_query<Shape>(state.query[step], rows, step);
    }
  }
}

// query . key for the warp's rows and the group's keys.
template <class Shape>
VIA_DEVICE void dot_products(const WarpState<Shape>& state, const typename Shape::Element* rows,
                             const typename Shape::Element* keys,
                             float (&scores)[WarpState<Shape>::kKeyBlocks][4]) {
  using T = typename Shape::Element;
  constexpr int kStride = Shape::kStride;
  const int lane = lane_idx(), row = lane / 4, pair = lane % 4 * 2;
#pragma unroll
  for (auto& block : scores) {
#pragma unroll
    for (float& score : block) score = 0.0f;
  }
  if constexpr (Shape::kIsFloat) {
    // Four sums per product, for shorter chains and smaller errors.
    float4 sums[4] = {};
#pragma unroll 2
    for (int column = 0; column < Shape::kHeadDim; column += 4) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float4 q =
            *reinterpret_cast<const float4*>(rows + (row + i / 2 * 8) * kStride + column);
        const float4 k = *reinterpret_cast<const float4*>(keys + (pair + i % 2) * kStride + column);
        sums[i] = make_float4(fmaf(q.x, k.x, sums[i].x), fmaf(q.y, k.y, sums[i].y),
                              fmaf(q.z, k.z, sums[i].z), fmaf(q.w, k.w, sums[i].w));
      }
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      scores[0][i] = (sums[i].x + sums[i].z) + (sums[i].y + sums[i].w);
    }
  } else {
#pragma unroll(Shape::kKeepsQuery ? WarpState<Shape>::kSteps : 2)
    for (int step = 0; step < WarpState<Shape>::kSteps; ++step) {
      std::uint32_t fragment[4];
      prim::ldmatrix_x4(fragment,
                        keys + (lane % 8 + lane / 16 * 8) * kStride + step * 16 + lane / 8 % 2 * 8);
      const std::uint32_t left[2] = {fragment[0], fragment[1]};
      const std::uint32_t right[2] = {fragment[2], fragment[3]};
      if constexpr (Shape::kKeepsQuery) {
        multiply_add(scores[0], state.query[step], left, T{});
        multiply_add(scores[1], state.query[step], right, T{});
      } else {
        std::uint32_t query[4];
        load_query<Shape>(query, rows, step);
        multiply_add(scores[0], query, left, T{});
        multiply_add(scores[1], query, right, T{});
      }
    }
  }
}

// With a cap, products become scores; without, their scale is part of args.exponent.
template <class Shape>
VIA_DEVICE void cap_scores(const Args& args, float (&scores)[WarpState<Shape>::kKeyBlocks][4]) {
  if (!(args.p.softcap > 0.0f)) return;
#pragma unroll
  for (auto& block : scores) {
#pragma unroll
    for (float& score : block) score = args.p.softcap * tanhf(score * args.cap_scale);
  }
}

// Keys that a row does not see get -inf: before its window, behind the end, other branches.
template <class Shape>
VIA_DEVICE void mask_scores(const Args& args, const Unit& unit, int count, const KeyRange& range,
                            const TreeToken* tokens, int first_key,
                            float (&scores)[WarpState<Shape>::kKeyBlocks][4]) {
  const int lane = lane_idx(), warp = static_cast<int>(threadIdx.x) / kWarpSize;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = warp % Shape::kRowWarpCount * 16 + lane / 4 + half * 8;
    const int token = (unit.first_row + row) / args.group_size;
    TreeToken own = {};
    if (token < count) own = tokens[token];
    const int first_seen = range.first_seen + own.depth;
#pragma unroll
    for (int i = 0; i < WarpState<Shape>::kKeyBlocks * 2; ++i) {
      const int key = first_key + i / 2 * 8 + lane % 4 * 2 + i % 2;
      const bool is_seen = key < range.old_keys
                               ? key >= first_seen
                               : key < range.keys && own.sees(key - range.old_keys);
      if (!is_seen) scores[i / 2][half * 2 + i % 2] = kNegInf;
    }
  }
}

// Scores become weights 2^(score * exponent - reference), where reference = max * exponent, rounded
// once for all keys; what was summed under the old maximum is brought to the new one.
template <class Shape>
VIA_DEVICE void update_softmax(float exponent, WarpState<Shape>& state,
                               float (&scores)[WarpState<Shape>::kKeyBlocks][4]) {
  float factor[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float max = state.max[half];
#pragma unroll
    for (const auto& block : scores) max = fmaxf(max, fmaxf(block[2 * half], block[2 * half + 1]));
    max = fmaxf(max, __shfl_xor_sync(kFullMask, max, 1));
    max = fmaxf(max, __shfl_xor_sync(kFullMask, max, 2));
    // A row that has seen nothing yet: 2^(-inf - 0) = 0.
    const float reference = max == kNegInf ? 0.0f : max * exponent;
    factor[half] = prim::exp2_approx(state.max[half] * exponent - reference);
    state.max[half] = max;
    float total = 0.0f;
#pragma unroll
    for (auto& block : scores) {
#pragma unroll
      for (int i = 2 * half; i < 2 * half + 2; ++i) {
        block[i] = prim::exp2_approx(fmaf(block[i], exponent, -reference));
        total += block[i];
      }
    }
    state.total[half] = state.total[half] * factor[half] + total;
  }
  // After the first tiles the maximum rarely moves.
  if (__any_sync(kFullMask, factor[0] != 1.0f || factor[1] != 1.0f) == 0) return;
#pragma unroll
  for (auto& sum : state.sums) {
#pragma unroll
    for (int i = 0; i < 4; ++i) sum[i] *= factor[i / 2];
  }
}

// sums += weights * values, lane by lane, without the keys of weight 0: 0 * NaN would be NaN.
template <class Shape>
VIA_DEVICE void add_values_apart(WarpState<Shape>& state, const typename Shape::Element* values,
                                 const float (&weights)[WarpState<Shape>::kKeyBlocks][4]) {
  const int lane = lane_idx(), pair = lane % 4 * 2;
#pragma unroll 1
  for (int giver = 0; giver < 4; ++giver) {
#pragma unroll
    for (int k = 0; k < 2 * WarpState<Shape>::kKeyBlocks; ++k) {
      const auto* const row = values + (k / 2 * 8 + giver * 2 + k % 2) * Shape::kStride + pair;
      float weight[2];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        weight[half] =
            __shfl_sync(kFullMask, weights[k / 2][2 * half + k % 2], lane / 4 * 4 + giver);
        if constexpr (!Shape::kIsFloat) {
          // As the tensor cores see it.
          const std::uint32_t rounded = pack(weight[half], 0.0f, typename Shape::Element{});
          weight[half] = to_float(typename Shape::Element{static_cast<std::uint16_t>(rounded)});
        }
      }
#pragma unroll
      for (int column = 0; column < WarpState<Shape>::kColumns; ++column) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float value = to_float(row[column * 8 + i % 2]);
          float& sum = state.sums[column][i];
          sum = weight[i / 2] != 0.0f ? fmaf(weight[i / 2], value, sum) : sum;
        }
      }
    }
  }
}

// A call, so that this rare work takes no registers from the common one.
template <class Shape>
VIA_DEVICE_CALL void add_special_values(WarpState<Shape>& state,
                                        const typename Shape::Element* values,
                                        const float (&weights)[WarpState<Shape>::kKeyBlocks][4]) {
  add_values_apart<Shape>(state, values, weights);
}

template <class Shape>
VIA_DEVICE void load_values(std::uint32_t (&fragment)[4], const typename Shape::Element* values,
                            int step) {
  const int lane = lane_idx();
  prim::ldmatrix_x4_trans(fragment, values + (lane % 8 + lane / 8 % 2 * 8) * Shape::kStride +
                                        step * 16 + lane / 16 * 8);
}

// Whether a value is an infinity or NaN: of keys that some rows do not see, it would spoil those.
template <class Shape>
VIA_DEVICE bool has_special_values(const typename Shape::Element* values) {
  bool found = false;
#pragma unroll 1
  for (int step = 0; step < WarpState<Shape>::kSteps; ++step) {
    std::uint32_t fragment[4];
    load_values<Shape>(fragment, values, step);
    for (const std::uint32_t pair : fragment) {
      found |= has_special(pair, typename Shape::Element{});
    }
  }
  return __any_sync(kFullMask, found ? 1 : 0) != 0;
}

// sums += weights * values.
template <class Shape>
VIA_DEVICE void add_values(WarpState<Shape>& state, const typename Shape::Element* values,
                           const float (&weights)[WarpState<Shape>::kKeyBlocks][4],
                           bool is_masked) {
  using T = typename Shape::Element;
  if constexpr (Shape::kIsFloat) {
    add_values_apart<Shape>(state, values, weights);
  } else {
    if (is_masked && has_special_values<Shape>(values)) {
      // Copies: what a call takes by its address lies in memory.
      WarpState<Shape> called = state;
      float given[WarpState<Shape>::kKeyBlocks][4];
#pragma unroll
      for (int i = 0; i < WarpState<Shape>::kKeyBlocks * 4; ++i)
        given[i / 4][i % 4] = weights[i / 4][i % 4];
      add_special_values<Shape>(called, values, given);
      state = called;
      return;
    }
    std::uint32_t left[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      left[i] = pack(weights[i / 2][i % 2 * 2], weights[i / 2][i % 2 * 2 + 1], T{});
    }
#pragma unroll
    for (int step = 0; step < WarpState<Shape>::kSteps; ++step) {
      std::uint32_t fragment[4];
      load_values<Shape>(fragment, values, step);
      const std::uint32_t first[2] = {fragment[0], fragment[1]};
      const std::uint32_t second[2] = {fragment[2], fragment[3]};
      multiply_add(state.sums[2 * step], left, first, T{});
      multiply_add(state.sums[2 * step + 1], left, second, T{});
    }
  }
}

}  // namespace via::attention
