// SPDX-License-Identifier: Apache-2.0

#include "bindings/page_table.h"

#include <limits>

namespace via::python {
namespace {

constexpr std::int64_t kMaxSize = std::numeric_limits<std::int32_t>::max();

}  // namespace

Tensor read_ids(Argument argument, py::handle value, std::initializer_list<std::int64_t> sizes,
                const char* words, const Tensor& like) {
  Tensor tensor = read_tensor(argument, value);
  tensor.check_ids();
  tensor.check_shape(sizes, words);
  tensor.check_last_dim_contiguous();
  tensor.check_same_device(like);
  return tensor;
}

Pages read_pages(const char* op, py::handle page_table, std::int64_t batch_size,
                 const Tensor& cache) {
  Tensor table = read_tensor({op, "page_table"}, page_table);
  table.check_dtype(DType::kInt32, "int32");
  table.check_rank(2, "[B, max_pages]");
  table.check_shape({batch_size, table.size(1)}, "[B, max_pages]");
  table.check_last_dim_contiguous();
  table.check_same_device(cache);
  if (table.size(1) > kMaxSize) {  // so that the capacity fits int64
    fail_value(table.argument, "have shape [B, max_pages] with max_pages < 2^31",
               describe(table.dl.shape, 2));
  }
  const std::int64_t page_size = cache.size(1);
  if (page_size < 1 || page_size > kMaxSize || (page_size & (page_size - 1)) != 0) {
    fail_value(cache.argument, "have a page size that is a power of two",
               describe(cache.dl.shape, 4));
  }
  return {table.view(), static_cast<std::int32_t>(page_size), cache.size(0),
          table.size(1) * page_size};
}

}  // namespace via::python
