// SPDX-License-Identifier: Apache-2.0
// Small integer tensors of the operations on KV caches.
#pragma once

#include "bindings/tensor.h"

namespace via::python {

// int32 or int64 of one shape, on the device of `like`.
Tensor read_ids(Argument argument, py::handle value, std::initializer_list<std::int64_t> sizes,
                const char* words, const Tensor& like);

struct Pages {
  TensorView table;  // [B, max_pages] int32
  std::int32_t page_size = 0;
  std::int64_t num_pages = 0;
  std::int64_t capacity = 0;  // positions per row
};

// The page table of a cache [pages, page_size, H, D].
Pages read_pages(const char* op, py::handle page_table, std::int64_t batch_size,
                 const Tensor& cache);

}  // namespace via::python
