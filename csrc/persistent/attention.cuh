// SPDX-License-Identifier: Apache-2.0
// Phase kAttention: the body of tree_attention (csrc/cuda/tree_attention.cuh) over the units of
// work of the live tokens, which blocks take in turn; keys and values of the new tokens go into the
// layer's cache. Splits of a long context are merged by the block that finishes last: nobody waits.
//
// A unit is what a block of the tree_attention kernel does, 32 query rows and one split, with fewer
// slots (AttentionShape): the weight ring keeps its memory. Numerics are those of the kernel with
// 32 rows; splits depend on the context alone, so a token's result does not depend on the grid.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda/tree_attention_launch.cuh"
#include "persistent/block.cuh"
#include "persistent/pass_shared.cuh"

namespace via::persistent {

// What the layout of the work space follows from.
VIA_HD void set_attention_sizes(const ModelShape& shape, std::int64_t capacity, int batch_size,
                                int width, int row_unit, attention::Args& args) {
  args.p.batch_size = batch_size;
  args.p.num_tokens = width;
  args.p.num_heads = shape.num_heads;
  args.p.num_kv_heads = shape.num_kv_heads;
  args.p.head_dim = shape.head_dim;
  args.p.capacity = capacity;
  args.group_size = shape.num_heads / shape.num_kv_heads;
  args.packed_rows = width * args.group_size;
  args.row_tiles = (args.packed_rows + row_unit - 1) / row_unit;
  args.most_splits = attention::most_splits_within(capacity, shape.num_kv_heads);
}

// Bytes at the start of Buffers::workspace that passes of this width take: zero before and behind
// every phase.
inline std::size_t attention_workspace(const ModelShape& shape, std::int64_t capacity,
                                       int batch_size, int width) {
  attention::Args args;
  set_attention_sizes(shape, capacity, batch_size, width, 32, args);
  return attention::lay_out(args, nullptr);
}

VIA_DEVICE TokenTensor token_rows(void* data, int width, int heads, int head_dim) {
  TokenTensor tensor;
  tensor.data = data;
  tensor.stride[2] = head_dim;
  tensor.stride[1] = std::int64_t{heads} * head_dim;
  tensor.stride[0] = width * tensor.stride[1];
  return tensor;
}

// Arguments of all layers of a pass but the caches' addresses. By one thread, into memory that
// holds anything.
template <class Shape>
VIA_DEVICE void fill_attention(const ModelArgs& model, const PassInput& input,
                               attention::Args& args) {
  const ModelShape& shape = model.shape;
  const Buffers& buffers = model.buffers;
  set_attention_sizes(shape, model.cache.capacity, model.batch_size, input.width, Shape::kRows,
                      args);
  attention::lay_out(args, buffers.workspace);
  TreeAttentionParams& p = args.p;
  p.dtype = DType::kBFloat16;
  p.query = token_rows(buffers.query, input.width, shape.num_heads, shape.head_dim);
  p.key = token_rows(buffers.key, input.width, shape.num_kv_heads, shape.head_dim);
  p.value = token_rows(buffers.value, input.width, shape.num_kv_heads, shape.head_dim);
  // num_heads * head_dim is a multiple of 64: rows of `attended` have no padding.
  p.out = token_rows(buffers.attended, input.width, shape.num_heads, shape.head_dim);
  for (TokenTensor* tensor : {&p.key_cache, &p.value_cache}) {
    tensor->stride[0] = model.cache.row_stride;
    tensor->stride[1] = model.cache.position_stride;
    tensor->stride[2] = model.cache.head_stride;
  }
  p.lse = nullptr;
  p.context_lens = {input.contexts, DType::kInt32, {1}};
  p.token_counts = {input.counts, DType::kInt32, {1}};
  p.parents = {input.parents, DType::kInt32, {input.width, 1}};
  p.page_table = {nullptr, DType::kInt32, {0}};
  p.page_size = 0;
  p.num_pages = 0;
  p.scale = 1.0f / sqrtf(static_cast<float>(shape.head_dim));
  p.softcap = 0.0f;
  p.window = model.cache.window;
  constexpr float kLog2e = 1.4426950408889634f;
  args.page_shift = 0;
  args.exponent = p.scale * kLog2e;
  args.cap_scale = 0.0f;
  args.lse_per_max = 0.0;
  args.is_aligned = true;
  args.out_is_aligned = true;
}

// Called by all threads at the start of a pass; a barrier must follow.
template <class T>
VIA_DEVICE void begin_attention(const ModelArgs& model, const PassInput& input,
                                PassShared& shared) {
  const int thread = static_cast<int>(threadIdx.x), row = thread - kWarpSize;
  if (thread == 0) fill_attention<typename T::Attention>(model, input, shared.attention);
  if (row >= 0 && row < model.batch_size) {
    shared.plans[row] =
        attention::plan_row(input.contexts[row], input.counts[row], input.width,
                            model.cache.capacity, model.cache.window, model.shape.num_kv_heads);
  }
}

template <class T>
VIA_DEVICE void run_attention(Block<T>& block, const LayerCache& cache, PassShared& shared) {
  using Shape = typename T::Attention;
  attention::Args& args = shared.attention;
  if (threadIdx.x == 0) {
    args.p.key_cache.data = cache.key;
    args.p.value_cache.data = cache.value;
  }
  __syncthreads();
  const int kv_heads = block.model.shape.num_kv_heads;
  int next = block.block_idx;  // among the units of the rows from batch_idx on
#pragma unroll 1
  for (int batch_idx = 0; batch_idx < block.model.batch_size; ++batch_idx) {
    const attention::RowPlan& plan = shared.plans[batch_idx];
    // A malformed row has no splits: its tokens get zeros.
    const bool is_valid = plan.splits > 0;
    const int live = plan.count * args.group_size;
    const int tiles = is_valid ? (live + Shape::kRows - 1) / Shape::kRows : args.row_tiles;
    const int units = tiles * kv_heads * (is_valid ? plan.splits : 1);
#pragma unroll 1
    for (; next < units; next += block.num_blocks) {
      attention::Unit unit;
      unit.batch_idx = batch_idx;
      unit.row_tile = next % tiles;
      unit.kv_head = next / tiles % kv_heads;
      unit.split = next / (tiles * kv_heads);
      unit.first_row = unit.row_tile * Shape::kRows;
      if (is_valid) {
        attention::attend<Shape>(args, unit, plan, min(Shape::kRows, live - unit.first_row),
                                 shared.tokens, shared.arrival, block.scratch);
      } else {
        attention::write_nothing<Shape>(args, unit, 0);
      }
      __syncthreads();
    }
    next -= units;
  }
}

}  // namespace via::persistent
