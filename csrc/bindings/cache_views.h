// SPDX-License-Identifier: Apache-2.0
// The caches of ops.compact_kv: tensors that are written in place.
#pragma once

#include <vector>

#include "bindings/tensor.h"
#include "via/compact_kv.h"

namespace via::python {

struct CacheList {
  Tensor first;  // sets the sizes [B, S] or [pages, page_size] and the device of the call
  std::vector<CacheView> views;
};

// A list or tuple of at least one tensor of rank 4. TypeError or ValueError otherwise, also for
// strides that let elements share memory and for a cache that stands in the list twice.
CacheList read_caches(py::handle caches);

}  // namespace via::python
