// SPDX-License-Identifier: Apache-2.0
// Whether two caches that may be views of one storage (keys and values side by side) collide.

#include <algorithm>
#include <cstdlib>
#include <numeric>

#include "bindings/attention_inputs.h"

namespace via::python {
namespace {

constexpr int kMaxRank = 8;

// Is `distance` = sum of k_i * stride_i with |k_i| < size_i? Dimensions in `order` by falling
// stride, which nest (Tensor::check_no_self_overlap): the smaller ones reach less than one step of
// the next, so that only the two nearest multiples can do.
bool is_reachable(const Tensor& tensor, const int* order, int left, std::int64_t distance) {
  if (left == 0) return distance == 0;
  const std::int64_t size = tensor.size(*order);
  if (size <= 1) return is_reachable(tensor, order + 1, left - 1, distance);
  const std::int64_t stride = tensor.dl.strides[*order];
  const std::int64_t below = distance / stride - (distance % stride < 0 ? 1 : 0);
  for (const std::int64_t steps : {below, below + 1}) {
    if (std::abs(steps) >= size) continue;
    if (is_reachable(tensor, order + 1, left - 1, distance - steps * stride)) return true;
  }
  return false;
}

}  // namespace

bool share_elements(const Tensor& a, const Tensor& b) {
  if (!extent(a).overlaps(extent(b))) return false;
  const std::int64_t bytes = b.data() - a.data();
  const int rank = a.dl.ndim;
  bool alike = true;
  for (int i = 0; i < rank; ++i) alike &= a.size(i) <= 1 || a.dl.strides[i] == b.dl.strides[i];
  if (!alike || bytes % a.item_bytes() != 0 || rank > kMaxRank) return true;
  int order[kMaxRank];
  std::iota(order, order + rank, 0);
  std::sort(order, order + rank, [&](int i, int j) { return a.dl.strides[i] > a.dl.strides[j]; });
  return is_reachable(a, order, rank, bytes / a.item_bytes());
}

}  // namespace via::python
