// SPDX-License-Identifier: Apache-2.0
// Radix selection over a whole row, for filters that keep too much to sort: flat rows, large top-k.
// Five bits of the ordered key a pass; every thread counts (top-k) or weighs (top-p) into bins of
// its own, so there are no atomics and sums have a fixed order. Passes: 7 for float32, 4 for the
// 16-bit formats, each over the chunks that can still hold the answer, from the second-level cache.
#pragma once

#include <cstdint>

#include "cuda/verify_sort.cuh"

namespace via::cuda {

inline constexpr int kRadixBits = 5;
inline constexpr int kBins = 1 << kRadixBits;

// Memory of the selection, one form at a time.
union SelectBuffer {
  std::uint64_t candidates[kMaxCandidates];
  float bins[kBins][kThreads];
  unsigned counts[kThreads];
};

struct SelectState {
  int count;             // candidates found
  std::uint32_t prefix;  // of the ordered key
  double before;         // counted or weighed above the prefix
  int found;
  double scratch[kWarps];
  double totals[kBins];
};

// What is selected from: the tokens of a row from `floor` up.
struct SelectRow {
  Row row;
  const ChunkRecord* records;
  int chunks;
  float scale;
  float max;
  float floor;
};

struct Selected {
  float logit;    // of the last kept place
  double before;  // counted or weighed above that logit
  double target;  // what was asked for
};

// The last value before which less than `target` is counted (or weighed). If `share` is set the
// target is that share of everything weighed.
VIA_DEVICE_CALL Selected radix_select(const SelectRow& from, bool weigh, float share, double target,
                                      SelectBuffer& buffer, SelectState& state) {
  const int thread_idx = static_cast<int>(threadIdx.x);
  const int warp_idx = thread_idx / kWarpSize, lane_idx = thread_idx % kWarpSize;
  // Widened 16-bit values differ in their upper 20 bits at most.
  const int last_bit = from.row.dtype == DType::kFloat32 ? 0 : 12;
  __syncthreads();  // the caller's threads have read what an earlier selection left
  if (thread_idx == 0) {
    state.prefix = 0;
    state.before = 0.0;
  }
  __syncthreads();
  int shift = 32;
  while (shift > last_bit) {
    const int low_shift = shift - kRadixBits > 0 ? shift - kRadixBits : 0;
    const std::uint32_t prefix = state.prefix;
    for (int bin = 0; bin < kBins; ++bin) buffer.bins[bin][thread_idx] = 0.0f;
    for (int c = warp_idx; c < from.chunks; c += kWarps) {
      const float chunk_max = from.records[c].max;
      if (chunk_max < from.floor || !(chunk_max > kNegInf)) continue;
      if (shift < 32 && ordered_key(chunk_max) >> shift < prefix >> shift) continue;
      for_each_logit(from.row, c, lane_idx, [&](std::int32_t, float logit) {
        const std::uint32_t key = ordered_key(logit);
        if (logit < from.floor || (shift < 32 && key >> shift != prefix >> shift)) return;
        const float amount = weigh ? weight_of(logit, from.max, from.scale) : 1.0f;
        buffer.bins[(key >> low_shift) & (kBins - 1)][thread_idx] += amount;
      });
    }
    __syncthreads();
    for (int bin = warp_idx; bin < kBins; bin += kWarps) {
      double sum = 0.0;
      for (int i = lane_idx; i < kThreads; i += kWarpSize) sum += buffer.bins[bin][i];
      sum = warp_sum(sum);
      if (lane_idx == 0) state.totals[bin] = sum;
    }
    __syncthreads();
    if (shift == 32 && share > 0.0f) {
      target = 0.0;
      for (int bin = kBins - 1; bin >= 0; --bin) target += state.totals[bin];
      target *= static_cast<double>(share);
    }
    double before = state.before, passed = before;
    std::uint32_t chosen = 0;
    for (int bin = kBins - 1; bin >= 0; --bin) {
      if (state.totals[bin] > 0.0 && passed < target) {
        chosen = static_cast<std::uint32_t>(bin);
        before = passed;
      }
      passed += state.totals[bin];
    }
    __syncthreads();
    if (thread_idx == 0) {
      state.prefix = prefix | chosen << low_shift;
      state.before = before;
    }
    shift = low_shift;
    __syncthreads();
  }
  // Below `shift` all keys of one value agree: zeros for positive values, ones for negative.
  const std::uint32_t key = state.prefix;
  const std::uint32_t rest = (std::uint32_t{1} << shift) - 1;
  return {value_of_key((key & 0x80000000u) != 0 ? key : key | rest), state.before, target};
}

// Id of the n-th token (from 1) with exactly this logit, in id order; the largest id if there are
// fewer.
VIA_DEVICE_CALL std::int32_t find_nth(const SelectRow& from, float logit, double n,
                                      SelectBuffer& buffer, SelectState& state) {
  const int thread_idx = static_cast<int>(threadIdx.x);
  const int warp_idx = thread_idx / kWarpSize, lane_idx = thread_idx % kWarpSize;
  double passed = 0.0;
  for (int tile = 0; tile < from.chunks; tile += kThreads) {
    __syncthreads();
    for (int c = warp_idx; c < kThreads; c += kWarps) {
      unsigned hits = 0;
      if (tile + c < from.chunks && from.records[tile + c].max >= logit) {
        for_each_logit(from.row, tile + c, lane_idx,
                       [&](std::int32_t, float value) { hits += value == logit ? 1u : 0u; });
      }
      hits = warp_sum(hits);
      if (lane_idx == 0) buffer.counts[c] = hits;
    }
    if (thread_idx == 0) state.found = -1;
    __syncthreads();
    const unsigned mine = buffer.counts[thread_idx];
    const auto scan = block_scan(mine, reinterpret_cast<unsigned*>(state.scratch));
    const double first = passed + scan.before;
    if (mine > 0 && first < n && n <= first + mine) {
      state.found = tile + thread_idx;
      state.before = n - first;
    }
    passed += scan.total;
    __syncthreads();
    if (state.found < 0) continue;
    constexpr int kEach = kChunk / kThreads;
    const std::int64_t begin = std::int64_t{state.found} * kChunk + thread_idx * kEach;
    const double wanted = state.before;
    unsigned hits = 0;
    for (int i = 0; i < kEach; ++i) {
      hits += begin + i < from.row.size && logit_at(from.row, begin + i) == logit ? 1u : 0u;
    }
    const auto inside = block_scan(hits, reinterpret_cast<unsigned*>(state.scratch));
    double seen = inside.before;
    for (int i = 0; i < kEach && hits > 0; ++i) {
      if (begin + i >= from.row.size || logit_at(from.row, begin + i) != logit) continue;
      if (seen < wanted && wanted <= seen + 1.0) state.found = static_cast<int>(begin + i);
      seen += 1.0;
    }
    __syncthreads();
    return state.found;
  }
  return 0x7fffffff;
}

}  // namespace via::cuda
