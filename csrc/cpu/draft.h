// SPDX-License-Identifier: Apache-2.0
// The distribution a node was drawn from (p of docs/design.md section 4): given as probabilities or
// as logits, over the target's vocabulary or a reduced one with an id map.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/law.h"
#include "via/types.h"

namespace via::cpu {

struct DraftLaw {
  RowView row;  // V_draft columns
  bool is_logits = false;
  const TensorView* map = nullptr;  // [V_draft] target ids, or null
  std::int64_t vocab_size = 0;      // of the target
  Law law;                          // of the logits, if they are logits
  bool has_nan = false;             // met so far
  bool has_bad_id = false;          // map entries outside the vocabulary, met so far
  std::vector<float> dense;         // with a map: p by target id, once built

  // Starts a node; logits are scanned here, probabilities when they are used.
  void open(const RowView& new_row, bool logits, const TensorView* new_map, std::int64_t size);
  // p of one target id; entries of the map on one id add up.
  double probability_of(std::int64_t token_id);
  // Prepares chunk_probs.
  void build();
  // Probabilities of one chunk of target ids, kChunk float32 values. Returns true if a NaN was met.
  bool chunk_probs(std::int64_t chunk_idx, float* probs) const;

 private:
  double column(std::int64_t idx);
  bool column_chunk(std::int64_t chunk_idx, float* probs) const;
};

// max(r - p, 0) after the rejections at one row, unnormalised, in two buffers: a residual without
// mass leaves the one before it in use.
class Residual {
 public:
  void reset() { rounds_ = 0; }
  bool started() const { return rounds_ > 0; }
  // Probability of a token under the residual; before the first rejection, of the law.
  double probability_of(const Law& law, std::int64_t token_id) const;
  // Takes p out after the token drawn from it was rejected.
  void reject(const Law& law, DraftLaw& draft, std::int64_t token_id);
  // The final draw; needs started().
  std::int64_t draw(std::int64_t vocab_size, float uniform) const;

 private:
  int rounds_ = 0;
  double sum_ = 0.0;
  std::vector<float> weights_, next_;
  std::vector<double> mass_, next_mass_;
};

}  // namespace via::cpu
