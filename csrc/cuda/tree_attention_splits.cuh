// SPDX-License-Identifier: Apache-2.0
// Merging the splits of a tile of query rows. Up to kRadix partial results meet at a counter; the
// block that comes last merges them in order, and, where there are more, takes the result to the
// next counter. Nobody waits: a launch ends even if one block runs at a time.
#pragma once

#include <cstdint>

#include "cuda/tree_attention_merge.cuh"

namespace via::attention {

// Partial results `stride` splits apart, the first at split `first`.
struct Members {
  int first;
  int stride;
  int count;
};

// Turns the members' statistics into weights in shared memory, one thread per row; those of the
// result are left in memory.stats, and in the first member's place if `keeps_result`.
template <class Shape>
VIA_DEVICE void merge_stats_of(const Args& args, const Unit& unit, const Members& members,
                               int live_rows, bool keeps_result, const MergeMemory& memory) {
  const int row = static_cast<int>(threadIdx.x);
  if (row >= live_rows) return;
  float2 stats[kRadix];
#pragma unroll
  for (int i = 0; i < kRadix; ++i) {
    stats[i] = make_float2(kNegInf, 0.0f);
    if (i < members.count) {
      stats[i] = args.ws.stats[partial_row(args, unit, members.first + i * members.stride) + row];
    }
  }
  const float2 merged = merged_stats(stats, kRadix, 1);
#pragma unroll
  for (int i = 0; i < kRadix; ++i) {
    if (i >= members.count) continue;
    memory.weights[i * Shape::kRows + row] = weight_of(stats[i].x, merged.x);
    args.ws.stats[partial_row(args, unit, members.first + i * members.stride) + row] =
        i == 0 && keeps_result ? merged : make_float2(0.0f, 0.0f);
  }
  memory.stats[row] = merged;
}

// Four elements of all members, weighted and summed in order; zeros are left behind. Loads of
// several members are under way at a time.
template <class Shape>
VIA_DEVICE float4 take_parts(const Args& args, const Unit& unit, const Members& members, int row,
                             int column, const MergeMemory& memory) {
  constexpr int kBatch = Shape::kMergeBatch;
  const std::int64_t step = std::int64_t{members.stride} * args.packed_rows * (Shape::kHeadDim / 4);
  float4* first = reinterpret_cast<float4*>(
      args.ws.sums + (partial_row(args, unit, members.first) + row) * Shape::kHeadDim + column);
  const float* weight = memory.weights + row;
  float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll 1
  for (int left = members.count; left > 0; left -= kBatch) {
    float4 parts[kBatch] = {};
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      if (i < left) parts[i] = first[i * step];
    }
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      if (i >= left) continue;
      sum = plus(sum, times(parts[i], weight[i * Shape::kRows]));
      first[i * step] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    }
    first += kBatch * step;
    weight += kBatch * Shape::kRows;
  }
  return sum;
}

// A bad page somewhere: what the other splits have left is not used.
template <class Shape>
VIA_DEVICE void drop_parts(const Args& args, const Unit& unit, const Members& members,
                           int live_rows) {
  for (int i = 0; i < members.count; ++i) {
    const std::int64_t first = partial_row(args, unit, members.first + i * members.stride);
    for (int k = static_cast<int>(threadIdx.x); k < live_rows * Shape::kHeadDim;
         k += Shape::kThreads) {
      args.ws.sums[first * Shape::kHeadDim + k] = 0.0f;
      if (k < live_rows) args.ws.stats[first + k] = make_float2(0.0f, 0.0f);
    }
  }
}

template <class Shape>
VIA_DEVICE void merge_members(const Args& args, const Unit& unit, const Members& members,
                              int live_rows, bool is_root, const MergeMemory& memory) {
  merge_stats_of<Shape>(args, unit, members, live_rows, !is_root, memory);
  __syncthreads();
  constexpr int kParts = Shape::kHeadDim / 4;
  for (int i = static_cast<int>(threadIdx.x); i < live_rows * kParts; i += Shape::kThreads) {
    const int row = i / kParts, column = i % kParts * 4;
    const float4 sum = take_parts<Shape>(args, unit, members, row, column, memory);
    const float2 stats = memory.stats[row];
    if (is_root) {
      write_out<Shape>(args, unit, row, column, times(sum, inverse(stats.y)));
      if (column == 0) write_lse(args, unit, row, stats);
    } else {
      const std::int64_t to = partial_row(args, unit, members.first) + row;
      *reinterpret_cast<float4*>(args.ws.sums + to * Shape::kHeadDim + column) = sum;
    }
  }
}

enum class Arrival : unsigned { kEarly, kLast, kLastOfBad };

// Called when the block's partial result of `plan.splits` lies in the work space, or will be missed
// because of a bad page. True for the block that finished the rows; `is_bad` is then about all
// splits.
template <class Shape>
VIA_DEVICE_CALL bool merge_splits(const Args& args, const Unit& unit, const RowPlan& plan,
                                  int live_rows, const MergeMemory& memory,
                                  Arrival& arrival /* shared */, bool& is_bad) {
  unsigned* counters = merge_nodes(args, unit);
  int node = unit.split, nodes = plan.splits, stride = 1;
  while (true) {
    const int parent = node / kRadix;
    const Members members = {parent * kRadix * stride, stride,
                             min(kRadix, nodes - parent * kRadix)};
    __syncthreads();
    if (threadIdx.x == 0) {
      const unsigned step = is_bad ? kBadSplit + 1 : 1;
      const unsigned arrived = prim::add_acq_rel(&counters[parent], step) + step;
      arrival = Arrival::kEarly;
      if (arrived % kBadSplit == static_cast<unsigned>(members.count)) {
        arrival = arrived >= kBadSplit ? Arrival::kLastOfBad : Arrival::kLast;
        counters[parent] = 0;
      }
    }
    __syncthreads();
    if (arrival == Arrival::kEarly) return false;
    is_bad = arrival == Arrival::kLastOfBad;
    const bool is_root = nodes <= kRadix;
    if (is_bad) {
      drop_parts<Shape>(args, unit, members, live_rows);
    } else {
      merge_members<Shape>(args, unit, members, live_rows, is_root, memory);
    }
    if (is_root) return true;
    counters += kMostSplits / kRadix;
    node = parent;
    nodes = (nodes + kRadix - 1) / kRadix;
    stride *= kRadix;
  }
}

}  // namespace via::attention
