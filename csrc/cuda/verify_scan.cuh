// SPDX-License-Identifier: Apache-2.0
// The scan: softmax statistics of a row, chunk by chunk (docs/design.md, equation 1).
//   max_c = largest allowed logit, sum_c = sum of 2^((l - max_c) * scale), lowest id of max_c
// Mapping: one warp to a chunk of 2048 tokens, 64 tokens a lane in registers; a lane sums relative
// to its own maximum, so one pass over the registers does without any exchange between lanes.
// Bytes: each element is read once. Per element: unpack, max, sub, mul, exp2, add.
// Numerics: float32 weights, exp2 by the hardware's approximation (relative error 2^-22), four
// partial sums a lane, lanes joined by a butterfly. A chunk with NaN or +inf shows in its sum and
// is done again with every element checked.
#pragma once

#include <cstdint>

#include "cuda/verify_row.cuh"

namespace via::cuda {

struct LaneStats {
  float max = kNegInf;
  float sum = 0.0f;
  std::int32_t vector_id = -1;  // first token of the first vector that holds `max`
  bool has_nan = false;
};

template <typename T, bool kCareful>
VIA_DEVICE void scan_batch(Batch<T>& batch, std::int32_t begin, float scale, LaneStats& lane) {
  const int lane_idx = static_cast<int>(threadIdx.x) % kWarpSize;
  const float before = lane.max;
#pragma unroll
  for (int j = 0; j < Batch<T>::kVectors; ++j) {
    float best = batch.value(j, 0);
#pragma unroll
    for (int e = 1; e < Batch<T>::kPerVector; ++e) best = fmaxf(best, batch.value(j, e));
    if (best > lane.max) {
      lane.max = best;
      lane.vector_id = begin + Batch<T>::first_token(j, lane_idx);
    }
  }
  // Relative to 0 a lane without mass sums zeros instead of (-inf) - (-inf).
  const float reference = lane.max > kNegInf ? lane.max : 0.0f;
  float sum[4] = {};
#pragma unroll
  for (int j = 0; j < Batch<T>::kVectors; ++j) {
    prim::forget(batch.vector[j]);  // unpacking again costs less than 64 registers
#pragma unroll
    for (int e = 0; e < Batch<T>::kPerVector; ++e) {
      float value = batch.value(j, e);
      if constexpr (kCareful) {
        lane.has_nan |= value != value;
        value = value > kNegInf && value < kPosInf ? value : kNegInf;
      }
      sum[e % 4] += prim::exp2_approx((value - reference) * scale);
    }
  }
  if (before > kNegInf) lane.sum *= prim::exp2_approx((before - reference) * scale);
  lane.sum += (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

template <typename T, bool kCareful>
VIA_DEVICE LaneStats scan_lane(const Row& row, int chunk_idx, float scale) {
  LaneStats lane;
#pragma unroll 1
  for (int part = 0; part < kChunk / Batch<T>::kTokens; ++part) {
    const std::int64_t begin = std::int64_t{chunk_idx} * kChunk + part * Batch<T>::kTokens;
    Batch<T> batch;
    load_batch(row, begin, static_cast<int>(threadIdx.x) % kWarpSize, batch);
    scan_batch<T, kCareful>(batch, static_cast<std::int32_t>(begin), scale, lane);
  }
  return lane;
}

// The same, apart from the main path: NaN and infinities are rare.
template <typename T>
VIA_DEVICE_CALL LaneStats scan_lane_carefully(const Row& row, int chunk_idx, float scale) {
  return scan_lane<T, true>(row, chunk_idx, scale);
}

// Lowest id in the lane's first vector of its maximum.
template <typename T>
VIA_DEVICE std::int32_t find_in_vector(const Row& row, const LaneStats& lane) {
  std::int32_t found = -1;
#pragma unroll
  for (int e = Batch<T>::kPerVector - 1; e >= 0; --e) {
    const std::int32_t id = lane.vector_id + e;
    if (id < row.size && logit_at(row, id) == lane.max) found = id;
  }
  return found;
}

template <typename T>
VIA_DEVICE void scan_chunk_of(const Row& row, int chunk_idx, float scale, ChunkRecord* records,
                              float* lane_max) {
  LaneStats lane = scan_lane<T, false>(row, chunk_idx, scale);
  if (__any_sync(kFullMask, !(lane.sum < kPosInf))) {
    lane = scan_lane_carefully<T>(row, chunk_idx, scale);
  }
  const int lane_idx = static_cast<int>(threadIdx.x) % kWarpSize;
  ChunkRecord record;
  record.max = warp_max(lane.max);
  const bool has_mass = lane.max > kNegInf && record.max < kPosInf;
  const float sum = has_mass ? lane.sum * prim::exp2_approx((lane.max - record.max) * scale) : 0.0f;
  record.sum = warp_sum(sum);
  const bool holds_max = lane.max == record.max && lane.max > kNegInf;
  const std::int32_t id = holds_max ? find_in_vector<T>(row, lane) : 0x7fffffff;
  record.argmax = warp_min(id);
  if (!(record.max > kNegInf)) record.argmax = -1;
  record.has_nan = __any_sync(kFullMask, lane.has_nan) != 0;
  if (lane_idx == 0) records[chunk_idx] = record;
  if (lane_max != nullptr) lane_max[chunk_idx * kWarpSize + lane_idx] = lane.max;
}

// The chunks of one unit, a warp to a chunk. `lane_max` may be null. While the row is on its way
// thread 0 takes a ticket from `counter` (null: none) for the block's next work, and returns it.
template <typename T>
VIA_DEVICE_CALL unsigned scan_unit_of(const Row row, float scale, int first_chunk, int last_chunk,
                                      ChunkRecord* records, float* lane_max, unsigned* counter) {
  const int warp_idx = static_cast<int>(threadIdx.x) / kWarpSize;
  unsigned ticket = kNoTicket;
  if (threadIdx.x == 0 && counter != nullptr) ticket = atomicAdd(counter, 1u);
  for (int chunk_idx = first_chunk + warp_idx; chunk_idx < last_chunk; chunk_idx += kWarps) {
    scan_chunk_of<T>(row, chunk_idx, scale, records, lane_max);
  }
  return ticket;
}

// The same for a row of probabilities, apart from the main path: what is positive is a weight.
VIA_DEVICE_CALL void scan_probs_unit(const Row& row, int first_chunk, int last_chunk,
                                     ChunkRecord* records) {
  const int lane_idx = static_cast<int>(threadIdx.x) % kWarpSize;
  const int warp_idx = static_cast<int>(threadIdx.x) / kWarpSize;
  const int each = 16 / row.item_bytes();
  for (int chunk_idx = first_chunk + warp_idx; chunk_idx < last_chunk; chunk_idx += kWarps) {
    float max = kNegInf, sum = 0.0f;
    int argmax = 0x7fffffff;
    bool has_nan = false;
#pragma unroll 4
    for (int j = 0; j < kChunk / kWarpSize / each; ++j) {
      const std::int64_t id = std::int64_t{chunk_idx} * kChunk + (j * kWarpSize + lane_idx) * each;
      if (id >= row.size) continue;
      float values[8];
      load_values(row, id, values);
#pragma unroll
      for (int e = 0; e < 8; ++e) {
        has_nan |= values[e] != values[e];
        if (!(values[e] > 0.0f)) continue;
        sum += values[e];
        if (values[e] > max) argmax = static_cast<int>(id) + e;
        max = fmaxf(max, values[e]);
      }
    }
    ChunkRecord record;
    record.max = warp_max(max);
    record.sum = warp_sum(sum);
    if (!(record.max < kPosInf)) record.sum = 0.0f;
    record.argmax = warp_min(max == record.max ? argmax : 0x7fffffff);
    if (!(record.max > kNegInf)) record.argmax = -1;
    record.has_nan = __any_sync(kFullMask, has_nan) != 0;
    if (lane_idx == 0) records[chunk_idx] = record;
  }
}

VIA_DEVICE unsigned scan_unit(const Row& row, float scale, int first_chunk, int last_chunk,
                              ChunkRecord* records, float* lane_max, unsigned* counter) {
  if (holds_probabilities(scale)) {
    scan_probs_unit(row, first_chunk, last_chunk, records);
    return kNoTicket;
  }
  if (row.dtype == DType::kFloat32) {
    return scan_unit_of<float>(row, scale, first_chunk, last_chunk, records, lane_max, counter);
  }
  if (row.dtype == DType::kBFloat16) {
    return scan_unit_of<BFloat16>(row, scale, first_chunk, last_chunk, records, lane_max, counter);
  }
  return scan_unit_of<Float16>(row, scale, first_chunk, last_chunk, records, lane_max, counter);
}

// Mass of a chunk relative to 2^exponent.
VIA_DEVICE double chunk_mass(const ChunkRecord& record, float scale, double exponent) {
  if (!(record.sum > 0.0f)) return 0.0;
  return record.sum * rescale(exponent_of(record.max, scale), exponent);
}

// Joins the chunks of a row; every thread of the block calls and gets the result. `sum` is relative
// to 2^(max * scale). Scratch: one double per warp.
VIA_DEVICE_CALL RowRecord merge_chunks(const ChunkRecord* records, int count, float scale,
                                       double* scratch) {
  RowRecord row = {};
  float max = kNegInf;
  unsigned nan = 0;
  for (int c = static_cast<int>(threadIdx.x); c < count; c += kThreads) {
    max = MaxOf{}(max, records[c].max);
    nan |= records[c].has_nan;
  }
  row.max = Block::max(max, reinterpret_cast<float*>(scratch));
  const double exponent = exponent_of(row.max, scale);
  double sum = 0.0;
  int argmax = 0x7fffffff;
  for (int c = static_cast<int>(threadIdx.x); c < count; c += kThreads) {
    const ChunkRecord& record = records[c];
    if (record.max == row.max && record.argmax >= 0) {
      argmax = MinOf{}(argmax, static_cast<int>(record.argmax));
    }
    if (row.max < kPosInf) sum += chunk_mass(record, scale, exponent);
  }
  row.sum = Block::sum(sum, scratch);
  if (holds_probabilities(scale)) row.sum = 1.0;  // probabilities are not normalised
  argmax = Block::min(argmax, reinterpret_cast<int*>(scratch));
  row.argmax = row.max > kNegInf ? argmax : -1;
  if (__syncthreads_or(static_cast<int>(nan)) != 0) row.flags |= kRowHasNan;
  row.flags |= kRowScanned;
  return row;
}

}  // namespace via::cuda
