// SPDX-License-Identifier: Apache-2.0

#include "bindings/cache_views.h"

#include <algorithm>
#include <limits>
#include <string>
#include <utility>

namespace via::python {
namespace {

constexpr const char* kOp = "compact_kv";
constexpr std::int64_t kMaxSize = std::numeric_limits<std::int32_t>::max();

// The first two sizes, [B, S] or [pages, page_size], are common to all caches of a call.
Tensor read_cache(const Argument argument, py::handle value, const Tensor* first) {
  Tensor cache = read_tensor(argument, value);
  if (cache.dl.dtype.lanes != 1 || cache.dl.dtype.bits % 8 != 0) {
    fail_type(argument, "have whole bytes per element", describe(cache.dl.dtype));
  }
  cache.check_rank(4, "[B, S, H, D] or [pages, page_size, H, D]");
  if (first != nullptr) {
    cache.check_shape({first->size(0), first->size(1), cache.size(2), cache.size(3)},
                      "[B, S, H, D] with the B and S of the first cache");
    cache.check_same_device(*first);
  }
  if (cache.size(0) > kMaxSize || cache.size(2) > kMaxSize) {
    fail_value(argument, "have fewer than 2^31 rows and heads", describe(cache.dl.shape, 4));
  }
  cache.check_last_dim_contiguous();
  cache.check_no_self_overlap();
  return cache;
}

CacheView view_of(const Tensor& cache) {
  CacheView view;
  view.data = cache.data();
  for (int i = 0; i < 3; ++i) view.stride_bytes[i] = cache.dl.strides[i] * cache.item_bytes();
  view.num_heads = static_cast<std::int32_t>(cache.size(2));
  view.head_bytes = cache.size(3) * cache.item_bytes();
  return view;
}

// Rows moved twice would end in the wrong place.
void check_distinct(const std::vector<CacheView>& views) {
  std::vector<const void*> starts;
  for (const CacheView& view : views) starts.push_back(view.data);
  std::sort(starts.begin(), starts.end());
  const auto twin = std::adjacent_find(starts.begin(), starts.end());
  if (twin == starts.end() || *twin == nullptr) return;
  fail_value({kOp, "caches"}, "name each cache once", "one cache twice");
}

}  // namespace

CacheList read_caches(py::handle caches) {
  if (!PyList_Check(caches.ptr()) && !PyTuple_Check(caches.ptr())) {
    fail_type({kOp, "caches"}, "be a list or tuple of tensors", describe(caches));
  }
  const auto sequence = py::reinterpret_borrow<py::sequence>(caches);
  const auto count = static_cast<std::int64_t>(sequence.size());
  if (count < 1 || count > kMaxSize) {
    fail_value({kOp, "caches"}, "hold at least one tensor", std::to_string(count));
  }
  Tensor first = read_cache({kOp, "caches[0]"}, py::object(sequence[0]), nullptr);
  std::vector<CacheView> views{view_of(first)};
  views.reserve(count);
  std::vector<std::string> names(count);  // outlive the error texts that point at them
  for (std::int64_t i = 1; i < count; ++i) {
    names[i] = "caches[" + std::to_string(i) + "]";
    views.push_back(view_of(read_cache({kOp, names[i].c_str()}, py::object(sequence[i]), &first)));
  }
  check_distinct(views);
  return {first, std::move(views)};
}

}  // namespace via::python
