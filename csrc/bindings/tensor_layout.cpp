// SPDX-License-Identifier: Apache-2.0
// Checks of shape, strides and device.

#include <algorithm>
#include <string>

#include "bindings/tensor.h"

namespace via::python {

void Tensor::check_shape(std::initializer_list<std::int64_t> sizes, const char* words) const {
  bool same = dl.ndim == static_cast<int>(sizes.size());
  for (int i = 0; same && i < dl.ndim; ++i) same = dl.shape[i] == sizes.begin()[i];
  if (same) return;
  const std::string wanted = describe(sizes.begin(), static_cast<int>(sizes.size()));
  fail_value(argument, std::string("have shape ") + words + " = " + wanted,
             describe(dl.shape, dl.ndim));
}

void Tensor::check_last_dim_contiguous() const {
  const int last = dl.ndim - 1;
  if (dl.ndim == 0 || dl.shape[last] <= 1 || dl.strides[last] == 1) return;
  fail_value(argument, "be contiguous in the last dimension",
             "strides " + describe(dl.strides, dl.ndim));
}

void Tensor::check_contiguous() const {
  // Torch gives a tensor of no elements, such as [B, 0], strides of no consequence.
  if (std::find(dl.shape, dl.shape + dl.ndim, 0) != dl.shape + dl.ndim) return;
  std::int64_t expected = 1;
  for (int i = dl.ndim - 1; i >= 0; --i) {
    if (dl.shape[i] > 1 && dl.strides[i] != expected) {
      fail_value(argument, "be contiguous", "strides " + describe(dl.strides, dl.ndim));
    }
    expected *= dl.shape[i];
  }
}

// Strides, sorted, must nest.
void Tensor::check_no_self_overlap() const {
  std::int64_t reach = 1;  // elements covered by the dimensions with smaller strides
  std::uint64_t used = 0;
  for (int step = 0; step < dl.ndim; ++step) {
    int smallest = -1;
    for (int i = 0; i < dl.ndim; ++i) {
      if ((used >> i) & 1 || (smallest >= 0 && dl.strides[i] >= dl.strides[smallest])) continue;
      smallest = i;
    }
    used |= std::uint64_t{1} << smallest;
    if (dl.shape[smallest] <= 1) continue;
    if (dl.strides[smallest] < reach) {
      fail_value(argument, "have positive strides without overlap",
                 "strides " + describe(dl.strides, dl.ndim));
    }
    reach += (dl.shape[smallest] - 1) * dl.strides[smallest];
  }
}

void Tensor::check_same_device(const Tensor& other) const {
  const DLDevice wanted = other.dl.device;
  if (dl.device.device_type == wanted.device_type && dl.device.device_id == wanted.device_id) {
    return;
  }
  fail_value(argument, std::string("be on ") + describe(wanted) + " like " + other.argument.name,
             describe(dl.device));
}

Extent extent(const Tensor& tensor) {
  if (tensor.num_elements() == 0) return {};
  std::int64_t low = 0;
  std::int64_t high = 0;
  for (int i = 0; i < tensor.dl.ndim; ++i) {
    const std::int64_t reach = (tensor.dl.shape[i] - 1) * tensor.dl.strides[i];
    (reach < 0 ? low : high) += reach;
  }
  const auto origin = reinterpret_cast<std::uintptr_t>(tensor.data());
  return {origin + low * tensor.item_bytes(), origin + (high + 1) * tensor.item_bytes()};
}

}  // namespace via::python
