// SPDX-License-Identifier: Apache-2.0
// bfloat16 by its bits, two values for the work of one float32. As signed numbers the bits of
// values >= +0 are ordered like the values, above those of negative ones; as unsigned numbers those
// of negative values are ordered the other way round, above the others. NaNs lie beyond the
// infinities in both. Instruction sets without an unsigned minimum do without. Included by
// kernels_*.cpp only.
#pragma once

#include <cstdint>

#include "cpu/kernels_lanes.h"

#if defined(__AVX2__)
namespace via::cpu::VIA_ISA_NAMESPACE {

typedef std::int16_t VecS __attribute__((vector_size(kVectorBytes)));
inline constexpr int kShortLanes = kVectorBytes / 2;
inline constexpr std::uint16_t kNegInfBits = 0xff80;

VIA_HD VecS splat_bits(std::uint16_t bits) { return static_cast<std::int16_t>(bits) - VecS{}; }

VIA_HD VecS load_bits(const BFloat16* from) {
  VecS bits;
  __builtin_memcpy(&bits, from, sizeof(bits));
  return bits;
}

#if defined(__AVX512BW__)
VIA_HD VecS max_signed(VecS a, VecS b) {
  return reinterpret_cast<VecS>(
      _mm512_max_epi16(reinterpret_cast<__m512i>(a), reinterpret_cast<__m512i>(b)));
}
VIA_HD VecS max_unsigned(VecS a, VecS b) {
  return reinterpret_cast<VecS>(
      _mm512_max_epu16(reinterpret_cast<__m512i>(a), reinterpret_cast<__m512i>(b)));
}
VIA_HD VecS min_unsigned(VecS a, VecS b) {
  return reinterpret_cast<VecS>(
      _mm512_min_epu16(reinterpret_cast<__m512i>(a), reinterpret_cast<__m512i>(b)));
}
#else
VIA_HD VecS max_signed(VecS a, VecS b) {
  return reinterpret_cast<VecS>(
      _mm256_max_epi16(reinterpret_cast<__m256i>(a), reinterpret_cast<__m256i>(b)));
}
VIA_HD VecS max_unsigned(VecS a, VecS b) {
  return reinterpret_cast<VecS>(
      _mm256_max_epu16(reinterpret_cast<__m256i>(a), reinterpret_cast<__m256i>(b)));
}
VIA_HD VecS min_unsigned(VecS a, VecS b) {
  return reinterpret_cast<VecS>(
      _mm256_min_epu16(reinterpret_cast<__m256i>(a), reinterpret_cast<__m256i>(b)));
}
#endif

// The largest lane, by eights.
VIA_HD std::int16_t max_signed_lane(VecS values) {
  typedef std::int16_t Octet __attribute__((vector_size(16)));
  alignas(64) std::int16_t lane[kShortLanes];
  __builtin_memcpy(lane, &values, sizeof(lane));
  Octet best;
  __builtin_memcpy(&best, lane, sizeof(best));
  for (int begin = 8; begin < kShortLanes; begin += 8) {
    Octet other;
    __builtin_memcpy(&other, lane + begin, sizeof(other));
    best = other > best ? other : best;
  }
  std::int16_t half[4];
  for (int j = 0; j < 4; ++j) half[j] = best[j] > best[j + 4] ? best[j] : best[j + 4];
  const std::int16_t even = half[0] > half[2] ? half[0] : half[2];
  const std::int16_t odd = half[1] > half[3] ? half[1] : half[3];
  return even > odd ? even : odd;
}

// With the top bit flipped an unsigned comparison is a signed one.
VIA_HD std::uint16_t max_unsigned_lane(VecS values) {
  const int flipped = max_signed_lane(values ^ splat_bits(0x8000));
  return static_cast<std::uint16_t>(flipped ^ 0x8000);
}

// The largest of values that are all negative.
VIA_HD float max_of_negative(const BFloat16* from, int count) {
  VecS best = splat_bits(0);
  for (int i = 0; i < count; i += kShortLanes) best = max_unsigned(best, ~load_bits(from + i));
  return to_float(BFloat16{static_cast<std::uint16_t>(~max_unsigned_lane(best))});
}

}  // namespace via::cpu::VIA_ISA_NAMESPACE
#endif
