// SPDX-License-Identifier: Apache-2.0
// From the softmax states of warps to the result: the four groups of a block are merged in shared
// memory, splits through the work space by whichever block comes last, always in the same order.
//   max = max_i max_i, total = sum_i total_i 2^(max_i - max), out = sum_i sums_i 2^(max_i - max) /
//   total
// The reader of a partial result writes zeros in its place.
#pragma once

#include <cstdint>

#include "cuda/tree_attention_softmax.cuh"

namespace via::attention {

// In dynamic shared memory, in place of queries, keys and values.
struct MergeMemory {
  float* sums[2];  // [kRows, kSumStride] each
  float2* stats;   // [kGroups, kRows] max and total; later [kRows]
  float* weights;  // [kRadix, kRows]
};

template <class Shape>
VIA_DEVICE MergeMemory carve_merge_memory(unsigned char* free) {
  MergeMemory memory;
  for (float*& sums : memory.sums) {
    sums = prim::carve<float>(free, Shape::kRows * Shape::kSumStride);
  }
  memory.stats = prim::carve<float2>(free, kGroups * Shape::kRows);
  memory.weights = prim::carve<float>(free, kRadix * Shape::kRows);
  return memory;
}

VIA_DEVICE float weight_of(float max, float total_max) {
  return total_max == kNegInf ? 0.0f : prim::exp2_approx(max - total_max);
}

// Max and total of `count` states that lie `stride` apart.
VIA_DEVICE float2 merged_stats(const float2* stats, int count, int stride) {
  float2 merged = make_float2(kNegInf, 0.0f);
  for (int i = 0; i < count; ++i) merged.x = fmaxf(merged.x, stats[i * stride].x);
  for (int i = 0; i < count; ++i) {
    merged.y += stats[i * stride].y * weight_of(stats[i * stride].x, merged.x);
  }
  return merged;
}

VIA_DEVICE float4 plus(float4 a, float4 b) {
  return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w);
}
VIA_DEVICE float4 times(float4 a, float b) {
  return make_float4(a.x * b, a.y * b, a.z * b, a.w * b);
}

VIA_DEVICE void narrow_to(float value, float* to) { *to = value; }
VIA_DEVICE void narrow_to(float value, BFloat16* to) {
  to->bits = static_cast<std::uint16_t>(pack(value, 0.0f, BFloat16{}));
}
VIA_DEVICE void narrow_to(float value, Float16* to) {
  to->bits = static_cast<std::uint16_t>(pack(value, 0.0f, Float16{}));
}

// Four elements of a row of `out`.
template <class Shape>
VIA_DEVICE void write_out(const Args& args, const Unit& unit, int row, int column, float4 value) {
  using T = typename Shape::Element;
  const int packed = unit.first_row + row;
  const int head = unit.kv_head * args.group_size + packed % args.group_size;
  T* const to = row_pointer<T>(args.p.out, unit.batch_idx, packed / args.group_size, head) + column;
  if (!args.out_is_aligned) {
    narrow_to(value.x, to);
    narrow_to(value.y, to + 1);
    narrow_to(value.z, to + 2);
    narrow_to(value.w, to + 3);
  } else if constexpr (Shape::kIsFloat) {
    *reinterpret_cast<float4*>(to) = value;
  } else {
    *reinterpret_cast<uint2*>(to) =
        make_uint2(pack(value.x, value.y, T{}), pack(value.z, value.w, T{}));
  }
}

VIA_DEVICE void write_lse(const Args& args, const Unit& unit, int row, float2 stats) {
  if (args.p.lse == nullptr) return;
  constexpr double kLn2 = 0.69314718055994531;
  const int packed = unit.first_row + row;
  const int head = unit.kv_head * args.group_size + packed % args.group_size;
  const std::int64_t token = unit.batch_idx * args.p.num_tokens + packed / args.group_size;
  args.p.lse[token * args.p.num_heads + head] =
      static_cast<float>(stats.x * args.lse_per_max + log2f(stats.y) * kLn2);
}

template <class Shape>
VIA_DEVICE int rows_of_tile(const Args& args, const Unit& unit) {
  return min(Shape::kRows, args.packed_rows - unit.first_row);
}

