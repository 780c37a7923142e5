// SPDX-License-Identifier: Apache-2.0
// Reading rows of logits and probabilities, whatever their dtype, alignment, mask and end.
#pragma once

#include <cstdint>

#include "core/exp2.h"
#include "core/half.h"
#include "core/params.h"
#include "core/softmax.h"
#include "cuda/verify_args.cuh"

namespace via::cuda {

// A row of `size` elements as the caller holds it.
struct Row {
  const char* data;
  const std::uint32_t* allowed;  // grammar bit words, or null
  std::int64_t size;
  DType dtype;

  VIA_DEVICE int item_bytes() const { return dtype == DType::kFloat32 ? 4 : 2; }
  VIA_DEVICE bool is_aligned() const { return reinterpret_cast<std::uintptr_t>(data) % 16 == 0; }
};

VIA_DEVICE Row row_at(const TensorView& view, std::int64_t offset, std::int64_t size) {
  const int bytes = view.dtype == DType::kFloat32 ? 4 : 2;
  return {static_cast<const char*>(view.data) + offset * bytes, nullptr, size, view.dtype};
}

// The grammar mask of a row, null where it has none. Apart from the main path.
VIA_DEVICE_CALL const std::uint32_t* row_mask(const VerifyParams& p, int batch_idx, int row_idx) {
  const bool* const rows = p.allowed_rows;
  if (rows != nullptr && !rows[batch_idx * p.allowed_rows_stride + row_idx]) return nullptr;
  return static_cast<const std::uint32_t*>(p.allowed.data) + batch_idx * p.allowed.stride[0] +
         row_idx * p.allowed.stride[1];
}

// Logits row under the grammar mask.
VIA_DEVICE Row target_row(const VerifyParams& p, int batch_idx, int row_idx) {
  const TensorView& logits = p.logits;
  const std::int64_t begin =
      p.logits_offsets != nullptr
          ? p.logits_offsets[batch_idx * (std::int64_t{p.num_nodes} + 1) + row_idx]
          : batch_idx * logits.stride[0] + row_idx * logits.stride[1];
  Row row = row_at(logits, begin, p.vocab_size);
  if (p.allowed.data != nullptr) row.allowed = row_mask(p, batch_idx, row_idx);
  return row;
}

VIA_DEVICE Row draft_row(const VerifyParams& p, int batch_idx, int node_idx) {
  const TensorView& probs = p.draft_probs;
  const std::int64_t begin = p.draft_offsets != nullptr
                                 ? p.draft_offsets[batch_idx * std::int64_t{p.num_nodes} + node_idx]
                                 : batch_idx * probs.stride[0] + node_idx * probs.stride[1];
  return row_at(probs, begin, p.draft_vocab_size);
}

// The formats of core/half.h by the GPU's own conversion.
VIA_DEVICE float widen(BFloat16 value) { return to_float(value); }
VIA_DEVICE float widen(Float16 value) { return prim::half_to_float(value.bits); }

// One element as it is.
VIA_DEVICE float raw_value(const Row& row, std::int64_t idx) {
  if (row.dtype == DType::kFloat32) return reinterpret_cast<const float*>(row.data)[idx];
  if (row.dtype == DType::kBFloat16) {
    return to_float(reinterpret_cast<const BFloat16*>(row.data)[idx]);
  }
  return widen(reinterpret_cast<const Float16*>(row.data)[idx]);
}

// One logit after the grammar mask; NaN counts as -inf.
VIA_DEVICE float logit_at(const Row& row, std::int64_t token_id) {
  if (!is_allowed(row.allowed, token_id)) return kNegInf;
  const float logit = raw_value(row, token_id);
  return logit > kNegInf ? logit : kNegInf;
}

// Weight of a logit relative to a maximum, as core/exp2.h bounds it: exponents below kMinExponent
// are 0, which no float32 sum notices.
VIA_DEVICE float weight_of(float logit, float max, float scale) {
  if (holds_probabilities(scale)) return logit > 0.0f ? logit : 0.0f;
  const float exponent = (logit - max) * scale;
  return exponent > kMinExponent ? prim::exp2_approx(exponent) : 0.0f;
}

// Two 16-bit, or one 32-bit, element of -inf.
template <typename T>
inline constexpr std::uint32_t kNegInfWord = 0xff800000u;
template <>
inline constexpr std::uint32_t kNegInfWord<BFloat16> = 0xff80ff80u;
template <>
inline constexpr std::uint32_t kNegInfWord<Float16> = 0xfc00fc00u;

// Sixteen bytes a lane, eight loads side by side: what keeps the memory busy. Vector j of a lane
// holds kPerVector tokens from begin + first_token(j) on.
template <typename T>
struct Batch {
  static constexpr int kVectors = 8;
  static constexpr int kPerVector = 16 / static_cast<int>(sizeof(T));
  static constexpr int kTokens = kVectors * kWarpSize * kPerVector;

  uint4 vector[kVectors];

  static VIA_DEVICE int first_token(int vector_idx, int lane_idx) {
    return (vector_idx * kWarpSize + lane_idx) * kPerVector;
  }

