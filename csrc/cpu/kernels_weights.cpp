// SPDX-License-Identifier: Apache-2.0
// Chunk loops of the later passes: block maxima (for top-k and top-p), weights of kept tokens, and
// the residual max(r - p, 0) (docs/design.md section 4). They run only on rows that a draw, a
// lossless acceptance or a filter needs, one chunk at a time, into a buffer of the caller.
// Numerics: weights relative to the chunk's own maximum, so that at least one is 1; sums as in
// kernels_scan.cpp.
#include "core/residual.h"
#include "cpu/kernels_load.h"

namespace via::cpu::VIA_ISA_NAMESPACE {
namespace {

VIA_HD double sum_chunk(const float* values) {
  VecF sum[kSums] = {};
  for (int i = 0; i < static_cast<int>(kChunk); i += kLanes) {
    for (int v = 0; v < kVectors; ++v) sum[v % kSums] += load(values + i + v * kVectorLanes);
  }
  return sum_lanes(sum);
}

void load_logits(const RowView& row, std::int64_t chunk_idx, float* values) {
  const int count = chunk_size(row, chunk_idx);
  with_chunk(row, chunk_idx, [&](const auto* from) { return widen(from, count, kNegInf, values); });
  if (row.allowed != nullptr) apply_mask(row.allowed + chunk_begin(chunk_idx) / 32, count, values);
  const int padded = round_up_to_lanes(count);
#pragma omp simd
  for (int i = 0; i < padded; ++i) values[i] = values[i] > kNegInf ? values[i] : kNegInf;
  for (int i = padded; i < static_cast<int>(kChunk); ++i) values[i] = kNegInf;
}

bool load_probs(const RowView& row, std::int64_t chunk_idx, float* values) {
  const int count = chunk_size(row, chunk_idx);
  const bool has_nan = with_chunk(
      row, chunk_idx, [&](const auto* from) { return widen(from, count, 0.0f, values); });
  const int padded = round_up_to_lanes(count);
#pragma omp simd
  for (int i = 0; i < padded; ++i) values[i] = values[i] > 0.0f ? values[i] : 0.0f;
  for (int i = padded; i < static_cast<int>(kChunk); ++i) values[i] = 0.0f;
  return has_nan;
}

template <typename T>
VIA_HD int find_equal(const T* values, int count, float value) {
  for (int begin = 0; begin < count; begin += kLanes) {
    const int end = begin + kLanes < count ? begin + kLanes : count;
    int hits = 0;
    for (int i = begin; i < end; ++i) hits += to_float(values[i]) == value ? 1 : 0;
    if (hits == 0) continue;
    for (int i = begin; i < end; ++i) {
      if (to_float(values[i]) == value) return i;
    }
  }
  return -1;
}

std::int64_t find_first(const RowView& row, std::int64_t chunk_idx, float value) {
  const int count = chunk_size(row, chunk_idx);
  int found = -1;
  if (row.allowed != nullptr) {
    alignas(64) float values[kChunk];
    load_logits(row, chunk_idx, values);
    found = find_equal(values, count, value);
  } else {
    found = with_chunk(row, chunk_idx,
                       [&](const auto* from) { return find_equal(from, count, value); });
  }
  return found < 0 ? -1 : chunk_begin(chunk_idx) + found;
}

void chunk_bins(const RowView& row, std::int64_t chunk_idx, float max, float scale,
                std::int32_t* bins) {
  alignas(64) float values[kChunk];
  load_logits(row, chunk_idx, values);
  constexpr float kLast = static_cast<float>(kNumBins - 1);
#pragma omp simd
  for (int i = 0; i < static_cast<int>(kChunk); ++i) {
    const float distance = (max - values[i]) * scale * kBinsPerOrder;
    bins[i] = static_cast<std::int32_t>(distance < kLast ? distance : kLast);
  }
}

void block_max(const RowView& row, std::int64_t chunk_idx, float* maxima) {
  alignas(64) float values[kChunk];
  load_logits(row, chunk_idx, values);
  for (int block = 0; block < static_cast<int>(kBlocksPerChunk); ++block) {
    VecF best = splat(kNegInf);
    for (int i = 0; i < static_cast<int>(kBlock); i += kVectorLanes) {
      best = maximum(load(values + block * kBlock + i), best);
    }
    maxima[block] = max_lanes(best);
  }
}

// Clears the weights that the cut drops: below its logit, or equal to it with a higher id.
VIA_HD void apply_cut(const float* values, Cut cut, std::int64_t first_id, float* weights) {
  const std::int64_t rest = cut.last_id - first_id;
  const std::int32_t last =
      static_cast<std::int32_t>(rest < -1 ? -1 : (rest < kChunk ? rest : kChunk));
#pragma omp simd
  for (std::int32_t i = 0; i < static_cast<std::int32_t>(kChunk); ++i) {
    const bool kept = (values[i] > cut.logit) | ((values[i] == cut.logit) & (i <= last));
    weights[i] = kept ? weights[i] : 0.0f;
  }
}

double chunk_weights(const RowView& row, std::int64_t chunk_idx, float max, float scale, Cut cut,
                     float factor, float* weights) {
  alignas(64) float values[kChunk];
  load_logits(row, chunk_idx, values);
  const VecF floor = splat(kMinExponent);
  for (int i = 0; i < static_cast<int>(kChunk); i += kSide * kVectorLanes) {
    VecF y[kSide], side[kSide];
    for (int j = 0; j < kSide; ++j) {
      y[j] = (load(values + i + j * kVectorLanes) - max) * scale;
      side[j] = maximum(y[j], floor);
    }
    exp2_of<VectorOps, kSide>(side);
    for (int j = 0; j < kSide; ++j) {
      store(weights + i + j * kVectorLanes, y[j] > floor ? side[j] * factor : VecF{});
    }
  }
  if (cut.logit > kNegInf) apply_cut(values, cut, chunk_begin(chunk_idx), weights);
  return sum_chunk(weights);
}

double chunk_residual(const float* r, const float* p, std::int64_t rejected, float* rest) {
  for (int i = 0; i < static_cast<int>(kChunk); i += kVectorLanes) {
    store(rest + i, residual_weight(load(r + i), load(p + i)));
  }
  // The rejected token has no mass left; rounding may say otherwise.
  if (rejected >= 0 && rejected < kChunk) rest[rejected] = 0.0f;
  return sum_chunk(rest);
}

}  // namespace

void fill_weights(Kernels& table) {
  table.find_first = find_first;
  table.chunk_bins = chunk_bins;
  table.block_max = block_max;
  table.load_logits = load_logits;
  table.load_probs = load_probs;
  table.chunk_weights = chunk_weights;
  table.chunk_residual = chunk_residual;
}

}  // namespace via::cpu::VIA_ISA_NAMESPACE
