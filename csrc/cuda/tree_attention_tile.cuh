// SPDX-License-Identifier: Apache-2.0
// Where rows of queries, keys and values lie, and how they get into shared memory. A group of warps
// has a ring of slots of its own; a slot holds the keys, or the values, of the group's part of one
// tile. The copies of the next slots are under way while one is used, so a block keeps
// (kSlots - 1) * kSlotBytes in flight, 32 to 64 KiB for D = 128 in 16 bits.
#pragma once

#include <cstdint>

#include "cuda/tree_attention_args.cuh"

namespace via::attention {

template <typename T>
VIA_DEVICE T* row_pointer(const TokenTensor& tensor, std::int64_t row, std::int64_t position,
                          std::int64_t head) {
  return static_cast<T*>(tensor.data) + row * tensor.stride[0] + position * tensor.stride[1] +
         head * tensor.stride[2];
}

// Where a position of the cache lies; no row (-1) if its page is none of the pool.
struct CachePlace {
  std::int64_t row;
  std::int64_t position;
};
VIA_DEVICE CachePlace cache_place(const Args& args, std::int64_t batch_idx, std::int64_t position) {
  const TreeAttentionParams& p = args.p;
  if (p.page_table.data == nullptr) return {batch_idx, position};
  const std::int64_t slot = position >> args.page_shift;
  const std::int64_t page = static_cast<const std::int32_t*>(
      p.page_table.data)[batch_idx * p.page_table.stride[0] + slot];
  if (page < 0 || page >= p.num_pages) return {-1, 0};
  return {page, position - (slot << args.page_shift)};
}

// 16 bytes into shared memory, zeros where there is no source. Without alignment element by element
// and at once, which the waits and barriers of the asynchronous copies order as well.
template <class Shape, bool kAligned>
VIA_DEVICE void copy_chunk(typename Shape::Element* to, const typename Shape::Element* from,
                           const void* anywhere) {
  using T = typename Shape::Element;
  if constexpr (kAligned) {
    prim::cp_async16_zfill(to, from != nullptr ? from : anywhere, from != nullptr);
  } else {
#pragma unroll 1
    for (int i = 0; i < Shape::kWidth; ++i) to[i] = from != nullptr ? from[i] : T{};
  }
}

// The block's query rows; rows of tokens that are not there become zero.
template <class Shape, bool kAligned>
VIA_DEVICE void load_queries(const Args& args, const Unit& unit, int live_rows,
                             typename Shape::Element* to /* [kRows, kStride] */) {
  using T = typename Shape::Element;
#pragma unroll 1
  for (int i = static_cast<int>(threadIdx.x); i < Shape::kRows * Shape::kChunks;
       i += Shape::kThreads) {
    const int row = i / Shape::kChunks, column = i % Shape::kChunks * Shape::kWidth;
    const T* from = nullptr;
    if (row < live_rows) {
      const int packed = unit.first_row + row, token = packed / args.group_size;
      const int head = unit.kv_head * args.group_size + packed % args.group_size;
      from = row_pointer<const T>(args.p.query, unit.batch_idx, token, head) + column;
    }
    copy_chunk<Shape, kAligned>(to + row * Shape::kStride + column, from, args.p.query.data);
  }
}

// The keys of one unit, counted from position `begin`.
struct KeyRange {
  std::int64_t begin;
  std::int32_t keys;        // new tokens included
  std::int32_t old_keys;    // from here on they are new tokens
  std::int32_t first_key;   // before it nothing is seen by anybody
  std::int32_t first_seen;  // by a token of depth 0; one more per depth
  std::int32_t tiles;
};
template <class Shape>
VIA_DEVICE KeyRange key_range(const Args& args, const RowPlan& plan, int split) {
  KeyRange range;
  range.begin = plan.origin + split * plan.split_keys;
  const std::int64_t old_keys = plan.context - range.begin;
  const bool is_last = split + 1 == plan.splits;
  range.old_keys = static_cast<std::int32_t>(is_last ? old_keys : plan.split_keys);
  range.keys = range.old_keys + (is_last ? plan.count : 0);
  const std::int64_t skipped = plan.first_key - range.begin;
  range.first_key = static_cast<std::int32_t>(skipped > 0 ? skipped : 0);
  // Near enough to compare: a depth is less than kMaxTreeTokens.
  constexpr std::int64_t kFar = -2 * kMaxTreeTokens;
  const std::int64_t first_seen = args.p.window > 0 ? old_keys - args.p.window + 1 : kFar;
  range.first_seen = static_cast<std::int32_t>(first_seen > kFar ? first_seen : kFar);
  range.tiles = (range.keys + Shape::kTile - 1) / Shape::kTile;
  return range;
}

// A group's copies. Step 2 t brings the keys of tile t, step 2 t + 1 its values, one commit group
// each, empty behind the last.
template <class Shape>
struct Loader {
  using T = typename Shape::Element;
  T* ring;  // [kSlots, kSlotElements], the group's own
  int next_slot = 0;
  int next_step = 0;
  bool has_bad_page = false;

