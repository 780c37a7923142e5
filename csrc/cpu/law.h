// SPDX-License-Identifier: Apache-2.0
// The distribution of one logits row after mask, temperature and filters, held as per-chunk
// statistics: enough to give any token's probability, to draw, and to form residuals, reading the
// row again only where that is needed.
#pragma once

#include <cstdint>
#include <vector>

#include "core/filters.h"
#include "core/softmax.h"
#include "cpu/kernels.h"

namespace via::cpu {

struct Law {
  RowView row;
  float scale = 1.0f;  // log2(e) / T, or kProbabilityRow
  SoftmaxStats stats;  // of the row before filters
  FilterCut cut;       // what the filters keep
  double sum = 0.0;    // of the kept weights, relative to stats.exponent
  bool has_nan = false;
  std::vector<ChunkStats> chunks;  // max of all, sum of the kept, each with its exponent

  bool has_mass() const { return stats.has_mass(); }
  bool is_one_hot() const { return stats.is_one_hot(); }
  double probability_of(std::int64_t token_id) const;
  float log_probability_of(std::int64_t token_id) const;
  // Weight of a chunk relative to stats.exponent.
  double chunk_mass(std::int64_t chunk_idx) const;
  // Probabilities of one chunk, kChunk float32 values, 0 where nothing is kept.
  void chunk_probs(std::int64_t chunk_idx, float* probs) const;
};

// Maximum and its lowest id only. Reads the row once.
void scan_max(const RowView& row, Law& law);

// The whole unfiltered law at a temperature > 0. Reads the row once.
void scan_softmax(const RowView& row, float temperature, Law& law);

// The same of a row of probabilities, used as they stand. Reads the row once.
void scan_probs(const RowView& row, Law& law);

// The second largest logit of a scanned row with a finite maximum; equal to the maximum where two
// tokens share it, -inf where no other token has mass. Reads the maximum's chunk again.
float second_max(const Law& law);

// Applies top-k, top-p and min-p to a scanned law with a finite maximum.
void apply_filters(const Filters& filters, Law& law);

// Where the filters cut (cpu/select.cpp).
FilterCut select_cut(const Law& law, const Filters& filters);

// The smallest id with cumsum > uniform * sum, leaving out `excluded` ids (distinct, any order).
// -1 if nothing is left.
std::int64_t draw(const Law& law, float uniform, const std::int64_t* excluded, int num_excluded);

}  // namespace via::cpu
