// SPDX-License-Identifier: Apache-2.0
// Vector lanes of the instruction set being compiled. Every reduction runs over kLanes = 32 lanes
// whatever the vector width and adds the lanes up in one order, so the result does not depend on
// the width. Included by kernels_*.cpp only.
#pragma once

#include <cstdint>

#include "core/exp2.h"
#include "core/half.h"
#include "core/macros.h"
#include "core/softmax.h"

#if defined(__AVX512F__) && defined(__GNUC__) && !defined(__clang__)
// GCC 12's own AVX-512 header starts "undefined" vectors from themselves.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace via::cpu::VIA_ISA_NAMESPACE {

#if defined(__AVX512F__)
inline constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
inline constexpr int kVectorBytes = 32;
#else
inline constexpr int kVectorBytes = 16;
#endif
inline constexpr int kLanes = 32;
inline constexpr int kVectorLanes = kVectorBytes / 4;
inline constexpr int kVectors = kLanes / kVectorLanes;
// Vectors whose weights are computed side by side.
inline constexpr int kSide = kVectors < 4 ? kVectors : 4;
// Partial sums: lane j of a group goes to sum j % kSumLanes.
inline constexpr int kSumLanes = 16;
inline constexpr int kSums = kSumLanes / kVectorLanes;

typedef float VecF __attribute__((vector_size(kVectorBytes)));
typedef std::uint32_t VecU __attribute__((vector_size(kVectorBytes)));
typedef std::int32_t VecI __attribute__((vector_size(kVectorBytes)));
typedef std::uint16_t VecH __attribute__((vector_size(kVectorBytes / 2)));

VIA_HD VecF splat(float value) { return value - VecF{}; }

#if defined(__AVX2__) || defined(__ARM_FEATURE_FMA)
VIA_HD VecF fused(VecF a, VecF b, VecF c) {
#if defined(__AVX512F__)
  return _mm512_fmadd_ps(a, b, c);
#elif defined(__AVX2__)
  return _mm256_fmadd_ps(a, b, c);
#else
  for (int lane = 0; lane < kVectorLanes; ++lane)
    c[lane] = __builtin_fmaf(a[lane], b[lane], c[lane]);
  return c;
#endif
}
VIA_HD VecF fused_exact(VecF a, VecF b, VecF c) { return fused(a, b, c); }
#else
VIA_HD VecF fused(VecF a, VecF b, VecF c) { return a * b + c; }

// a * b + c rounded once without the instruction: in float64 the product is exact.
VIA_HD VecF fused_exact(VecF a, VecF b, VecF c) {
#if defined(__SSE2__)
  const __m128d low = _mm_add_pd(_mm_mul_pd(_mm_cvtps_pd(a), _mm_cvtps_pd(b)), _mm_cvtps_pd(c));
  a = _mm_movehl_ps(a, a), b = _mm_movehl_ps(b, b), c = _mm_movehl_ps(c, c);
  const __m128d high = _mm_add_pd(_mm_mul_pd(_mm_cvtps_pd(a), _mm_cvtps_pd(b)), _mm_cvtps_pd(c));
  return _mm_movelh_ps(_mm_cvtpd_ps(low), _mm_cvtpd_ps(high));
#else
  for (int lane = 0; lane < kVectorLanes; ++lane) {
    c[lane] = static_cast<float>(static_cast<double>(a[lane]) * b[lane] + c[lane]);
  }
  return c;
#endif
}
#endif

// The larger of two; `kept` where either is NaN.
VIA_HD VecF maximum(VecF other, VecF kept) {
#if defined(__AVX512F__)
  return _mm512_max_ps(other, kept);
#elif defined(__AVX2__)
  return _mm256_max_ps(other, kept);
#elif defined(__SSE2__)
  return _mm_max_ps(other, kept);
#else
  return other > kept ? other : kept;
#endif
}

struct VectorOps {
  using Float = VecF;
  using Bits = VecU;
  static VIA_HD VecF fused(VecF a, VecF b, VecF c) { return VIA_ISA_NAMESPACE::fused(a, b, c); }
  static VIA_HD VecF fused_exact(VecF a, VecF b, VecF c) {
    return VIA_ISA_NAMESPACE::fused_exact(a, b, c);
  }
  static VIA_HD VecF splat(float value) { return VIA_ISA_NAMESPACE::splat(value); }
};

VIA_HD VecF load(const float* from) {
  VecF value;
  __builtin_memcpy(&value, from, sizeof(value));
  return value;
}

VIA_HD VecF load(const BFloat16* from) {
  VecH bits;
  __builtin_memcpy(&bits, from, sizeof(bits));
  return bits_as<VecF>(__builtin_convertvector(bits, VecU) << 16);
}

#if defined(__F16C__) && defined(__AVX__)
VIA_HD VecF load(const Float16* from) {
#if defined(__AVX512F__)
  return bits_as<VecF>(_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from))));
#else
  return bits_as<VecF>(_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))));
#endif
}
#else
VIA_HD VecF load(const Float16* from) {
  VecF value;
  for (int lane = 0; lane < kVectorLanes; ++lane) value[lane] = to_float(from[lane]);
  return value;
}
#endif

// One group of kLanes values, in an order that depends on the type only.
template <typename T>
VIA_HD void load_lanes(const T* from, VecF* value) {
  for (int v = 0; v < kVectors; ++v) value[v] = load(from + v * kVectorLanes);
}

// bfloat16 is the upper half of a float32: of each pair of neighbours one is a shift, one a mask.
VIA_HD void load_lanes(const BFloat16* from, VecF* value) {
  for (int v = 0; v < kVectors / 2; ++v) {
    VecU pair;
    __builtin_memcpy(&pair, from + v * 2 * kVectorLanes, sizeof(pair));
    value[v] = bits_as<VecF>(pair << 16);
    value[v + kVectors / 2] = bits_as<VecF>(pair & 0xffff0000u);
  }
}

VIA_HD void store(float* to, VecF value) { __builtin_memcpy(to, &value, sizeof(value)); }

// The kSumLanes partial sums, added in a fixed tree: lane j with lane j + 8, then 4, 2, 1.
VIA_HD double sum_lanes(const VecF* parts) {
  typedef float Quad __attribute__((vector_size(16)));
  alignas(64) Quad q[kSumLanes / 4];
  __builtin_memcpy(q, parts, sizeof(q));
  const Quad sum = (q[0] + q[2]) + (q[1] + q[3]);
  return static_cast<double>((sum[0] + sum[2]) + (sum[1] + sum[3]));
}

VIA_HD float max_lanes(VecF values) {
  float lane[kVectorLanes];
  __builtin_memcpy(lane, &values, sizeof(lane));
#pragma GCC unroll 16
  for (int j = 1; j < kVectorLanes; ++j) lane[0] = lane[j] > lane[0] ? lane[j] : lane[0];
  return lane[0];
}

}  // namespace via::cpu::VIA_ISA_NAMESPACE
