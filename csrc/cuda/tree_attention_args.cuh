// SPDX-License-Identifier: Apache-2.0
// tree_attention on CUDA: how a call is cut into units of work, what the kernel is given, and what
// its work space holds.
//
// The keys of a row are its cache positions followed by its new tokens: key p < context comes from
// the cache, key context + i from new token i. They are cut into splits at positions that depend on
// the context length (and on the number of heads, the window) alone; a split is read in tiles, a
// tile by four groups of warps that keep softmax states of their own. Groups, then splits, are
// merged in a fixed order. Every reduction of a query row is thereby the same whatever stands in
// the other rows of the batch, and whatever blocks run at the same time.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/half.h"
#include "core/macros.h"
#include "core/params.h"
#include "core/tree.h"
#include "device/prim.cuh"
#include "device/reduce.cuh"
#include "via/tree_attention.h"

namespace via::attention {

inline constexpr int kGroups = 4;
// Splits are multiples of kSplitStep keys, at least kLeastSplit: less is read faster than merged.
inline constexpr std::int64_t kSplitStep = 64;
inline constexpr std::int64_t kLeastSplit = 128;
// One row is to fill the machine, about 132 multiprocessors, by itself.
inline constexpr int kUnitsPerRow = 128;
inline constexpr int kMostSplits = 64;
// This many partial results are merged by one block, and those merged again by another.
inline constexpr int kRadix = 16;
inline constexpr int kMergeNodes = kMostSplits / kRadix + 1;
// What fits beside kTokenBytes into the 99 KiB of the smallest device (sm_86, sm_89, sm_120).
inline constexpr std::size_t kSharedBytes = 94 * 1024;
inline constexpr int kMostSlots = 6;

// The sizes that a kernel is compiled for: a block serves kRows query rows of one KV head (tokens x
// query heads, 16 per warp) and reads tiles of kTile keys.
template <typename T, int kD, int kRowWarps>
struct Shape {
  using Element = T;
  static constexpr bool kIsFloat = sizeof(T) == 4;
  static constexpr int kHeadDim = kD;
  static constexpr int kRowWarpCount = kRowWarps;
  static constexpr int kRows = 16 * kRowWarps;
  static constexpr int kGroupThreads = kWarpSize * kRowWarps;
  static constexpr int kThreads = kGroups * kGroupThreads;
  static constexpr int kGroupKeys = kIsFloat ? 8 : 16;  // keys of a tile that one group reads
  static constexpr int kTile = kGroups * kGroupKeys;
  static constexpr int kWidth = 16 / static_cast<int>(sizeof(T));  // elements in 16 bytes
  static constexpr int kChunks = kD / kWidth;                      // of 16 bytes in a row
  // 16 bytes more than a row: rows of eight lanes then lie in different banks.
  static constexpr int kStride = kD + kWidth;
  static constexpr int kSlotElements = kGroupKeys * kStride;  // K or V of a tile, one group's part
  static constexpr std::size_t kQueryBytes = std::size_t{kRows} * kStride * sizeof(T);
  static constexpr std::size_t kSlotBytes = std::size_t{kGroups} * kSlotElements * sizeof(T);
  static constexpr int kSlots = (kSharedBytes - kQueryBytes) / kSlotBytes < kMostSlots
                                    ? static_cast<int>((kSharedBytes - kQueryBytes) / kSlotBytes)
                                    : kMostSlots;
  static_assert(kSlots >= 2, "a tile is loaded while another is used");
  // Blocks that are to share a multiprocessor as far as registers go.
  static constexpr int kResident = kD > 128 || kRowWarps == 4 ? 1 : kRowWarps == 2 ? 2 : 3;
  // Chunks that a thread finds the addresses of at a time.
  static constexpr int kCopyBatch = kRowWarps == 1 ? 4 : 1;
  // Partial results that a thread loads at a time: 16 to 32 KiB under way in a block.
  static constexpr int kMergeBatch = kRowWarps == 1 ? 16 : 4;
  // Each query fragment is loaded once, where there are registers to keep it.
  static constexpr bool kKeepsQuery =
      !kIsFloat && (kRowWarps == 1 ? kD <= 96 : kRowWarps == 2 && kD == 64);
  // The results of two groups, statistics of all, weights of the splits: after the last tile.
  static constexpr int kSumStride = kD + 4;
  static constexpr std::size_t kMergeBytes =
      sizeof(float) * (2 * std::size_t{kRows} * kSumStride + 2 * kGroups * kRows + kRadix * kRows);
  static constexpr std::size_t kLoadBytes = kQueryBytes + kSlots * kSlotBytes;
  static constexpr std::size_t kDynamicBytes = kLoadBytes > kMergeBytes ? kLoadBytes : kMergeBytes;
  static_assert(kQueryBytes % 128 == 0 && kSlotElements * sizeof(T) % 128 == 0,
                "carve does not have to round");
};

// Pointers into the work space. Packed row = token * (Hq / Hkv) + query head within its KV head.
struct Workspace {
  float* sums = nullptr;         // [B, Hkv, splits, packed rows, D] of 2^(score - max) * value
  float2* stats = nullptr;       // [B, Hkv, splits, packed rows] max and sum of 2^(score - max)
  unsigned* arrivals = nullptr;  // [B, Hkv, row tiles, kMergeNodes], kBadSplit more if bad
};
inline constexpr unsigned kBadSplit = 1u << 16;

struct Args {
  TreeAttentionParams p;
  Workspace ws;
  std::int32_t group_size = 1;   // query heads per KV head
  std::int32_t packed_rows = 0;  // M * group_size
  std::int32_t row_tiles = 0;
  std::int32_t most_splits = 1;  // that a context within the capacity is cut into
  std::int32_t page_shift = 0;
  // Weights are 2^(score * exponent - reference). Without softcap a score is query . key and the
  // exponent holds the scale; with it, softcap * tanh(query . key * cap_scale).
  float exponent = 0.0f;
  float cap_scale = 0.0f;
  double lse_per_max = 0.0;  // from max * exponent to a score, without the rounding of `exponent`
  bool is_aligned = false;   // 16 bytes at a time are legal in query, key, value and caches
  bool out_is_aligned = false;  // four elements at a time are legal in out
};

// What one row of the batch is cut into; a malformed row has no splits.
struct RowPlan {
  std::int64_t context = 0;
  std::int64_t first_key = 0;  // first position that some token sees
  std::int64_t origin = 0;     // where the first split begins, a multiple of kSplitStep
  std::int64_t split_keys = 0;
  std::int32_t count = 0;  // new tokens
  std::int32_t splits = 0;
};

VIA_HD int most_splits(int num_kv_heads) {
  const int wanted = kUnitsPerRow / num_kv_heads;
  return wanted < 1 ? 1 : wanted > kMostSplits ? kMostSplits : wanted;
}

VIA_HD RowPlan plan_row(std::int64_t context, std::int64_t count, std::int64_t max_count,
                        std::int64_t capacity, std::int64_t window, int num_kv_heads) {
  RowPlan plan;
  plan.context = context;
  if (count < 0 || count > max_count || context < 0 || context > capacity - count) return plan;
  plan.count = static_cast<std::int32_t>(count);
  if (window > 0 && context >= window) plan.first_key = context - window + 1;
  plan.origin = plan.first_key / kSplitStep * kSplitStep;
  const std::int64_t keys = context - plan.origin;
  const std::int64_t most = most_splits(num_kv_heads);
  const std::int64_t wanted = ((keys + most - 1) / most + kSplitStep - 1) / kSplitStep * kSplitStep;
  plan.split_keys = wanted > kLeastSplit ? wanted : kLeastSplit;
  const std::int64_t splits = (keys + plan.split_keys - 1) / plan.split_keys;
  plan.splits = splits > 1 ? static_cast<std::int32_t>(splits) : 1;
  return plan;
}

// No context is cut into more. The longest one may have fewer splits than a shorter one, whose
// splits are rounded up less.
VIA_HD int most_splits_within(std::int64_t capacity, int num_kv_heads) {
  const std::int64_t splits = (capacity + kLeastSplit - 1) / kLeastSplit;
  const int most = most_splits(num_kv_heads);
  return splits < 1 ? 1 : splits < most ? static_cast<int>(splits) : most;
}

// A block's unit of work. Tiles of query rows that read the same keys are neighbours, then heads,
// whose rows lie side by side in memory.
struct Unit {
  std::int64_t batch_idx;
  std::int32_t kv_head;
  std::int32_t split;
  std::int32_t first_row;  // packed
  std::int32_t row_tile;
};

template <class Shape>
VIA_DEVICE Unit unit_of(const Args& args, std::int64_t block) {
  Unit unit;
  unit.row_tile = static_cast<std::int32_t>(block % args.row_tiles);
  block /= args.row_tiles;
  unit.kv_head = static_cast<std::int32_t>(block % args.p.num_kv_heads);
  block /= args.p.num_kv_heads;
  unit.split = static_cast<std::int32_t>(block % args.most_splits);
  unit.batch_idx = block / args.most_splits;
  unit.first_row = unit.row_tile * Shape::kRows;
  return unit;
}

VIA_DEVICE RowPlan plan_of(const Args& args, std::int64_t batch_idx) {
  const TreeAttentionParams& p = args.p;
  const std::int64_t context = read_int(p.context_lens, batch_idx * p.context_lens.stride[0]);
  const std::int64_t count = p.token_counts.data == nullptr
                                 ? p.num_tokens
                                 : read_int(p.token_counts, batch_idx * p.token_counts.stride[0]);
  return plan_row(context, count, p.num_tokens, p.capacity, p.window, p.num_kv_heads);
}

// Index of a split's first element in `stats`; times D in `sums`.
VIA_DEVICE std::int64_t partial_row(const Args& args, const Unit& unit, int split) {
  const std::int64_t head = unit.batch_idx * args.p.num_kv_heads + unit.kv_head;
  return (head * args.most_splits + split) * args.packed_rows + unit.first_row;
}
VIA_DEVICE unsigned* merge_nodes(const Args& args, const Unit& unit) {
  const std::int64_t head = unit.batch_idx * args.p.num_kv_heads + unit.kv_head;
  return args.ws.arrivals + (head * args.row_tiles + unit.row_tile) * kMergeNodes;
}

}  // namespace via::attention