// Nothing is seen: of the unit's rows, those from `first_row` on.
template <class Shape>
VIA_DEVICE_CALL void write_nothing(const Args& args, const Unit& unit, int first_row) {
  const int rows = rows_of_tile<Shape>(args, unit) - first_row;
  constexpr int kParts = Shape::kHeadDim / 4;
  for (int i = static_cast<int>(threadIdx.x); i < rows * kParts; i += Shape::kThreads) {
    const int row = first_row + i / kParts;
    write_out<Shape>(args, unit, row, i % kParts * 4, make_float4(0.0f, 0.0f, 0.0f, 0.0f));
    if (i % kParts == 0) write_lse(args, unit, row, make_float2(kNegInf, 0.0f));
  }
}

// Leaves the sum of the groups in memory.sums[0] + memory.sums[1], groups (0 + 2) + (1 + 3), and
// their maxima and totals in memory.stats.
template <class Shape>
VIA_DEVICE void merge_groups(WarpState<Shape>& state, const MergeMemory& memory) {
  const int lane = lane_idx(), warp = static_cast<int>(threadIdx.x) / kWarpSize;
  const int group = warp / Shape::kRowWarpCount;
  const int first_row = warp % Shape::kRowWarpCount * 16 + lane / 4;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float total = state.total[half];
    total += __shfl_xor_sync(kFullMask, total, 1);
    total += __shfl_xor_sync(kFullMask, total, 2);
    if (lane % 4 == 0) {
      memory.stats[group * Shape::kRows + first_row + half * 8] =
          make_float2(state.max[half], total);
    }
  }
  __syncthreads();
  float weight[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float2* const stats = memory.stats + first_row + half * 8;
    weight[half] = weight_of(state.max[half], merged_stats(stats, kGroups, Shape::kRows).x);
  }
  // Round 0: groups 2 and 3 hand over; round 1: 0 and 1 add, and leave the result.
  float* const own = memory.sums[group % 2] + first_row * Shape::kSumStride + lane % 4 * 2;
  for (int round = 0; round < 2; ++round) {
    if (group / 2 != round) {
#pragma unroll
      for (int column = 0; column < WarpState<Shape>::kColumns; ++column) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          auto& cell = *reinterpret_cast<float2*>(own + half * 8 * Shape::kSumStride + column * 8);
          float2 sum = make_float2(state.sums[column][2 * half] * weight[half],
                                   state.sums[column][2 * half + 1] * weight[half]);
          if (round == 1) {
            sum.x += cell.x;
            sum.y += cell.y;
          }
          cell = sum;
        }
      }
    }
    __syncthreads();
  }
}

// Visits four elements of every live row: visit(row, column, sum of the groups).
template <class Shape, typename Visit>
VIA_DEVICE void for_each_part(const MergeMemory& memory, int live_rows, Visit visit) {
  constexpr int kParts = Shape::kHeadDim / 4;
  for (int i = static_cast<int>(threadIdx.x); i < live_rows * kParts; i += Shape::kThreads) {
    const int row = i / kParts, column = i % kParts * 4, at = row * Shape::kSumStride + column;
    visit(row, column,
          plus(*reinterpret_cast<const float4*>(memory.sums[0] + at),
               *reinterpret_cast<const float4*>(memory.sums[1] + at)));
  }
}

VIA_DEVICE float inverse(float total) { return total == 0.0f ? 0.0f : 1.0f / total; }

// The only split of a row.
template <class Shape>
VIA_DEVICE void write_groups(const Args& args, const Unit& unit, int live_rows,
                             const MergeMemory& memory) {
  for_each_part<Shape>(memory, live_rows, [&](int row, int column, float4 sum) {
    const float2 stats = merged_stats(memory.stats + row, kGroups, Shape::kRows);
    write_out<Shape>(args, unit, row, column, times(sum, inverse(stats.y)));
    if (column == 0) write_lse(args, unit, row, stats);
  });
}

// One split of several.
template <class Shape>
VIA_DEVICE void store_groups(const Args& args, const Unit& unit, int live_rows,
                             const MergeMemory& memory) {
  const std::int64_t first = partial_row(args, unit, unit.split);
  for_each_part<Shape>(memory, live_rows, [&](int row, int column, float4 sum) {
    float* const to = args.ws.sums + (first + row) * Shape::kHeadDim + column;
    *reinterpret_cast<float4*>(to) = sum;
    if (column == 0) {
      args.ws.stats[first + row] = merged_stats(memory.stats + row, kGroups, Shape::kRows);
    }
  });
}

}  // namespace via::attention