  // One element as float32, as it is.
  VIA_DEVICE float value(int vector_idx, int e) const {
    const uint4& v = vector[vector_idx];
    if constexpr (sizeof(T) == 4) {
      return bits_as<float>(e == 0 ? v.x : e == 1 ? v.y : e == 2 ? v.z : v.w);
    } else {
      const std::uint32_t word = e < 2 ? v.x : e < 4 ? v.y : e < 6 ? v.z : v.w;
      return widen(T{static_cast<std::uint16_t>(e % 2 == 0 ? word : word >> 16)});
    }
  }
};

// kPerVector elements from `id` on, where a 16-byte read is not possible; -inf past the end.
template <typename T>
VIA_DEVICE uint4 load_elements(const Row& row, std::int64_t id) {
  std::uint32_t words[4] = {kNegInfWord<T>, kNegInfWord<T>, kNegInfWord<T>, kNegInfWord<T>};
#pragma unroll
  for (int e = 0; e < Batch<T>::kPerVector; ++e) {
    if (id + e >= row.size) continue;
    if constexpr (sizeof(T) == 4) {
      words[e] = bits_as<std::uint32_t>(reinterpret_cast<const float*>(row.data)[id + e]);
    } else {
      const std::uint32_t bits = reinterpret_cast<const T*>(row.data)[id + e].bits;
      words[e / 2] = e % 2 == 0 ? (words[e / 2] & 0xffff0000u) | bits
                                : (words[e / 2] & 0xffffu) | (bits << 16);
    }
  }
  return make_uint4(words[0], words[1], words[2], words[3]);
}

// -inf where `bits` (lowest first) has no bit.
template <typename T>
VIA_DEVICE void mask_vector(uint4& v, std::uint32_t bits) {
  std::uint32_t* const words[4] = {&v.x, &v.y, &v.z, &v.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if constexpr (sizeof(T) == 4) {
      if (((bits >> i) & 1u) == 0) *words[i] = kNegInfWord<T>;
    } else {
      const std::uint32_t keep =
          ((bits >> (2 * i)) & 1u) * 0xffffu | ((bits >> (2 * i + 1)) & 1u) * 0xffff0000u;
      *words[i] = (*words[i] & keep) | (kNegInfWord<T> & ~keep);
    }
  }
}

// What lane `lane_idx` holds of kTokens tokens from `begin` (a multiple of kTokens) on, under the
// grammar mask; -inf past the end.
template <typename T>
VIA_DEVICE void load_batch(const Row& row, std::int64_t begin, int lane_idx, Batch<T>& batch) {
  if (row.is_aligned() && begin + Batch<T>::kTokens <= row.size) {
#pragma unroll
    for (int j = 0; j < Batch<T>::kVectors; ++j) {
      batch.vector[j] = prim::load_stream16(
          row.data + (begin + Batch<T>::first_token(j, lane_idx)) * static_cast<int>(sizeof(T)));
    }
  } else {
#pragma unroll
    for (int j = 0; j < Batch<T>::kVectors; ++j) {
      batch.vector[j] = load_elements<T>(row, begin + Batch<T>::first_token(j, lane_idx));
    }
  }
  if (row.allowed == nullptr) return;
#pragma unroll
  for (int j = 0; j < Batch<T>::kVectors; ++j) {
    const std::int64_t id = begin + Batch<T>::first_token(j, lane_idx);
    if (id < row.size) mask_vector<T>(batch.vector[j], row.allowed[id >> 5] >> (id & 31));
  }
}

// One vector of a lane as eight float32, whatever the dtype; a float32 row fills four.
VIA_DEVICE void load_values(const Row& row, std::int64_t id, float (&values)[8]) {
  const bool whole = row.is_aligned() && id + 16 / row.item_bytes() <= row.size;
  const char* const from = row.data + id * row.item_bytes();
  if (row.dtype == DType::kFloat32) {
    uint4 v = whole ? prim::load_stream16(from) : load_elements<float>(row, id);
    if (row.allowed != nullptr) mask_vector<float>(v, row.allowed[id >> 5] >> (id & 31));
    const std::uint32_t words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int e = 0; e < 8; ++e) values[e] = e < 4 ? bits_as<float>(words[e % 4]) : kNegInf;
    return;
  }
  const bool is_bfloat16 = row.dtype == DType::kBFloat16;
  uint4 v = whole         ? prim::load_stream16(from)
            : is_bfloat16 ? load_elements<BFloat16>(row, id)
                          : load_elements<Float16>(row, id);
  if (row.allowed != nullptr) {
    const std::uint32_t bits = row.allowed[id >> 5] >> (id & 31);
    is_bfloat16 ? mask_vector<BFloat16>(v, bits) : mask_vector<Float16>(v, bits);
  }
  const std::uint32_t words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
  for (int e = 0; e < 8; ++e) {
    const auto half = static_cast<std::uint16_t>(e % 2 == 0 ? words[e / 2] : words[e / 2] >> 16);
    values[e] = is_bfloat16 ? widen(BFloat16{half}) : widen(Float16{half});
  }
}

// Calls body(id, logit) for the tokens with mass (masked, NaN as -inf) that a lane holds of a
// chunk, in the same places as a Batch: for passes over parts of a row, from the second-level
// cache.
template <typename Body>
VIA_DEVICE void for_each_logit(const Row& row, int chunk_idx, int lane_idx, Body body) {
  const int each = 16 / row.item_bytes();
  const std::int64_t begin = std::int64_t{chunk_idx} * kChunk;
#pragma unroll 2
  for (int j = 0; j < kChunk / kWarpSize / each; ++j) {
    const std::int64_t id = begin + (j * kWarpSize + lane_idx) * each;
    if (id >= row.size) continue;
    float values[8];
    load_values(row, id, values);
#pragma unroll
    for (int e = 0; e < 8; ++e) {
      if (values[e] > kNegInf) body(static_cast<std::int32_t>(id) + e, values[e]);
    }
  }
}

}  // namespace via::cuda