  VIA_DEVICE void issue(const Args& args, const Unit& unit, const KeyRange& range) {
    if (next_step < 2 * range.tiles) {
      constexpr int kStepChunks = Shape::kGroupKeys * Shape::kChunks;
      const int first = static_cast<int>(threadIdx.x) % Shape::kGroupThreads;
      if (args.is_aligned) {
#pragma unroll(Shape::kCopyBatch)
        for (int i = first; i < kStepChunks; i += Shape::kGroupThreads) {
          copy<true>(args, unit, range, i);
        }
      } else {
#pragma unroll 1
        for (int i = first; i < kStepChunks; i += Shape::kGroupThreads) {
          copy<false>(args, unit, range, i);
        }
      }
    }
    prim::cp_async_commit();
    next_slot = next_slot + 1 == Shape::kSlots ? 0 : next_slot + 1;
    ++next_step;
  }

 private:
  template <bool kAligned>
  VIA_DEVICE void copy(const Args& args, const Unit& unit, const KeyRange& range, int chunk) {
    const bool is_value = next_step % 2 != 0;
    const TokenTensor& cache = is_value ? args.p.value_cache : args.p.key_cache;
    const TokenTensor& fresh = is_value ? args.p.value : args.p.key;
    const int group = static_cast<int>(threadIdx.x) / Shape::kGroupThreads;
    const int key = chunk / Shape::kChunks, column = chunk % Shape::kChunks * Shape::kWidth;
    const int of_range = next_step / 2 * Shape::kTile + group * Shape::kGroupKeys + key;
    const T* from = nullptr;
    if (of_range < range.old_keys) {
      // Positions before the window may have lost their page.
      if (of_range >= range.first_key) {
        const CachePlace place = cache_place(args, unit.batch_idx, range.begin + of_range);
        has_bad_page |= place.row < 0;
        if (place.row >= 0) {
          from = row_pointer<const T>(cache, place.row, place.position, unit.kv_head) + column;
        }
      }
    } else if (of_range < range.keys) {
      from = row_pointer<const T>(fresh, unit.batch_idx, of_range - range.old_keys, unit.kv_head) +
             column;
    }
    copy_chunk<Shape, kAligned>(
        ring + next_slot * Shape::kSlotElements + key * Shape::kStride + column, from, fresh.data);
  }
};

// Puts the new tokens' keys and values of one head into the cache. Nobody reads them there during
// this launch: all units take them from `key` and `value`.
template <class Shape>
VIA_DEVICE_CALL void store_new_tokens(const Args& args, const Unit& unit, const RowPlan& plan) {
  using T = typename Shape::Element;
  const int copies = plan.count * Shape::kChunks;
  for (int i = static_cast<int>(threadIdx.x); i < 2 * copies; i += Shape::kThreads) {
    const bool is_value = i >= copies;
    const int rest = is_value ? i - copies : i;
    const int token = rest / Shape::kChunks, column = rest % Shape::kChunks * Shape::kWidth;
    const CachePlace place = cache_place(args, unit.batch_idx, plan.context + token);
    T* const to = row_pointer<T>(is_value ? args.p.value_cache : args.p.key_cache, place.row,
                                 place.position, unit.kv_head) +
                  column;
    const T* const from = row_pointer<const T>(is_value ? args.p.value : args.p.key, unit.batch_idx,
                                               token, unit.kv_head) +
                          column;
    if (args.is_aligned) {
      *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(from);
    } else {
#pragma unroll 1
      for (int k = 0; k < Shape::kWidth; ++k) to[k] = from[k];
    }
  }
}

}  // namespace via::attention
