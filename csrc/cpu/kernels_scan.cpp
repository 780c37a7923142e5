// SPDX-License-Identifier: Apache-2.0
// Row scans: what the first pass over a row finds (docs/design.md, equation 1).
//   max_c = largest allowed logit of the chunk, sum_c = sum of 2^(l * scale - exponent_c)
// With a reference exponent from the row's first chunk one pass does: any reference within 100
// binary orders of the chunk's maximum gives the same float32 precision. Otherwise (mask, ragged
// end, NaN, infinities, extreme scales) two passes: the maximum, then the weights.
// Bytes: each element is read once from memory; the second pass finds it in the first-level cache.
// Numerics: kernels_exp.h and core/exp2.h; 16 lane sums of 128 float32 terms each (bfloat16: 32 of
// 64), joined to one float64 per chunk.
#include "cpu/kernels_bits.h"
#include "cpu/kernels_exp.h"
#include "cpu/kernels_load.h"

namespace via::cpu::VIA_ISA_NAMESPACE {
namespace {

// Largest exponent above the reference for which 2048 weights cannot overflow float32.
constexpr double kMaxExponent = 100.0;

// Elements by which memory is asked for ahead of use: the hardware's own prefetching stops at every
// 4 KiB page.
constexpr int kAhead = 1024;
constexpr int kCacheLine = 64;

// Asks for one lane group. Reading past the end of the row is a hint without effect.
template <typename T>
VIA_HD void fetch_ahead(const T* from) {
  const char* const line = reinterpret_cast<const char*>(from);
  for (int offset = 0; offset < kLanes * static_cast<int>(sizeof(T)); offset += kCacheLine) {
    __builtin_prefetch(line + offset);
  }
}

struct Maximum {
  float value;
  bool has_nan;
};

VIA_HD bool any_lane(VecI mask) {
  std::int32_t any = 0;
  for (int lane = 0; lane < kVectorLanes; ++lane) any |= mask[lane];
  return any != 0;
}

template <typename T>
VIA_HD Maximum find_max(const T* values, int count) {
  VecF best = splat(kNegInf);
  VecI nan = {};
  for (int i = 0; i < count; i += kLanes) {
    VecF value[kVectors];
    load_lanes(values + i, value);
    for (int v = 0; v < kVectors; ++v) {
      nan |= value[v] != value[v];
      best = maximum(value[v], best);
    }
  }
  return {max_lanes(best), any_lane(nan)};
}

// Values past a row's end are -inf; they weigh 2^-125, which no float32 sum notices.
VIA_HD double sum_weights(const float* values, int count, float max, float scale) {
  VecF sum[kSums] = {};
  const VecF floor = splat(kMinExponent);
  for (int i = 0; i < count; i += kLanes) {
    for (int v = 0; v < kVectors; v += kSide) {
      VecF side[kSide];
      for (int j = 0; j < kSide; ++j) {
        const VecF y = (load(values + i + (v + j) * kVectorLanes) - max) * scale;
        side[j] = maximum(y, floor);
      }
      exp2_of<VectorOps, kSide>(side);
      for (int j = 0; j < kSide; ++j) sum[(v + j) % kSums] += side[j];
    }
  }
  return sum_lanes(sum);
}

// One pass over `count` values, whole lane groups. The result counts only if `fits` says so.
template <typename T>
VIA_HD ChunkStats scan_once(const T* from, int count, float scale, float reference) {
  // Few accumulators: with more of them than registers each addition would go through memory.
  VecF best = splat(kNegInf), sum[kSums] = {};
  VecI nan = {};
  const Weigher weigher(scale, reference);
  const VecF floor = splat((reference + kMinExponent) / scale);
  for (int i = 0; i < count; i += kLanes) {
    VecF value[kVectors];
    load_lanes(from + i, value);
    fetch_ahead(from + i + kAhead);
    for (int v = 0; v < kVectors; ++v) {
      // A 16-bit NaN has no low bits: it survives in the weight and shows in the sum.
      if constexpr (sizeof(T) == sizeof(float)) nan |= value[v] != value[v];
      best = maximum(value[v], best);
    }
    for (int v = 0; v < kVectors; v += kSide) {
      VecF side[kSide];
      for (int j = 0; j < kSide; ++j) side[j] = maximum(floor, value[v + j]);
      weigher.add<kSums>(side, sum);
    }
  }
  return {max_lanes(best), any_lane(nan), sum_lanes(sum), static_cast<double>(reference)};
}

#if defined(__AVX2__)
// bfloat16: maximum, NaN and the smallest exponent are looked after on the bits.
VIA_HD ChunkStats scan_once(const BFloat16* from, int count, float scale, float reference) {
  const float floor = (reference + kMinExponent) / scale;
  if (!(floor < 0.0f)) return scan_once<BFloat16>(from, count, scale, reference);
  const Weigher weigher(scale, reference);
  VecF sum[2 * kSums] = {};  // by pairs: even elements, odd elements
  VecS top = splat_bits(0x8000), low = splat_bits(0);
  // Cut off, not rounded: no value below the floor passes.
  const VecS lowest = splat_bits(static_cast<std::uint16_t>(bits_as<std::uint32_t>(floor) >> 16));
  for (int i = 0; i < count; i += kLanes) {
    fetch_ahead(from + i + kAhead);
    for (int v = 0; v < kSums; ++v) {
      const VecS bits = load_bits(from + i + v * kShortLanes);
      top = max_signed(top, bits);
      low = max_unsigned(low, bits);
      const VecU pair = reinterpret_cast<VecU>(min_unsigned(bits, lowest));
      VecF side[2] = {reinterpret_cast<VecF>(pair << 16),
                      reinterpret_cast<VecF>(pair & 0xffff0000u)};
      weigher.add<2>(side, &sum[2 * v]);
    }
  }
  for (int v = 0; v < kSums; ++v) sum[v] = sum[2 * v] + sum[2 * v + 1];
  const std::int16_t best = max_signed_lane(top);
  const float max = best < 0 ? max_of_negative(from, count)
                             : to_float(BFloat16{static_cast<std::uint16_t>(best)});
  const bool has_nan = max != max || max_unsigned_lane(low) > kNegInfBits;
  return {max, has_nan, sum_lanes(sum), static_cast<double>(reference)};
}
#endif

// Not after a NaN, an infinity, or a value too far above the reference.
VIA_HD bool fits(const ChunkStats& stats, float scale) {
  return !stats.has_nan && stats.sum == stats.sum && stats.max > kNegInf &&
         exponent_of(stats.max, scale) - stats.exponent < kMaxExponent;
}

// Neither a mask nor a ragged end: the values can be read where they are.
VIA_HD bool is_plain(const RowView& row, std::int64_t chunk_idx) {
  return row.allowed == nullptr && chunk_size(row, chunk_idx) % kLanes == 0;
}

// The general case. Scale 0 asks for the maximum only.
template <typename T>
VIA_HD ChunkStats scan_twice(const RowView& row, std::int64_t chunk_idx, const T* from,
                             float scale) {
  alignas(64) float buffer[kChunk];
  const int count = chunk_size(row, chunk_idx);
  const float* values = buffer;
  if constexpr (sizeof(T) == sizeof(float)) {
    if (is_plain(row, chunk_idx)) values = from;
  }
  if (values == buffer) {
    widen(from, count, kNegInf, buffer);
    if (row.allowed != nullptr)
      apply_mask(row.allowed + chunk_begin(chunk_idx) / 32, count, buffer);
  }
  const int padded = round_up_to_lanes(count);
  const Maximum max = find_max(values, padded);
  ChunkStats stats = {max.value, max.has_nan, 0.0, exponent_of(max.value, scale)};
  if (scale > 0.0f && max.value > kNegInf && max.value < kPosInf) {
    stats.sum = sum_weights(values, padded, max.value, scale);
  }
  return stats;
}

ChunkStats chunk_max(const RowView& row, std::int64_t chunk_idx) {
  return with_chunk(row, chunk_idx, [&](const auto* from) {
    if (is_plain(row, chunk_idx)) {
      const Maximum max = find_max(from, chunk_size(row, chunk_idx));
      return ChunkStats{max.value, max.has_nan, 0.0, 0.0};
    }
    return scan_twice(row, chunk_idx, from, 0.0f);
  });
}

ChunkStats chunk_softmax(const RowView& row, std::int64_t chunk_idx, float scale, float reference) {
  return with_chunk(row, chunk_idx, [&](const auto* from) {
    constexpr float kLimit = kMaxReference / kSteps;
    if (is_plain(row, chunk_idx) && reference < kLimit && reference > -kLimit) {
      const ChunkStats stats = scan_once(from, chunk_size(row, chunk_idx), scale, reference);
      if (fits(stats, scale)) return stats;
    }
    return scan_twice(row, chunk_idx, from, scale);
  });
}

}  // namespace

void fill_scan(Kernels& table) {
  table.chunk_max = chunk_max;
  table.chunk_softmax = chunk_softmax;
}

}  // namespace via::cpu::VIA_ISA_NAMESPACE
