// SPDX-License-Identifier: Apache-2.0
// The float32 weight 2^(l * scale - reference), the inner loop of every softmax here, with
// scale = log2(e)/T and an integer reference: no rounding before the one that splits the exponent.
//   t = fma(l, scale, 1.5 * 2^23 - reference)   rounds l * scale - reference to an integer n
//   f = fma(l, scale, -n - reference)           the rest, in [-1/2, 1/2]
//   2^f by a polynomial of degree 5 (relative error 1.1e-7), n added to the exponent bits
// Written against an Ops type, so that one text serves scalars (host, device) and vectors. Fused
// multiply-adds are called by name, and contraction is off: instruction sets that have them give
// the same bits. Where they are missing only the split of the exponent is emulated; the polynomial
// then rounds twice, 1e-7 apart.
#pragma once

#include <cmath>
#include <cstdint>

#include "core/half.h"
#include "core/macros.h"

namespace via {
VIA_CORE_BEGIN

struct ScalarOps {
  using Float = float;
  using Bits = std::uint32_t;
  static VIA_HD Float fused(Float a, Float b, Float c) { return fmaf(a, b, c); }
  static VIA_HD Float fused_exact(Float a, Float b, Float c) { return fmaf(a, b, c); }
  static VIA_HD Float splat(float value) { return value; }
};

// Exponents below this are not computed: such a weight is 0, and changes no float32 sum.
inline constexpr float kMinExponent = -125.0f;
// References up to here keep 1.5 * 2^23 - reference an exact float.
inline constexpr float kMaxReference = 0x1p21f;
inline constexpr float kRoundToInteger = 0x1.8p23f;

// 2^f * 2^n for K values side by side, n in the low bits of `shifted`. Stage by stage, so that the
// processor finds the K chains next to each other; the result replaces f.
template <typename Ops, int K>
VIA_HD void exp2_assemble(typename Ops::Float (&f)[K], const typename Ops::Float (&shifted)[K]) {
  using Float = typename Ops::Float;
  using Bits = typename Ops::Bits;
  constexpr float kCoefficients[] = {0x1.3cea88p-7f, 0x1.c6b752p-5f, 0x1.ebf9bcp-3f, 0x1.62e42ap-1f,
                                     1.0f};
  Float p[K];
  for (int i = 0; i < K; ++i) p[i] = Ops::splat(0x1.5bba14p-10f);
  for (const float coefficient : kCoefficients) {
    for (int i = 0; i < K; ++i) p[i] = Ops::fused(p[i], f[i], Ops::splat(coefficient));
  }
  for (int i = 0; i < K; ++i) {
    f[i] = bits_as<Float>(bits_as<Bits>(p[i]) + (bits_as<Bits>(shifted[i]) << 23));
  }
}

// values <- 2^(value * scale - reference) with `magic` = kRoundToInteger - reference; the exponents
// must lie in [kMinExponent, 100]. NaN and infinities give NaN.
template <typename Ops, int K>
VIA_HD void exp2_weights(typename Ops::Float (&values)[K], typename Ops::Float scale,
                         typename Ops::Float magic) {
  typename Ops::Float shifted[K], rest[K];
  for (int i = 0; i < K; ++i) shifted[i] = Ops::fused(values[i], scale, magic);
  for (int i = 0; i < K; ++i) rest[i] = magic - shifted[i];
  for (int i = 0; i < K; ++i) values[i] = Ops::fused_exact(values[i], scale, rest[i]);
  exp2_assemble<Ops, K>(values, shifted);
}

// y <- 2^y for y in [kMinExponent, 0], for rows whose reference is no small integer.
template <typename Ops, int K>
VIA_HD void exp2_of(typename Ops::Float (&y)[K]) {
  const typename Ops::Float magic = Ops::splat(kRoundToInteger);
  typename Ops::Float shifted[K];
  for (int i = 0; i < K; ++i) shifted[i] = y[i] + magic;
  for (int i = 0; i < K; ++i) y[i] = y[i] - (shifted[i] - magic);
  exp2_assemble<Ops, K>(y, shifted);
}

VIA_CORE_END
}  // namespace via
