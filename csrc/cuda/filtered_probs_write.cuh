// SPDX-License-Identifier: Apache-2.0
// Writing probabilities: a warp to a chunk of 2048 tokens,
//   probs(t) = keep(t) 2^((l_t - max_c) * scale) * factor_c
// Bytes: 4 per token written; the logits are read again, mostly from the second-level cache, in the
// chunks that keep something. Rows of `probs` that are not 16-byte aligned, and the end of a row,
// are written token by token, a token to a lane.
#pragma once

#include <cstdint>

#include "cuda/verify_residual.cuh"

namespace via::cuda {

VIA_DEVICE bool is_aligned16(const float* pointer) {
  return reinterpret_cast<std::uintptr_t>(pointer) % 16 == 0;
}

// Zeros at [begin, end); begin is a multiple of 4, `step` the number of threads that share the work
// and `index` the caller's among them.
VIA_DEVICE void write_zeros(float* probs, std::int64_t begin, std::int64_t end, int index,
                            int step) {
  if (is_aligned16(probs)) {
    const std::int64_t whole = end - end % 4;
    for (std::int64_t i = begin + 4 * index; i < whole; i += 4 * step) {
      *reinterpret_cast<float4*>(probs + i) = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    }
    begin = whole;
  }
  for (std::int64_t i = begin + index; i < end; i += step) probs[i] = 0.0f;
}

VIA_DEVICE float kept_probability(const Law& law, float logit, std::int64_t id, float chunk_max,
                                  float factor) {
  return law.record.cut.keeps(logit, id) ? weight_of(logit, chunk_max, law.scale) * factor : 0.0f;
}

// A whole chunk, 16 bytes at a time.
template <typename T>
VIA_DEVICE_CALL void write_vectors(const Law& law, int chunk_idx, float chunk_max, float factor,
                                   float* probs) {
  const int lane_idx = static_cast<int>(threadIdx.x) % kWarpSize;
#pragma unroll 1
  for (int part = 0; part < kChunk / Batch<T>::kTokens; ++part) {
    const std::int64_t begin = std::int64_t{chunk_idx} * kChunk + part * Batch<T>::kTokens;
    Batch<T> batch;
    load_batch(law.row, begin, lane_idx, batch);
#pragma unroll
    for (int j = 0; j < Batch<T>::kVectors; ++j) {
#pragma unroll
      for (int e = 0; e < Batch<T>::kPerVector; e += 4) {
        const std::int64_t id = begin + Batch<T>::first_token(j, lane_idx) + e;
        float4 values;
        values.x = kept_probability(law, batch.value(j, e), id, chunk_max, factor);
        values.y = kept_probability(law, batch.value(j, e + 1), id + 1, chunk_max, factor);
        values.z = kept_probability(law, batch.value(j, e + 2), id + 2, chunk_max, factor);
        values.w = kept_probability(law, batch.value(j, e + 3), id + 3, chunk_max, factor);
        *reinterpret_cast<float4*>(probs + id) = values;
      }
    }
  }
}

// One chunk of a row's probabilities, by one warp.
VIA_DEVICE_CALL void write_chunk(const Law& law, int chunk_idx, float* probs) {
  const int lane_idx = static_cast<int>(threadIdx.x) % kWarpSize;
  const std::int64_t begin = std::int64_t{chunk_idx} * kChunk;
  const std::int64_t end = begin + kChunk < law.row.size ? begin + kChunk : law.row.size;
  if (!law.has_mass() || law.is_one_hot()) {
    for (std::int64_t id = begin + lane_idx; id < end; id += kWarpSize) {
      probs[id] = id == law.record.argmax ? 1.0f : 0.0f;
    }
    return;
  }
  const float chunk_max = law.records[chunk_idx].max;
  const float factor = law.records[chunk_idx].sum > 0.0f ? law.chunk_factor(chunk_idx) : 0.0f;
  if (!(factor > 0.0f)) {
    write_zeros(probs, begin, end, lane_idx, kWarpSize);
    return;
  }
  if (is_aligned16(probs) && end == begin + kChunk) {
    if (law.row.dtype == DType::kFloat32) {
      write_vectors<float>(law, chunk_idx, chunk_max, factor, probs);
    } else if (law.row.dtype == DType::kBFloat16) {
      write_vectors<BFloat16>(law, chunk_idx, chunk_max, factor, probs);
    } else {
      write_vectors<Float16>(law, chunk_idx, chunk_max, factor, probs);
    }
    return;
  }
  for (std::int64_t id = begin + lane_idx; id < end; id += kWarpSize) {
    probs[id] = kept_probability(law, logit_at(law.row, id), id, chunk_max, factor);
  }
}

}  // namespace via::cuda
