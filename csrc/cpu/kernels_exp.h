// SPDX-License-Identifier: Apache-2.0
// Adds weights 2^(l * scale - reference) to lane sums, as core/exp2.h but with the exponent split
// into eighths where eight lanes can be looked up at once:
//   t = fma(l, 8 scale, 1.5 * 2^23 - 8 reference)   rounds to an integer 8 n + k, k in 0..7
//   f = fma(l, 8 scale, -(8 n + k) - 8 reference)   the rest, in [-1/2, 1/2] eighths
//   sum = fma(2^(f/8), 2^(n + k/8), sum)            degree 3 (2.7e-8) times a table entry (3.2e-8)
// One multiplication less than the polynomial of degree 5, and multiplications are the limit.
// Included by kernels_*.cpp only.
#pragma once

#include "cpu/kernels_lanes.h"

namespace via::cpu::VIA_ISA_NAMESPACE {

#if defined(__AVX2__)
inline constexpr float kSteps = 8.0f;

// 2^(k/8) with k << 20 taken off, which adding (8 n + k) << 20 puts back.
VIA_HD VecU table_of_eighths() {
  constexpr std::uint32_t kBits[8] = {0x3f800000, 0x3f7b95c2, 0x3f7837f0, 0x3f75fed7,
                                      0x3f7504f3, 0x3f75672a, 0x3f7744fd, 0x3f7ac0c7};
  VecU table;
#pragma GCC unroll 16
  for (int lane = 0; lane < kVectorLanes; ++lane) table[lane] = kBits[lane % 8];
  return table;
}

// Every lane's entry, by the low bits of `index`.
VIA_HD VecU look_up(VecU table, VecU index) {
#if defined(__AVX512F__)
  return reinterpret_cast<VecU>(
      _mm512_permutexvar_epi32(reinterpret_cast<__m512i>(index), reinterpret_cast<__m512i>(table)));
#else
  return reinterpret_cast<VecU>(_mm256_permutevar8x32_epi32(reinterpret_cast<__m256i>(table),
                                                            reinterpret_cast<__m256i>(index)));
#endif
}
#else
inline constexpr float kSteps = 1.0f;
#endif

class Weigher {
 public:
  // `reference` is an integer, at most kMaxReference / kSteps in size.
  VIA_HD Weigher(float scale, float reference)
      : scale_(splat(scale * kSteps)), magic_(splat(kRoundToInteger - reference * kSteps)) {}

  // Adds the weight of values[j] to sum[j % kInto]; the exponents must lie in [kMinExponent, 100].
  // NaN and infinities give NaN. `values` is used up.
  template <int kInto, int K>
  VIA_HD void add(VecF (&values)[K], VecF* sum) const {
#if defined(__AVX2__)
    VecF shifted[K], p[K];
    for (int j = 0; j < K; ++j) shifted[j] = fused(values[j], scale_, magic_);
    for (int j = 0; j < K; ++j) p[j] = magic_ - shifted[j];
    for (int j = 0; j < K; ++j) values[j] = fused(values[j], scale_, p[j]);
    for (int j = 0; j < K; ++j) p[j] = splat(0x1.c6a002p-14f);
    constexpr float kCoefficients[] = {0x1.ec0c32p-9f, 0x1.62e432p-4f, 1.0f};
    for (const float coefficient : kCoefficients) {
      for (int j = 0; j < K; ++j) p[j] = fused(p[j], values[j], splat(coefficient));
    }
    for (int j = 0; j < K; ++j) {
      const VecU index = reinterpret_cast<VecU>(shifted[j]);
      values[j] = reinterpret_cast<VecF>(look_up(table_, index) + (index << 20));
    }
    for (int j = 0; j < K; ++j) sum[j % kInto] = fused(p[j], values[j], sum[j % kInto]);
#else
    exp2_weights<VectorOps, K>(values, scale_, magic_);
    for (int j = 0; j < K; ++j) sum[j % kInto] += values[j];
#endif
  }

 private:
  VecF scale_, magic_;
#if defined(__AVX2__)
  VecU table_ = table_of_eighths();
#endif
};

}  // namespace via::cpu::VIA_ISA_NAMESPACE
