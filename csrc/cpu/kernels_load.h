// SPDX-License-Identifier: Apache-2.0
// Chunks of a row as typed pointers, and widened into float32 buffers. Included by kernels_*.cpp
// only.
#pragma once

#include <cstdint>

#include "cpu/kernels.h"
#include "cpu/kernels_lanes.h"

namespace via::cpu::VIA_ISA_NAMESPACE {

VIA_HD std::int64_t chunk_begin(std::int64_t chunk_idx) { return chunk_idx * kChunk; }

VIA_HD int chunk_size(const RowView& row, std::int64_t chunk_idx) {
  const std::int64_t rest = row.size - chunk_begin(chunk_idx);
  return static_cast<int>(rest < kChunk ? rest : kChunk);
}

VIA_HD int round_up_to_lanes(int count) { return (count + kLanes - 1) / kLanes * kLanes; }

// Calls body with the chunk's first element as a typed pointer.
template <typename Body>
VIA_HD auto with_chunk(const RowView& row, std::int64_t chunk_idx, Body body) {
  const std::int64_t begin = chunk_begin(chunk_idx);
  if (row.dtype == DType::kFloat32) return body(static_cast<const float*>(row.data) + begin);
  if (row.dtype == DType::kBFloat16) return body(static_cast<const BFloat16*>(row.data) + begin);
  return body(static_cast<const Float16*>(row.data) + begin);
}

// Widens `count` elements and fills up to whole lane groups. Returns true if a NaN was met.
template <typename T>
VIA_HD bool widen(const T* from, int count, float fill, float* to) {
  VecI nan = {};
  int i = 0;
  for (; i + kVectorLanes <= count; i += kVectorLanes) {
    const VecF value = load(from + i);
    nan |= value != value;
    store(to + i, value);
  }
  bool has_nan = false;
  for (; i < count; ++i) {
    to[i] = to_float(from[i]);
    has_nan |= to[i] != to[i];
  }
  for (; i < round_up_to_lanes(count); ++i) to[i] = fill;
  for (int lane = 0; lane < kVectorLanes; ++lane) has_nan |= nan[lane] != 0;
  return has_nan;
}

// Disallowed tokens become -inf. `words` starts at the chunk; values are whole lane groups.
VIA_HD void apply_mask(const std::uint32_t* words, int count, float* values) {
  for (int group = 0; group * kLanes < count; ++group) {
    const std::uint32_t word = words[group];
    float* const lane = values + group * kLanes;
#pragma omp simd
    for (int j = 0; j < kLanes; ++j) lane[j] = ((word >> j) & 1u) != 0 ? lane[j] : kNegInf;
  }
}

}  // namespace via::cpu::VIA_ISA_NAMESPACE
