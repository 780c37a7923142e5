// SPDX-License-Identifier: Apache-2.0
// Row laws (docs/design.md sections 2 and 4): one pass gives q up to its normaliser,
//   q(t) = keep(t) 2^(l_t * scale - E) / sum,
// filters add a pass over the chunks that still hold mass, a draw re-reads one chunk. Scans are cut
// into parts of kPartChunks chunks, which idle threads may take; each part writes the statistics of
// its own chunks, and they are merged in chunk order.
#include "cpu/law.h"

#include <algorithm>
#include <cmath>

#include "core/exp2.h"
#include "core/residual.h"
#include "cpu/chunk_draw.h"
#include "cpu/thread_pool.h"
#include "cpu/view.h"

namespace via::cpu {
namespace {

constexpr std::int64_t kPartChunks = 4;
alignas(64) constexpr float kNothing[kChunk] = {};

template <typename Body>
void for_each_chunk(std::int64_t count, Body&& body) {
  const std::int64_t parts = (count + kPartChunks - 1) / kPartChunks;
  for_each_part(static_cast<int>(parts), [&](int part) {
    const std::int64_t begin = part * kPartChunks;
    const std::int64_t end = std::min(begin + kPartChunks, count);
    for (std::int64_t chunk_idx = begin; chunk_idx < end; ++chunk_idx) body(chunk_idx);
  });
}

// Merges the chunks and finds the lowest id of the maximum.
void merge_chunks(Law& law) {
  law.stats = {};
  law.has_nan = false;
  for (std::size_t chunk_idx = 0; chunk_idx < law.chunks.size(); ++chunk_idx) {
    const ChunkStats& chunk = law.chunks[chunk_idx];
    law.has_nan |= chunk.has_nan;
    merge_stats(law.stats,
                {chunk.max, chunk.sum, chunk.exponent, static_cast<std::int64_t>(chunk_idx)});
  }
  law.cut = {};
  law.sum = law.stats.sum;
  if (law.stats.has_mass()) {
    law.stats.argmax = kernels().find_first(law.row, law.stats.argmax, law.stats.max);
  }
}

}  // namespace

void scan_max(const RowView& row, Law& law) {
  law.row = row;
  law.chunks.resize(num_chunks(row.size));
  const Kernels& kernel = kernels();
  for_each_chunk(num_chunks(row.size), [&](std::int64_t chunk_idx) {
    law.chunks[chunk_idx] = kernel.chunk_max(row, chunk_idx);
  });
  merge_chunks(law);
}

void scan_softmax(const RowView& row, float temperature, Law& law) {
  law.row = row;
  law.scale = exponent_scale(temperature);
  law.chunks.resize(num_chunks(row.size));
  const Kernels& kernel = kernels();
  const float scale = law.scale;
  // Close enough for any chunk of an ordinary row; others notice and take their own.
  const double exponent = exponent_of(kernel.chunk_max(row, 0).max, scale);
  const float reference = static_cast<float>(std::nearbyint(exponent));
  for_each_chunk(num_chunks(row.size), [&](std::int64_t chunk_idx) {
    law.chunks[chunk_idx] = kernel.chunk_softmax(row, chunk_idx, scale, reference);
  });
  merge_chunks(law);
}

void scan_probs(const RowView& row, Law& law) {
  law.row = row;
  law.scale = kProbabilityRow;
  law.chunks.resize(num_chunks(row.size));
  for_each_chunk(num_chunks(row.size), [&](std::int64_t chunk_idx) {
    alignas(64) float weights[kChunk], rest[kChunk];
    ChunkStats chunk = kernels().chunk_max(row, chunk_idx);
    kernels().load_probs(row, chunk_idx, weights);
    // What is left of the weights when nothing is taken away: their sum.
    chunk.sum = kernels().chunk_residual(weights, kNothing, -1, rest);
    if (!(chunk.max > 0.0f)) chunk.max = kNegInf;
    if (chunk.max == kPosInf) chunk.sum = 0.0;
    chunk.exponent = 0.0;
    law.chunks[chunk_idx] = chunk;
  });
  merge_chunks(law);
}

float second_max(const Law& law) {
  const std::int64_t argmax = law.stats.argmax, owner = argmax / kChunk;
  float second = kNegInf;
  for (std::int64_t c = 0; c < num_chunks(law.row.size); ++c) {
    if (c != owner) second = std::max(second, law.chunks[c].max);
  }
  float maxima[kBlocksPerChunk];
  kernels().block_max(law.row, owner, maxima);
  for (std::int64_t block = 0; block < kBlocksPerChunk; ++block) {
    if (block != argmax % kChunk / kBlock) second = std::max(second, maxima[block]);
  }
  const std::int64_t begin = argmax / kBlock * kBlock;
  const std::int64_t end = std::min(begin + kBlock, law.row.size);
  for (std::int64_t id = begin; id < end; ++id) {
    if (id != argmax) second = std::max(second, logit_at(law.row, id));
  }
  return second;
}

void apply_filters(const Filters& filters, Law& law) {
  law.cut = select_cut(law, filters);
  if (law.cut.keeps_all()) return;
  const Cut cut = {law.cut.logit, law.cut.last_id};
  for_each_chunk(num_chunks(law.row.size), [&](std::int64_t chunk_idx) {
    alignas(64) float weights[kChunk];
    ChunkStats& chunk = law.chunks[chunk_idx];
    chunk.sum = 0.0;
    if (chunk.max < cut.logit) return;
    chunk.exponent = exponent_of(chunk.max, law.scale);
    chunk.sum =
        kernels().chunk_weights(law.row, chunk_idx, chunk.max, law.scale, cut, 1.0f, weights);
  });
  law.sum = 0.0;
  for (std::int64_t c = 0; c < num_chunks(law.row.size); ++c) law.sum += law.chunk_mass(c);
}

double Law::chunk_mass(std::int64_t chunk_idx) const {
  const ChunkStats& chunk = chunks[chunk_idx];
  return chunk.sum > 0.0 ? chunk.sum * rescale(chunk.exponent, stats.exponent) : 0.0;
}

double Law::probability_of(std::int64_t token_id) const {
  if (!has_mass()) return 0.0;
  if (is_one_hot()) return token_id == stats.argmax ? 1.0 : 0.0;
  const float logit = logit_at(row, token_id);
  return cut.keeps(logit, token_id) ? probability(logit, scale, sum, stats.exponent) : 0.0;
}

float Law::log_probability_of(std::int64_t token_id) const {
  if (!has_mass()) return kNegInf;
  if (is_one_hot()) return token_id == stats.argmax ? 0.0f : kNegInf;
  const float logit = logit_at(row, token_id);
  if (!cut.keeps(logit, token_id)) return kNegInf;
  return static_cast<float>(log_probability(logit, scale, sum, stats.exponent));
}

void Law::chunk_probs(std::int64_t chunk_idx, float* probs) const {
  std::fill(probs, probs + kChunk, 0.0f);
  if (!has_mass()) return;
  if (holds_probabilities(scale) && !is_one_hot()) {
    kernels().load_probs(row, chunk_idx, probs);
    return;
  }
  if (is_one_hot()) {
    if (stats.argmax / kChunk == chunk_idx) probs[stats.argmax % kChunk] = 1.0f;
    return;
  }
  const ChunkStats& chunk = chunks[chunk_idx];
  if (!(chunk.sum > 0.0)) return;
  const double factor = std::exp2(exponent_of(chunk.max, scale) - stats.exponent) / sum;
  kernels().chunk_weights(row, chunk_idx, chunk.max, scale, {cut.logit, cut.last_id},
                          static_cast<float>(factor), probs);
}

std::int64_t draw(const Law& law, float uniform, const std::int64_t* excluded, int num_excluded) {
  if (law.is_one_hot()) {
    const std::int64_t* const end = excluded + num_excluded;
    return std::find(excluded, end, law.stats.argmax) == end ? law.stats.argmax : -1;
  }
  alignas(64) float weights[kChunk];
  // Weights relative to the chunk's maximum, without the excluded; returns their common factor.
  const auto load_chunk = [&](std::int64_t chunk_idx) {
    const float max = law.chunks[chunk_idx].max;
    if (holds_probabilities(law.scale)) {
      kernels().load_probs(law.row, chunk_idx, weights);
    } else {
      kernels().chunk_weights(law.row, chunk_idx, max, law.scale, {law.cut.logit, law.cut.last_id},
                              1.0f, weights);
    }
    for (int i = 0; i < num_excluded; ++i) {
      if (excluded[i] / kChunk == chunk_idx) weights[excluded[i] % kChunk] = 0.0f;
    }
    return std::exp2(exponent_of(max, law.scale) - law.stats.exponent);
  };
  const std::int64_t count = num_chunks(law.row.size);
  thread_local std::vector<double> mass;
  mass.resize(count);
  InverseCdf walk;
  for (std::int64_t c = 0; c < count; ++c) {
    mass[c] = law.chunk_mass(c);
    bool touched = false;
    for (int i = 0; i < num_excluded; ++i) touched |= excluded[i] / kChunk == c;
    if (touched && mass[c] > 0.0) {
      // Summed anew: subtracting would leave rounding noise where nothing is left.
      const double factor = load_chunk(c);
      double rest = 0.0;
      for (const float weight : weights) rest += weight;
      mass[c] = rest * factor;
    }
    walk.target += mass[c];
  }
  walk.target *= static_cast<double>(uniform);
  return draw_from_chunks(walk, mass, law.row.size, weights, load_chunk);
}

}  // namespace via::cpu
