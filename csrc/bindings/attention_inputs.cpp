// SPDX-License-Identifier: Apache-2.0

#include "bindings/attention_inputs.h"

#include <algorithm>
#include <iterator>
#include <limits>
#include <string>

#include "bindings/page_table.h"

namespace via::python {
namespace {

constexpr const char* kOp = "tree_attention";
constexpr std::int64_t kMaxSize = std::numeric_limits<std::int32_t>::max();
constexpr std::int64_t kHeadDims[] = {64, 80, 96, 128, 256};

TokenTensor token_tensor(const Tensor& tensor) {
  return {tensor.data(), {tensor.dl.strides[0], tensor.dl.strides[1], tensor.dl.strides[2]}};
}

Tensor read_query(py::handle value, TreeAttentionParams& params) {
  Tensor query = read_tensor({kOp, "query"}, value);
  query.check_float();
  query.check_rank(4, "[B, M, Hq, D]");
  const std::string shape = describe(query.dl.shape, 4);
  if (query.size(0) > kMaxSize || query.size(1) > kMaxTreeTokens || query.size(2) > kMaxSize) {
    fail_value(query.argument, "have shape [B, M, Hq, D] with M <= 128", shape);
  }
  if (std::find(std::begin(kHeadDims), std::end(kHeadDims), query.size(3)) == std::end(kHeadDims)) {
    fail_value(query.argument, "have shape [B, M, Hq, D] with D one of 64, 80, 96, 128, 256",
               shape);
  }
  query.check_last_dim_contiguous();
  params.batch_size = static_cast<std::int32_t>(query.size(0));
  params.num_tokens = static_cast<std::int32_t>(query.size(1));
  params.num_heads = static_cast<std::int32_t>(query.size(2));
  params.head_dim = static_cast<std::int32_t>(query.size(3));
  params.dtype = query.dtype;
  params.query = token_tensor(query);
  return query;
}

const char* name_of(DType dtype) {
  if (dtype == DType::kFloat32) return "float32 like query";
  return dtype == DType::kFloat16 ? "float16 like query" : "bfloat16 like query";
}

// key, value and the caches: dtype and device of the query.
Tensor read_like(const char* name, py::handle value, const char* words, const Tensor& query) {
  Tensor tensor = read_tensor({kOp, name}, value);
  tensor.check_dtype(query.dtype, name_of(query.dtype));
  tensor.check_rank(4, words);
  tensor.check_last_dim_contiguous();
  tensor.check_same_device(query);
  return tensor;
}

void read_caches(TreeAttentionParams& params, const AttentionArguments& arguments,
                 const Tensor& query, std::initializer_list<const Tensor*> inputs) {
  const bool paged = !arguments.page_table.is_none();
  const char* const words = paged ? "[pages, page_size, Hkv, D]" : "[B, S, Hkv, D]";
  const Tensor key_cache = read_like("key_cache", arguments.key_cache, words, query);
  key_cache.check_shape({paged ? key_cache.size(0) : query.size(0), key_cache.size(1),
                         params.num_kv_heads, params.head_dim},
                        words);
  const Tensor value_cache = read_like("value_cache", arguments.value_cache, words, query);
  value_cache.check_shape(
      {key_cache.size(0), key_cache.size(1), params.num_kv_heads, params.head_dim}, words);
  if (paged) {
    const Pages pages = read_pages(kOp, arguments.page_table, params.batch_size, key_cache);
    params.page_table = pages.table;
    params.page_size = pages.page_size;
    params.num_pages = pages.num_pages;
    params.capacity = pages.capacity;
  } else {
    params.capacity = key_cache.size(1);
  }
  for (const Tensor* cache : {&key_cache, &value_cache}) {
    cache->check_no_self_overlap();
    for (const Tensor* input : inputs) {
      if (!extent(*input).overlaps(extent(*cache))) continue;
      fail_value(input->argument, std::string("share no memory with ") + cache->argument.name,
                 "shared memory");
    }
  }
  if (share_elements(key_cache, value_cache)) {
    fail_value(value_cache.argument, "share no memory with key_cache", "shared memory");
  }
  params.key_cache = token_tensor(key_cache);
  params.value_cache = token_tensor(value_cache);
}

}  // namespace

AttentionInputs read_attention_tensors(const AttentionArguments& arguments) {
  AttentionInputs inputs;
  TreeAttentionParams& params = inputs.params;
  const Tensor& query = inputs.query = read_query(arguments.query, params);
  constexpr const char* kShape = "[B, M, Hkv, D]";
  const Tensor key = read_like("key", arguments.key, kShape, query);
  const std::int64_t heads = key.size(2);
  key.check_shape({query.size(0), query.size(1), heads, query.size(3)}, kShape);
  if (heads < 1 || query.size(2) % heads != 0) {
    fail_value(key.argument,
               "have heads that divide those of query, " + std::to_string(query.size(2)),
               std::to_string(heads));
  }
  params.num_kv_heads = static_cast<std::int32_t>(heads);
  const Tensor value = read_like("value", arguments.value, kShape, query);
  value.check_shape({query.size(0), query.size(1), heads, query.size(3)}, kShape);
  params.key = token_tensor(key);
  params.value = token_tensor(value);
  read_caches(params, arguments, query, {&query, &key, &value});
  return inputs;
}

}  // namespace via::python
