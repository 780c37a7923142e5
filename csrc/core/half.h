// SPDX-License-Identifier: Apache-2.0
// 16-bit float formats, widened to float32 (exact) and narrowed (to nearest, ties to even) by
// arithmetic that gives the same bits on every instruction set, without branches, so that loops
// over it vectorise. NaN stays NaN.
#pragma once

#include <cstdint>

#include "core/macros.h"

namespace via {
VIA_CORE_BEGIN

// Storage only; distinct types so that loads can be templated on the element.
struct BFloat16 {
  std::uint16_t bits;
};
struct Float16 {
  std::uint16_t bits;
};

// The bits of `value` read as another type of the same size (vectors too).
template <typename To, typename From>
VIA_HD To bits_as(From value) {
  static_assert(sizeof(To) == sizeof(From), "same size");
  To out;
  __builtin_memcpy(&out, &value, sizeof(To));
  return out;
}

VIA_HD float to_float(float value) { return value; }

VIA_HD float to_float(BFloat16 value) {
  return bits_as<float>(static_cast<std::uint32_t>(value.bits) << 16);
}

VIA_HD float to_float(Float16 value) {
  const std::uint32_t sign = static_cast<std::uint32_t>(value.bits & 0x8000u) << 16;
  const std::uint32_t magnitude = value.bits & 0x7fffu;
  // Below 2^-14 the value is an integer count of 2^-24; above, the exponent moves from bias 15 to
  // 127, and an exponent of all ones stays all ones.
  const std::uint32_t rebias = magnitude >= 0x7c00u ? 0x70000000u : 0x38000000u;
  const std::uint32_t normal = (magnitude << 13) + rebias;
  const float tiny = static_cast<float>(static_cast<std::int32_t>(magnitude)) * 0x1p-24f;
  const std::uint32_t bits = magnitude < 0x0400u ? bits_as<std::uint32_t>(tiny) : normal;
  return bits_as<float>(bits | sign);
}

VIA_HD void narrow(float value, float& to) { to = value; }

VIA_HD void narrow(float value, BFloat16& to) {
  const std::uint32_t bits = bits_as<std::uint32_t>(value);
  const std::uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const std::uint32_t nan = (bits >> 16) | 0x40u;
  to.bits = static_cast<std::uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? nan : rounded);
}

VIA_HD void narrow(float value, Float16& to) {
  const std::uint32_t sign = (bits_as<std::uint32_t>(value) >> 16) & 0x8000u;
  const std::uint32_t magnitude = bits_as<std::uint32_t>(value) & 0x7fffffffu;
  // Exponent from bias 127 to 15, and 13 bits less of the mantissa.
  const std::uint32_t normal = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  // Below 2^-14 a count of 2^-24: adding 0.5, whose last bit is that, rounds to it.
  const std::uint32_t tiny = bits_as<std::uint32_t>(bits_as<float>(magnitude) + 0.5f) - 0x3f000000u;
  std::uint32_t bits = magnitude < 0x38800000u ? tiny : normal;
  bits = magnitude >= 0x47800000u ? 0x7c00u : bits;  // 65536 and above; 65520 rounds up to infinity
  bits = magnitude > 0x7f800000u ? 0x7e00u : bits;
  to.bits = static_cast<std::uint16_t>(bits | sign);
}

VIA_CORE_END
}  // namespace via
