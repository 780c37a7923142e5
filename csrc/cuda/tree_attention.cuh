// SPDX-License-Identifier: Apache-2.0
// tree_attention on the GPU (docs/design.md section 3): the new tokens of a draft tree attend to a
// KV cache and to their own ancestors, and go into the cache; one launch.
//
// A block serves one unit: batch row, KV head, up to kRows query rows of it (tokens x query heads
// of the group, so that keys and values are read once for all of them) and one split of the keys.
// Its four groups of warps take a quarter of every tile each, through rings of asynchronous copies
// that only the group waits for; each warp keeps 16 query rows. Then groups are merged, then
// splits.
//
// Bytes read: keys and values once per tile of query rows, from memory once (neighbouring blocks
// share them in L2), 2 * context * Hkv * D elements a row of the batch; written with s > 1 splits:
// 4 * s * M * Hq * (D + 2), read and zeroed once, all in L2.
#pragma once

#include <cstdint>

#include "cuda/tree_attention_splits.cuh"

namespace via::attention {

// Warps of one group: what each of them had copied is there for all, and all have left the slot
// that is filled next.
template <class Shape>
VIA_DEVICE void group_barrier() {
  if constexpr (Shape::kRowWarpCount == 1) {
    __syncwarp();
  } else {
    const int group = static_cast<int>(threadIdx.x) / Shape::kGroupThreads;
    prim::bar_named(1 + group, Shape::kGroupThreads);
  }
}

// A slot that is there; the copy of a later one is started into the slot that was left last.
template <class Shape>
struct SlotReader {
  const typename Shape::Element* ring;
  int next = 0;

  VIA_DEVICE const typename Shape::Element* take(const Args& args, const Unit& unit,
                                                 const KeyRange& range, Loader<Shape>& loader) {
    prim::cp_async_wait<Shape::kSlots - 2>();
    group_barrier<Shape>();
    loader.issue(args, unit, range);
    const auto* const slot = ring + next * Shape::kSlotElements;
    next = next + 1 == Shape::kSlots ? 0 : next + 1;
    return slot;
  }
};

// Attends to all tiles of the unit.
template <class Shape>
VIA_DEVICE void read_keys(const Args& args, const Unit& unit, int count, const KeyRange& range,
                          const TreeToken* tokens, const typename Shape::Element* query_rows,
                          Loader<Shape>& loader, WarpState<Shape>& state) {
  const int group = static_cast<int>(threadIdx.x) / Shape::kGroupThreads;
  SlotReader<Shape> reader{loader.ring};
  float scores[WarpState<Shape>::kKeyBlocks][4];
#pragma unroll 1
  for (int step = 0; step < 2 * range.tiles; ++step) {
    const int first_key = step / 2 * Shape::kTile + group * Shape::kGroupKeys;
    const bool is_masked =
        first_key + Shape::kGroupKeys > range.old_keys || first_key < range.first_seen + count - 1;
    const auto* const slot = reader.take(args, unit, range, loader);
    if (step % 2 == 0) {
      dot_products<Shape>(state, query_rows, slot, scores);
      cap_scores<Shape>(args, scores);
      if (is_masked) mask_scores<Shape>(args, unit, count, range, tokens, first_key, scores);
      update_softmax<Shape>(args.exponent, state, scores);
    } else {
      add_values<Shape>(state, slot, scores, is_masked);
    }
  }
  for (float& max : state.max) max *= args.exponent;
}

template <class Shape>
VIA_DEVICE void attend(const Args& args, const Unit& unit, const RowPlan& plan, int live_rows,
                       TreeToken* tokens, Arrival& arrival, unsigned char* shared) {
  using T = typename Shape::Element;
  const int warp = static_cast<int>(threadIdx.x) / kWarpSize;
  const KeyRange range = key_range<Shape>(args, plan, unit.split);
  unsigned char* free = shared;
  T* const queries = prim::carve<T>(free, Shape::kRows * Shape::kStride);
  Loader<Shape> loader{};
  for (int group = 0; group < kGroups; ++group) {
    T* const ring = prim::carve<T>(free, Shape::kSlots * Shape::kSlotElements);
    if (group == warp / Shape::kRowWarpCount) loader.ring = ring;
  }
  // Copies first: the tree is read while they are under way.
  if (args.is_aligned) {
    load_queries<Shape, true>(args, unit, live_rows, queries);
  } else {
    load_queries<Shape, false>(args, unit, live_rows, queries);
  }
  prim::cp_async_commit();
#pragma unroll 1
  for (int i = 0; i < Shape::kSlots - 1; ++i) loader.issue(args, unit, range);
  prim::cp_async_wait<Shape::kSlots - 1>();
  const bool tree_is_valid = read_tree<Shape>(args, unit.batch_idx, plan.count, tokens);
  WarpState<Shape> state;
  if (tree_is_valid) {
    const T* const query_rows = queries + warp % Shape::kRowWarpCount * 16 * Shape::kStride;
    keep_query<Shape>(state, query_rows);
    read_keys<Shape>(args, unit, plan.count, range, tokens, query_rows, loader, state);
  }
  prim::cp_async_wait<0>();

  const int thread = static_cast<int>(threadIdx.x);
  if (unit.split + 1 == plan.splits && thread < plan.count) {
    loader.has_bad_page |= cache_place(args, unit.batch_idx, plan.context + thread).row < 0;
  }
  // Nobody uses queries, keys and values any more.
  bool is_bad = __syncthreads_or(loader.has_bad_page ? 1 : 0) != 0 || !tree_is_valid;
  bool is_finisher = unit.split == 0;
  if (tree_is_valid) {
    const MergeMemory memory = carve_merge_memory<Shape>(shared);
    if (!is_bad) merge_groups<Shape>(state, memory);
    if (plan.splits > 1) {
      if (!is_bad) store_groups<Shape>(args, unit, live_rows, memory);
      is_finisher = merge_splits<Shape>(args, unit, plan, live_rows, memory, arrival, is_bad);
    } else if (!is_bad) {
      write_groups<Shape>(args, unit, live_rows, memory);
    }
  }
  if (!is_finisher) return;
  write_nothing<Shape>(args, unit, is_bad ? 0 : live_rows);
  if (!is_bad && unit.row_tile == 0) store_new_tokens<Shape>(args, unit, plan);
}

// Grid: one block per unit, those of splits that a row does not have included.
template <class Shape>
__global__ void __launch_bounds__(Shape::kThreads, Shape::kResident)
    tree_attention_kernel(const __grid_constant__ Args args) {
  DYN_SMEM(shared);
  SMEM(TreeToken, tokens, [kMaxTreeTokens]);
  SMEM(Arrival, arrival, [1]);
  const Unit unit = unit_of<Shape>(args, blockIdx.x);
  const RowPlan plan = plan_of(args, unit.batch_idx);
  const int live_rows = min(Shape::kRows, plan.count * args.group_size - unit.first_row);
  if (live_rows > 0 && unit.split < plan.splits) {
    attend<Shape>(args, unit, plan, live_rows, tokens, arrival[0], shared);
  } else if (live_rows <= 0 && unit.split == 0) {
    write_nothing<Shape>(args, unit, 0);
  }
}

}  // namespace via::attention
