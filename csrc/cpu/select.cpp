// SPDX-License-Identifier: Apache-2.0
// Where top-k, top-p and min-p cut a row (rules: core/filters.h), without sorting the vocabulary.
//   top-k: the k-th largest of the 128-token block maxima bounds the k-th largest logit from below,
//          so only blocks that reach it are searched, and only what they hold is selected from.
//   top-p: tokens too light to matter are skipped by chunk, the rest is counted into bins of 1/16
//          binary order; only the bin in which the mass passes top_p is sorted.
// Numerics: weights of core/exp2.h, masses in float64; order and ties by the logits themselves.
#include <algorithm>
#include <cmath>
#include <vector>

#include "core/exp2.h"
#include "cpu/law.h"
#include "cpu/view.h"

namespace via::cpu {
namespace {

constexpr int kNumBins = 2048;
constexpr double kBinsPerOrder = 16.0;

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
  std::vector<Candidate> candidates, bin;
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

// Without top-k: every token that could be in the nucleus.
double gather_nucleus_candidates(const Law& law, float top_p, Scratch& buffers) {
  const double floor = 0.5 * top_p_floor(top_p, law.stats.sum, law.row.size);
  alignas(64) float values[kChunk], weights[kChunk];
  buffers.candidates.clear();
  for (std::size_t c = 0; c < law.chunks.size(); ++c) {
    const float max = law.chunks[c].max;
    if (max == kNegInf) continue;
    const double factor = std::exp2(exponent_of(max, law.scale) - law.stats.exponent);
    if (factor < floor) continue;
    const std::int64_t chunk_idx = static_cast<std::int64_t>(c);
    kernels().load_logits(law.row, chunk_idx, values);
    kernels().chunk_weights(law.row, chunk_idx, max, law.scale, {kNegInf, 0}, 1.0f, weights);
    const float lightest = static_cast<float>(floor / factor * 0.5);
    for (std::int64_t i = 0; i < kChunk; ++i) {
      if (values[i] == kNegInf || weights[i] < lightest) continue;
      buffers.candidates.push_back({values[i], static_cast<std::int32_t>(c * kChunk + i),
                                    static_cast<double>(weights[i]) * factor});
    }
  }
  return law.stats.sum;
}

double weigh_candidates(const Law& law, Scratch& buffers) {
  double total = 0.0;
  for (Candidate& candidate : buffers.candidates) {
    candidate.weight = std::exp2(exponent_of(candidate.logit, law.scale) - law.stats.exponent);
    total += candidate.weight;
  }
  return total;
}

// The last token, in (logit descending, id ascending) order, before which the mass is < top_p.
FilterCut nucleus_cut(const Law& law, float top_p, double total, Scratch& buffers) {
  const auto bin_of = [&](const Candidate& c) {
    const double orders = (static_cast<double>(law.stats.max) - static_cast<double>(c.logit)) *
                          static_cast<double>(law.scale) * kBinsPerOrder;
    return orders < kNumBins - 1 ? static_cast<int>(orders) : kNumBins - 1;
  };
  buffers.mass.assign(kNumBins, 0.0);
  for (const Candidate& candidate : buffers.candidates) {
    buffers.mass[bin_of(candidate)] += candidate.weight;
  }
  int last_bin = 0;
  double before = 0.0, passed = 0.0;
  for (int bin = 0; bin < kNumBins; ++bin) {
    if (buffers.mass[bin] > 0.0 && top_p_keeps(passed, top_p, total)) {
      last_bin = bin;
      before = passed;
    }
    passed += buffers.mass[bin];
  }
  buffers.bin.clear();
  for (const Candidate& candidate : buffers.candidates) {
    if (bin_of(candidate) == last_bin) buffers.bin.push_back(candidate);
  }
  std::sort(buffers.bin.begin(), buffers.bin.end(), comes_first);
  FilterCut cut{law.stats.max, static_cast<std::int32_t>(law.stats.argmax)};
  for (const Candidate& candidate : buffers.bin) {
    if (!top_p_keeps(before, top_p, total)) break;
    cut = {candidate.logit, candidate.id};
    before += candidate.weight;
  }
  return cut;
}

}  // namespace

FilterCut select_cut(const Law& law, const Filters& filters) {
  Scratch& buffers = scratch();
  FilterCut cut = min_p_cut(filters.min_p, law.stats.max, filters.temperature);
  const bool use_top_k = filters.top_k > 0 && filters.top_k < law.row.size;
  if (use_top_k) cut = stricter_cut(cut, top_k_cut(law, filters.top_k, buffers));
  if (filters.top_p < 1.0f) {
    const double total = use_top_k ? weigh_candidates(law, buffers)
                                   : gather_nucleus_candidates(law, filters.top_p, buffers);
    cut = stricter_cut(cut, nucleus_cut(law, filters.top_p, total, buffers));
  }
  return cut;
}

}  // namespace via::cpu
