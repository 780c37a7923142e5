// SPDX-License-Identifier: Apache-2.0
// Arguments that are a number, or one number per batch row.
#pragma once

#include "bindings/tensor.h"
#include "via/filter.h"
#include "via/types.h"

namespace via::python {

// Allowed range of a real-valued argument; tensors are checked on their device, by the kernel.
enum class Range { kNonNegative, kFiniteNonNegative, kUnit, kUnitAboveZero };

// `rows`: length that a tensor must have; `like`: the tensor whose device it must share.
FloatParam read_float(Argument argument, py::handle value, Range range, std::int64_t rows,
                      const Tensor& like);
// Integer >= 0; larger than int32 counts as its maximum.
IntParam read_count(Argument argument, py::handle value, std::int64_t rows, const Tensor& like);

FilterParams read_filter(const char* op, py::handle temperature, py::handle top_k, py::handle top_p,
                         py::handle min_p, std::int64_t rows, const Tensor& like);
// True if a draw may happen: temperatures on the device are not read back, so they count.
inline bool may_draw(const FilterParams& filter) {
  return filter.temperature.data != nullptr || filter.temperature.value > 0.0f;
}

// seed and position, [rows] int64 each; both or neither (null views).
struct SeedViews {
  TensorView seed;
  TensorView position;
};
SeedViews read_seed(const char* op, py::handle seed, py::handle position, std::int64_t rows,
                    const Tensor& like);

}  // namespace via::python
