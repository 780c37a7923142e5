// SPDX-License-Identifier: Apache-2.0
// Launching tree_attention: sizes, work space, choice of the kernel. Compiled by nvcc for the GPU
// and by the host compiler for the simulation.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>

#include "cuda/tree_attention.cuh"

namespace via::attention {

inline constexpr double kMostBlocks = 2147483647.0;

// Bits that are not zero where an address or a stride in bytes is not aligned. Strides of
// dimensions of size 1 may be anything and are not used.
inline std::uintptr_t alignment_bits(const TokenTensor& tensor, std::int64_t rows,
                                     std::int64_t positions, std::int64_t heads,
                                     std::int64_t item_bytes) {
  const std::int64_t sizes[3] = {rows, positions, heads};
  std::uintptr_t bits = reinterpret_cast<std::uintptr_t>(tensor.data);
  for (int i = 0; i < 3; ++i) {
    if (sizes[i] > 1) bits |= static_cast<std::uintptr_t>(tensor.stride[i] * item_bytes);
  }
  return bits;
}

inline int rows_per_block(const TreeAttentionParams& p, int packed_rows) {
  const int most = p.dtype == DType::kFloat32 ? 16 : p.head_dim > 128 ? 32 : 64;
  int rows = 16;
  while (rows < most && rows < packed_rows) rows *= 2;
  return rows;
}

inline Args make_args(const TreeAttentionParams& p) {
  Args args;
  args.p = p;
  args.group_size = p.num_heads / p.num_kv_heads;
  args.packed_rows = p.num_tokens * args.group_size;
  const int rows = rows_per_block(p, args.packed_rows);
  args.row_tiles = (args.packed_rows + rows - 1) / rows;
  args.most_splits = most_splits_within(p.capacity, p.num_kv_heads);
  while ((std::int64_t{1} << args.page_shift) < p.page_size) ++args.page_shift;
  constexpr float kLog2e = 1.4426950408889634f;
  const bool is_capped = p.softcap > 0.0f;
  args.exponent = is_capped ? kLog2e : p.scale * kLog2e;
  args.cap_scale = is_capped ? p.scale / p.softcap : 0.0f;
  args.lse_per_max = (is_capped ? 1.0 : double{p.scale}) / double{args.exponent};
  const std::int64_t item = p.dtype == DType::kFloat32 ? 4 : 2;
  const bool paged = p.page_table.data != nullptr;
  const std::int64_t rows_of_cache = paged ? p.num_pages : p.batch_size;
  const std::int64_t positions = paged ? p.page_size : p.capacity;
  std::uintptr_t bits = 0;
  for (const TokenTensor* tensor : {&p.key, &p.value}) {
    bits |= alignment_bits(*tensor, p.batch_size, p.num_tokens, p.num_kv_heads, item);
  }
  for (const TokenTensor* tensor : {&p.key_cache, &p.value_cache}) {
    bits |= alignment_bits(*tensor, rows_of_cache, positions, p.num_kv_heads, item);
  }
  bits |= alignment_bits(p.query, p.batch_size, p.num_tokens, p.num_heads, item);
  args.is_aligned = bits % 16 == 0;
  args.out_is_aligned =
      alignment_bits(p.out, p.batch_size, p.num_tokens, p.num_heads, item) % (4 * item) == 0;
  return args;
}

// Where everything lies; returns the bytes.
VIA_HD std::size_t lay_out(Args& args, void* base) {
  constexpr std::size_t kAlign = 256;
  std::size_t used = 0;
  const auto take = [&](std::size_t bytes) {
    char* const part = static_cast<char*>(base) + used;
    used += (bytes + kAlign - 1) / kAlign * kAlign;
    return static_cast<void*>(part);
  };
  const std::size_t heads = static_cast<std::size_t>(args.p.batch_size) * args.p.num_kv_heads;
  const std::size_t rows = args.most_splits > 1 ? heads * args.most_splits * args.packed_rows : 0;
  args.ws.sums = static_cast<float*>(take(rows * args.p.head_dim * sizeof(float)));
  args.ws.stats = static_cast<float2*>(take(rows * sizeof(float2)));
  const std::size_t counters = rows > 0 ? heads * args.row_tiles * kMergeNodes : 0;
  args.ws.arrivals = static_cast<unsigned*>(take(counters * sizeof(unsigned)));
  return used;
}

inline std::size_t workspace_bytes(const TreeAttentionParams& p) {
  Args args = make_args(p);
  return lay_out(args, nullptr);
}

template <class Shape>
void launch_shape(const Args& args) {
  const double blocks = static_cast<double>(args.p.batch_size) * args.most_splits *
                        args.p.num_kv_heads * args.row_tiles;
  if (blocks > kMostBlocks) {
    throw std::runtime_error("tree_attention: the batch must be smaller on CUDA, got " +
                             std::to_string(args.p.batch_size) + " rows");
  }
  LAUNCH(tree_attention_kernel<Shape>, static_cast<unsigned>(blocks), Shape::kThreads,
         Shape::kDynamicBytes, static_cast<prim::Stream>(args.p.stream), args);
}

template <typename T, int kHeadDim>
void launch_head(const Args& args) {
  const int rows = rows_per_block(args.p, args.packed_rows);
  if constexpr (sizeof(T) == 2) {
    if constexpr (kHeadDim <= 128) {
      if (rows == 64) return launch_shape<Shape<T, kHeadDim, 4>>(args);
    }
    if (rows == 32) return launch_shape<Shape<T, kHeadDim, 2>>(args);
  }
  launch_shape<Shape<T, kHeadDim, 1>>(args);
}

template <typename T>
void launch_typed(const Args& args) {
  switch (args.p.head_dim) {
    case 64: return launch_head<T, 64>(args);
    case 80: return launch_head<T, 80>(args);
    case 96: return launch_head<T, 96>(args);
    case 128: return launch_head<T, 128>(args);
    case 256: return launch_head<T, 256>(args);
    default:
      throw std::runtime_error("tree_attention: head_dim must be 64, 80, 96, 128 or 256, got " +
                               std::to_string(args.p.head_dim));
  }
}

}  // namespace via::attention
