// SPDX-License-Identifier: Apache-2.0
// Where top-k, top-p and min-p cut a row (rules: core/filters.h), without sorting the vocabulary.
//   top-k: the k-th largest of the 128-token block maxima bounds the k-th largest logit from below,
//          so only blocks that reach it are searched, and only what they hold is selected from.
//   top-p: chunks too light to matter are skipped, the rest is counted into bins of 1/16 binary
//          order; only the bin in which the mass passes top_p is sorted. After top-k its few tokens
//          are sorted instead.
// Numerics: weights of core/exp2.h, masses in float64; order and ties by the logits themselves.
#include <algorithm>
#include <cmath>
#include <vector>

#include "core/exp2.h"
#include "cpu/law.h"
#include "cpu/view.h"

namespace via::cpu {
namespace {

struct Candidate {
  float logit;
  std::int32_t id;
  double weight;
};

bool comes_first(const Candidate& a, const Candidate& b) {
  return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
}

struct Scratch {
  std::vector<float> maxima, order;
  std::vector<Candidate> candidates;
  std::vector<double> mass;
};

Scratch& scratch() {
  thread_local Scratch buffers;
  return buffers;
}

// A lower bound of the k-th largest logit, from the maxima of all blocks.
float bound_top_k(const Law& law, std::size_t k, Scratch& buffers) {
  buffers.maxima.resize(law.chunks.size() * kBlocksPerChunk);
  for (std::size_t c = 0; c < law.chunks.size(); ++c) {
    kernels().block_max(law.row, static_cast<std::int64_t>(c),
                        buffers.maxima.data() + c * kBlocksPerChunk);
  }
  if (k > buffers.maxima.size()) return kNegInf;
  buffers.order = buffers.maxima;
  std::nth_element(buffers.order.begin(), buffers.order.begin() + (k - 1), buffers.order.end(),
                   [](float a, float b) { return a > b; });
  return buffers.order[k - 1];
}

// Fills buffers.candidates with what top-k keeps, in id order, and returns its cut.
FilterCut top_k_cut(const Law& law, std::size_t k, Scratch& buffers) {
  const float bound = bound_top_k(law, k, buffers);
  alignas(64) float values[kChunk];
  buffers.candidates.clear();
  for (std::size_t c = 0; c < law.chunks.size(); ++c) {
    if (law.chunks[c].max == kNegInf || law.chunks[c].max < bound) continue;
    kernels().load_logits(law.row, static_cast<std::int64_t>(c), values);
    for (std::int64_t block = 0; block < kBlocksPerChunk; ++block) {
      const float max = buffers.maxima[c * kBlocksPerChunk + block];
      if (max == kNegInf || max < bound) continue;
      for (std::int64_t i = block * kBlock; i < (block + 1) * kBlock; ++i) {
        if (values[i] == kNegInf || values[i] < bound) continue;
        buffers.candidates.push_back({values[i], static_cast<std::int32_t>(c * kChunk + i), 0.0});
      }
    }
  }
  FilterCut cut;
  if (buffers.candidates.size() < k) return cut;  // all that have mass are here
  buffers.order.clear();
  for (const Candidate& candidate : buffers.candidates) buffers.order.push_back(candidate.logit);
  std::nth_element(buffers.order.begin(), buffers.order.begin() + (k - 1), buffers.order.end(),
                   [](float a, float b) { return a > b; });
  cut.logit = buffers.order[k - 1];
  const auto dropped = [&](const Candidate& c) { return c.logit < cut.logit; };
  buffers.candidates.erase(
      std::remove_if(buffers.candidates.begin(), buffers.candidates.end(), dropped),
      buffers.candidates.end());
  return cut;
}

// The last of `sorted` tokens before which the mass is < top_p; `before` has been passed already.
FilterCut walk_nucleus(const std::vector<Candidate>& sorted, float top_p, double total,
                       double before) {
  FilterCut cut{sorted.front().logit, sorted.front().id};
  for (const Candidate& candidate : sorted) {
    if (!top_p_keeps(before, top_p, total)) break;
    cut = {candidate.logit, candidate.id};
    before += candidate.weight;
  }
  return cut;
}

// top-p of what top-k left in buffers.candidates.
FilterCut top_p_cut_of_candidates(const Law& law, float top_p, Scratch& buffers) {
  double total = 0.0;
  for (Candidate& candidate : buffers.candidates) {
    candidate.weight = std::exp2(exponent_of(candidate.logit, law.scale) - law.stats.exponent);
    total += candidate.weight;
  }
  std::sort(buffers.candidates.begin(), buffers.candidates.end(), comes_first);
  return walk_nucleus(buffers.candidates, top_p, total, 0.0);
}

// Calls body(chunk_idx, factor) for the chunks that may hold a token of the nucleus; factor brings
// weights relative to the chunk's maximum to the row's scale.
template <typename Body>
void for_each_heavy_chunk(const Law& law, float top_p, Body&& body) {
  const double floor = 0.5 * top_p_floor(top_p, law.stats.sum, law.row.size);
  for (std::size_t c = 0; c < law.chunks.size(); ++c) {
    if (law.chunks[c].max == kNegInf) continue;
    const double factor = std::exp2(exponent_of(law.chunks[c].max, law.scale) - law.stats.exponent);
    if (factor >= floor) body(static_cast<std::int64_t>(c), factor);
  }
}

// top-p of the whole row.
FilterCut top_p_cut(const Law& law, float top_p, Scratch& buffers) {
  const double total = law.stats.sum;
  alignas(64) float values[kChunk], weights[kChunk];
  alignas(64) std::int32_t bins[kChunk];
  buffers.mass.assign(kNumBins, 0.0);
  for_each_heavy_chunk(law, top_p, [&](std::int64_t c, double factor) {
    const float max = law.chunks[c].max;
    kernels().chunk_weights(law.row, c, max, law.scale, {kNegInf, 0}, 1.0f, weights);
    kernels().chunk_bins(law.row, c, law.stats.max, law.scale, bins);
    for (std::int64_t i = 0; i < kChunk; ++i) {
      buffers.mass[bins[i]] += static_cast<double>(weights[i]) * factor;
    }
  });
  std::int32_t last_bin = 0;
  double before = 0.0, passed = 0.0;
  for (std::int32_t bin = 0; bin < kNumBins; ++bin) {
    if (buffers.mass[bin] > 0.0 && top_p_keeps(passed, top_p, total)) {
      last_bin = bin;
      before = passed;
    }
    passed += buffers.mass[bin];
  }
  buffers.candidates.clear();
  for_each_heavy_chunk(law, top_p, [&](std::int64_t c, double factor) {
    const float max = law.chunks[c].max;
    kernels().chunk_bins(law.row, c, law.stats.max, law.scale, bins);
    if (std::find(bins, bins + kChunk, last_bin) == bins + kChunk) return;
    kernels().load_logits(law.row, c, values);
    kernels().chunk_weights(law.row, c, max, law.scale, {kNegInf, 0}, 1.0f, weights);
    for (std::int64_t i = 0; i < kChunk; ++i) {
      if (bins[i] != last_bin || weights[i] == 0.0f) continue;
      buffers.candidates.push_back({values[i], static_cast<std::int32_t>(c * kChunk + i),
                                    static_cast<double>(weights[i]) * factor});
    }
  });
  std::sort(buffers.candidates.begin(), buffers.candidates.end(), comes_first);
  return walk_nucleus(buffers.candidates, top_p, total, before);
}

}  // namespace

FilterCut select_cut(const Law& law, const Filters& filters) {
  Scratch& buffers = scratch();
  FilterCut cut = min_p_cut(filters.min_p, law.stats.max, filters.temperature);
  const bool use_top_k = filters.top_k > 0 && filters.top_k < law.row.size;
  if (use_top_k) cut = stricter_cut(cut, top_k_cut(law, filters.top_k, buffers));
  if (filters.top_p < 1.0f) {
    cut = stricter_cut(cut, use_top_k ? top_p_cut_of_candidates(law, filters.top_p, buffers)
                                      : top_p_cut(law, filters.top_p, buffers));
  }
  return cut;
}

}  // namespace via::cpu
