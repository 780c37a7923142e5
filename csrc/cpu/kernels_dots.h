// SPDX-License-Identifier: Apache-2.0
// Dot products, as many side by side as a vector has lanes. Each is summed in one lane pattern
// whatever stands beside it: vector after vector, then the lanes with those half a vector away, a
// quarter away, and so on. Included by kernels_*.cpp only.
#pragma once

#include "cpu/kernels_lanes.h"

namespace via::cpu::VIA_ISA_NAMESPACE {

// Groups of four lanes in a vector.
inline constexpr int kQuads = kVectorLanes / 4;

#if defined(__AVX512F__)
// Per 128-bit quad [x0 + x1, x2 + x3, y0 + y1, y2 + y3].
VIA_HD VecF add_pairs(VecF x, VecF y) {
  return _mm512_shuffle_ps(x, y, 0x88) + _mm512_shuffle_ps(x, y, 0xdd);
}
// Quad q holds the sum of sums[q], still spread over its four lanes.
VIA_HD VecF add_quads(const VecF (&sums)[kQuads]) {
  const VecF a =
      _mm512_shuffle_f32x4(sums[0], sums[1], 0x44) + _mm512_shuffle_f32x4(sums[0], sums[1], 0xee);
  const VecF b =
      _mm512_shuffle_f32x4(sums[2], sums[3], 0x44) + _mm512_shuffle_f32x4(sums[2], sums[3], 0xee);
  return _mm512_shuffle_f32x4(a, b, 0x88) + _mm512_shuffle_f32x4(a, b, 0xdd);
}
#elif defined(__AVX2__)
VIA_HD VecF add_pairs(VecF x, VecF y) {
  return _mm256_shuffle_ps(x, y, 0x88) + _mm256_shuffle_ps(x, y, 0xdd);
}
VIA_HD VecF add_quads(const VecF (&sums)[kQuads]) {
  return _mm256_permute2f128_ps(sums[0], sums[1], 0x20) +
         _mm256_permute2f128_ps(sums[0], sums[1], 0x31);
}
#else
VIA_HD VecF add_pairs(VecF x, VecF y) {
#if defined(__SSE2__)
  return _mm_shuffle_ps(x, y, 0x88) + _mm_shuffle_ps(x, y, 0xdd);
#else
  return VecF{x[0] + x[1], x[2] + x[3], y[0] + y[1], y[2] + y[3]};
#endif
}
VIA_HD VecF add_quads(const VecF (&sums)[kQuads]) { return sums[0]; }
#endif

// [4 q + i] = the sum over the lanes of sums[i][q].
VIA_HD VecF add_up(const VecF (&sums)[4][kQuads]) {
  return add_pairs(add_pairs(add_quads(sums[0]), add_quads(sums[1])),
                   add_pairs(add_quads(sums[2]), add_quads(sums[3])));
}

// scores[q][i] = query row q . keys[i], for kQuads rows and 4 keys; `stride` between score rows.
VIA_HD void dot_rows(const float* query, int dim, const float* const* keys, float* scores,
                     int stride) {
  VecF sums[4][kQuads] = {};
  for (int d = 0; d < dim; d += kVectorLanes) {
    VecF row[kQuads];
#pragma GCC unroll 4
    for (int q = 0; q < kQuads; ++q) row[q] = load(query + q * dim + d);
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      const VecF key = load(keys[i] + d);
#pragma GCC unroll 4
      for (int q = 0; q < kQuads; ++q) sums[i][q] = fused(row[q], key, sums[i][q]);
    }
  }
  const VecF result = add_up(sums);
#pragma GCC unroll 4
  for (int q = 0; q < kQuads; ++q) {
    __builtin_memcpy(scores + q * stride, reinterpret_cast<const float*>(&result) + 4 * q, 16);
  }
}

// scores[j] = query . keys[j] for kVectorLanes keys.
VIA_HD void dot_keys(const float* query, int dim, const float* const* keys, float* scores) {
  VecF sums[4][kQuads] = {};
  for (int d = 0; d < dim; d += kVectorLanes) {
    const VecF row = load(query + d);
#pragma GCC unroll 4
    for (int q = 0; q < kQuads; ++q) {
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        sums[i][q] = fused(row, load(keys[4 * q + i] + d), sums[i][q]);
      }
    }
  }
  store(scores, add_up(sums));
}

}  // namespace via::cpu::VIA_ISA_NAMESPACE
