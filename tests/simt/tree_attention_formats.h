// SPDX-License-Identifier: Apache-2.0
// The number formats of tree_attention, for its kernel main.
#pragma once

#include <algorithm>

#include "core/half.h"
#include "via/types.h"

namespace via::testing {

inline void narrow_to(float value, float& to) { to = value; }
inline void narrow_to(float value, BFloat16& to) {
  to.bits = __bfloat16_as_ushort(__float2bfloat16_rn(value));
}
inline void narrow_to(float value, Float16& to) {
  to.bits = __half_as_ushort(__float2half_rn(value));
}
inline DType dtype_of(float) { return DType::kFloat32; }
inline DType dtype_of(BFloat16) { return DType::kBFloat16; }
inline DType dtype_of(Float16) { return DType::kFloat16; }
// What rounding of the format does to results in [-1, 1].
inline double tolerance_of(float) { return 4e-6; }
inline double tolerance_of(BFloat16) { return 1e-2; }
inline double tolerance_of(Float16) { return 1.5e-3; }
template <typename T>
bool same_bits(T a, T b) {
  return std::equal(reinterpret_cast<const char*>(&a), reinterpret_cast<const char*>(&a + 1),
                    reinterpret_cast<const char*>(&b));
}

}  // namespace via::testing
