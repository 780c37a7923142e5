// SPDX-License-Identifier: Apache-2.0
// Where top-k, top-p and min-p cut a row, and what is left of it (rules: core/filters.h). One
// block, no pass over the whole row in the common case:
//   1. the scan left the maximum of every lane's 64 tokens; sorted, they bound the cut from below
//      (the k-th largest of them, or those that hold top_p of the mass already);
//   2. the tokens from the bound up are gathered and sorted: the cut is a place in that list.
// Where no bound exists, or too many tokens reach it, radix selection (cuda/verify_radix.cuh).
// Numerics: float32 weights, masses in float64, order and ties by the logits themselves.
#pragma once

#include <cstdint>

#include "cuda/verify_radix.cuh"
#include "cuda/verify_scan.cuh"

namespace via::cuda {

// Lower bounds from lane maxima must not lose a token to the rounding of two different sums.
inline constexpr double kBoundMargin = 1.0 + 1e-5;

// Running sum over entries in order: calls body(i, mass before i, weight of i) and returns the
// total. kMaxCandidates / kThreads consecutive entries a thread.
template <typename Weight, typename Body>
VIA_DEVICE double walk_in_order(int count, double* scratch, Weight weight, Body body) {
  const int each = (count + kThreads - 1) / kThreads;
  const int begin = static_cast<int>(threadIdx.x) * each;
  const int end = begin + each < count ? begin + each : count;
  double sum = 0.0;
  for (int i = begin; i < end; ++i) sum += weight(i);
  const auto scan = block_scan(sum, scratch);
  double before = scan.before;
  for (int i = begin; i < end; ++i) {
    const double own = weight(i);
    body(i, before, own);
    before += own;
  }
  return scan.total;
}

// A logit that top-k and top-p cannot cut above, or -inf. `total` is the row's mass.
VIA_DEVICE_CALL float bound_cut(const SelectRow& from, const float* lane_max,
                                const Filters& filters, bool use_top_k, double total,
                                SelectBuffer& buffer, SelectState& state) {
  const int lanes = from.chunks * kWarpSize;
  int merged = 1;  // lanes per group
  while ((lanes + merged - 1) / merged > kMaxCandidates) merged *= 2;
  const int groups = (lanes + merged - 1) / merged;
  for (int g = static_cast<int>(threadIdx.x); g < groups; g += kThreads) {
    float max = kNegInf;
    for (int i = g * merged; i < (g + 1) * merged && i < lanes; ++i) {
      max = MaxOf{}(max, lane_max[i]);
    }
    buffer.candidates[g] = pack_candidate(max, g);
  }
  sort_candidates(buffer.candidates, groups);
  if (use_top_k) {
    return filters.top_k <= groups ? candidate_logit(buffer.candidates[filters.top_k - 1])
                                   : kNegInf;
  }
  const double target = static_cast<double>(filters.top_p) * total * kBoundMargin;
  int last = 0x7fffffff;
  walk_in_order(
      groups, state.scratch,
      [&](int i) -> double {
        return weight_of(candidate_logit(buffer.candidates[i]), from.max, from.scale);
      },
      [&](int i, double before, double own) {
        if (before + own >= target && i < last) last = i;
      });
  last = Block::min(last, reinterpret_cast<int*>(state.scratch));
  return last < groups ? candidate_logit(buffer.candidates[last]) : kNegInf;
}

// Gathers the tokens from `bound` up, in any order; returns how many there are.
VIA_DEVICE_CALL int gather_candidates(const SelectRow& from, const float* lane_max, float bound,
                                      SelectBuffer& buffer, SelectState& state) {
  if (threadIdx.x == 0) state.count = 0;
  __syncthreads();
  const int lanes = from.chunks * kWarpSize;
  for (int i = static_cast<int>(threadIdx.x); i < lanes; i += kThreads) {
    if (lane_max[i] < bound || !(lane_max[i] > kNegInf)) continue;
    for_each_logit(from.row, i / kWarpSize, i % kWarpSize, [&](std::int32_t id, float logit) {
      if (logit < bound) return;
      const int slot = atomicAdd(&state.count, 1);
      if (slot < kMaxCandidates) buffer.candidates[slot] = pack_candidate(logit, id);
    });
  }
  __syncthreads();
  return state.count;
}

// The cut of top-k and top-p over sorted candidates, which hold everything that can be kept.
VIA_DEVICE_CALL FilterCut cut_candidates(const SelectRow& from, int count, const Filters& filters,
                                         bool use_top_k, double total, const SelectBuffer& buffer,
                                         SelectState& state) {
  FilterCut cut;
  if (use_top_k && filters.top_k <= count) {
    cut.logit = candidate_logit(buffer.candidates[filters.top_k - 1]);
  }
  if (!(filters.top_p < 1.0f)) return cut;
  const auto weight = [&](int i) -> double {
    const float logit = candidate_logit(buffer.candidates[i]);
    return logit < cut.logit ? 0.0 : weight_of(logit, from.max, from.scale);
  };
  const auto ignore = [](int, double, double) {};
  if (use_top_k) total = walk_in_order(count, state.scratch, weight, ignore);
  int last = 0;
  walk_in_order(count, state.scratch, weight, [&](int i, double before, double own) {
    if (own > 0.0 && top_p_keeps(before, filters.top_p, total)) last = i;
  });
  last = Block::max(last, reinterpret_cast<int*>(state.scratch));
  const std::uint64_t candidate = buffer.candidates[last];
  return stricter_cut(cut, {candidate_logit(candidate), candidate_id(candidate)});
}

// The same by radix selection.
VIA_DEVICE_CALL FilterCut cut_by_radix(SelectRow from, const Filters& filters, bool use_top_k,
                                       SelectBuffer& buffer, SelectState& state) {
  FilterCut cut;
  if (use_top_k) {
    cut.logit = radix_select(from, false, 0.0f, filters.top_k, buffer, state).logit;
    from.floor = cut.logit;
  }
  if (!(filters.top_p < 1.0f)) return cut;
  const Selected place = radix_select(from, true, filters.top_p, 0.0, buffer, state);
  // How many of the tokens with that logit the nucleus still takes.
  const float weight = weight_of(place.logit, from.max, from.scale);
  const double rest = place.target - place.before;
  const double ties = weight > 0.0f ? ceil(rest / weight) : 1.0;
  const std::int32_t last_id = find_nth(from, place.logit, ties > 1.0 ? ties : 1.0, buffer, state);
  return stricter_cut(cut, {place.logit, last_id});
}

// Joins the kept sums of all chunks.
VIA_DEVICE_CALL double sum_chunks(const ChunkRecord* records, int chunks, float max, float scale,
                                  double* scratch) {
  double total = 0.0;
  for (int c = static_cast<int>(threadIdx.x); c < chunks; c += kThreads) {
    total += chunk_mass(records[c], scale, exponent_of(max, scale));
  }
  return Block::sum(total, scratch);
}

// Kept sums of every chunk from the candidates, which hold all that is kept.
VIA_DEVICE_CALL void keep_candidates(FilterCut cut, float scale, ChunkRecord* records, int chunks,
                                     int count, const SelectBuffer& buffer) {
  for (int c = static_cast<int>(threadIdx.x) / kWarpSize; c < chunks; c += kWarps) {
    float sum = 0.0f;
    for (int i = static_cast<int>(threadIdx.x) % kWarpSize; i < count; i += kWarpSize) {
      const std::int32_t id = candidate_id(buffer.candidates[i]);
      const float logit = candidate_logit(buffer.candidates[i]);
      if (!cut.keeps(logit, id)) break;
      if (id / kChunk == c) sum += weight_of(logit, records[c].max, scale);
    }
    sum = warp_sum(sum);
    if (threadIdx.x % kWarpSize == 0) records[c].sum = sum;
  }
  __syncthreads();
}

// Kept sums of every chunk from the row.
VIA_DEVICE_CALL void keep_from_row(const Row& row, FilterCut cut, float scale, ChunkRecord* records,
                                   int chunks) {
  for (int c = static_cast<int>(threadIdx.x) / kWarpSize; c < chunks; c += kWarps) {
    const float chunk_max = records[c].max;
    float sum = 0.0f;
    if (chunk_max >= cut.logit && chunk_max > kNegInf) {
      for_each_logit(row, c, static_cast<int>(threadIdx.x) % kWarpSize,
                     [&](std::int32_t id, float logit) {
                       if (cut.keeps(logit, id)) sum += weight_of(logit, chunk_max, scale);
                     });
    }
    sum = warp_sum(sum);
    if (threadIdx.x % kWarpSize == 0) records[c].sum = sum;
  }
  __syncthreads();
}

// Cuts a scanned row with a finite maximum; every thread calls with the same `record` and gets it
// back with the cut and the kept sum.
VIA_DEVICE_CALL RowRecord filter_row(const Row& row, RowRecord record, const Filters& filters,
                                     float scale, ChunkRecord* records, int chunks,
                                     const float* lane_max, SelectBuffer& buffer,
                                     SelectState& state) {
  record.cut = min_p_cut(filters.min_p, record.max, filters.temperature);
  const bool use_top_k = filters.top_k > 0 && filters.top_k < row.size;
  const SelectRow from = {row, records, chunks, scale, record.max, kNegInf};
  int count = kMaxCandidates + 1;
  if (use_top_k || filters.top_p < 1.0f) {
    const float bound = bound_cut(from, lane_max, filters, use_top_k, record.sum, buffer, state);
    if (bound > kNegInf) count = gather_candidates(from, lane_max, bound, buffer, state);
    FilterCut cut;
    if (count <= kMaxCandidates) {
      sort_candidates(buffer.candidates, count);
      cut = cut_candidates(from, count, filters, use_top_k, record.sum, buffer, state);
    } else {
      cut = cut_by_radix(from, filters, use_top_k, buffer, state);
    }
    record.cut = stricter_cut(record.cut, cut);
  }
  if (!record.cut.keeps_all()) {
    if (count <= kMaxCandidates) {
      keep_candidates(record.cut, scale, records, chunks, count, buffer);
    } else {
      keep_from_row(row, record.cut, scale, records, chunks);
    }
    record.sum = sum_chunks(records, chunks, record.max, scale, state.scratch);
  }
  record.flags |= kRowFiltered;
  return record;
}

}  // namespace via::cuda
