// SPDX-License-Identifier: Apache-2.0
// Matrices in float64 whose values are bfloat16.
#pragma once

#include <cstddef>
#include <vector>

#include "core/half.h"

namespace via::testing {

inline BFloat16 to_bf16(double value) {
  BFloat16 narrow;
  via::narrow(static_cast<float>(value), narrow);
  return narrow;
}
inline double rounded(double value) { return to_float(to_bf16(value)); }

using Vector = std::vector<double>;

struct Matrix {
  int rows = 0, columns = 0;
  Vector values;
  double at(int row, int column) const {
    return values[static_cast<std::size_t>(row) * columns + column];
  }
  Vector times(const Vector& x) const {
    Vector product(rows, 0.0);
    for (int i = 0; i < rows; ++i) {
      for (int k = 0; k < columns; ++k) product[i] += at(i, k) * x[k];
    }
    return product;
  }
};

}  // namespace via::testing
