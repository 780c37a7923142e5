// SPDX-License-Identifier: Apache-2.0
// Draft distributions and residuals (docs/design.md section 4):
//   r <- norm(max(r - p, 0)) after each rejected sibling, r = q at first.
// A rejection reads the verifier's row and the draft's row once, in parts that idle threads may
// take, and writes r as float32 in the cache; the draw then walks one chunk of it.
// Numerics: q, p and r float32 per token, masses float64 per chunk.
#include "cpu/draft.h"

#include <algorithm>
#include <atomic>
#include <cmath>

#include "core/residual.h"
#include "cpu/chunk_draw.h"
#include "cpu/thread_pool.h"
#include "cpu/view.h"

namespace via::cpu {
namespace {

constexpr std::int64_t kPartChunks = 4;

}  // namespace

void DraftLaw::open(const RowView& new_row, bool logits, const TensorView* new_map,
                    std::int64_t size) {
  row = new_row;
  is_logits = logits;
  map = new_map;
  vocab_size = size;
  has_nan = false;
  has_bad_id = false;
  if (!is_logits) return;
  scan_softmax(row, 1.0f, law);
  has_nan = law.has_nan;
}

double DraftLaw::column(std::int64_t idx) {
  if (is_logits) return law.probability_of(idx);
  const float value = raw_value(row, idx);
  has_nan |= value != value;
  return value > 0.0f ? static_cast<double>(value) : 0.0;
}

double DraftLaw::probability_of(std::int64_t token_id) {
  if (map == nullptr) return token_id < row.size ? column(token_id) : 0.0;
  double sum = 0.0;
  for (std::int64_t idx = 0; idx < row.size; ++idx) {
    const std::int64_t target = read_int(*map, idx);
    has_bad_id |= target < 0 || target >= vocab_size;
    if (target == token_id) sum += column(idx);
  }
  return sum;
}

bool DraftLaw::column_chunk(std::int64_t chunk_idx, float* probs) const {
  if (!is_logits) return kernels().load_probs(row, chunk_idx, probs);
  law.chunk_probs(chunk_idx, probs);
  return false;
}

void DraftLaw::build() {
  if (map == nullptr) return;
  dense.assign(static_cast<std::size_t>(num_chunks(vocab_size) * kChunk), 0.0f);
  alignas(64) float probs[kChunk];
  for (std::int64_t c = 0; c < num_chunks(row.size); ++c) {
    has_nan |= column_chunk(c, probs);
    const std::int64_t count = std::min(kChunk, row.size - c * kChunk);
    for (std::int64_t i = 0; i < count; ++i) {
      const std::int64_t target = read_int(*map, c * kChunk + i);
      if (target >= 0 && target < vocab_size) dense[target] += probs[i];
    }
  }
}

bool DraftLaw::chunk_probs(std::int64_t chunk_idx, float* probs) const {
  if (map == nullptr) return column_chunk(chunk_idx, probs);
  std::copy_n(dense.data() + chunk_idx * kChunk, kChunk, probs);
  return false;
}

double Residual::probability_of(const Law& law, std::int64_t token_id) const {
  if (rounds_ == 0) return law.probability_of(token_id);
  return static_cast<double>(weights_[token_id]) / sum_;
}

void Residual::reject(const Law& law, DraftLaw& draft, std::int64_t token_id) {
  draft.build();
  const std::int64_t count = num_chunks(law.row.size);
  next_.resize(static_cast<std::size_t>(count * kChunk));
  next_mass_.resize(static_cast<std::size_t>(count));
  const float normaliser = rounds_ > 0 ? static_cast<float>(1.0 / sum_) : 1.0f;
  std::atomic<bool> has_nan{false};
  const std::int64_t parts = (count + kPartChunks - 1) / kPartChunks;
  for_each_part(static_cast<int>(parts), [&](int part) {
    alignas(64) float r[kChunk], p[kChunk];
    const std::int64_t end = std::min((part + 1) * kPartChunks, count);
    for (std::int64_t c = part * kPartChunks; c < end; ++c) {
      if (rounds_ == 0) {
        law.chunk_probs(c, r);
      } else {
        const float* const weights = weights_.data() + c * kChunk;
        for (std::int64_t i = 0; i < kChunk; ++i) r[i] = weights[i] * normaliser;
      }
      if (draft.chunk_probs(c, p)) has_nan.store(true, std::memory_order_relaxed);
      next_mass_[c] =
          kernels().chunk_residual(r, p, token_id - c * kChunk, next_.data() + c * kChunk);
    }
  });
  draft.has_nan |= has_nan.load();
  double sum = 0.0;
  for (const double mass : next_mass_) sum += mass;
  if (!residual_has_mass(sum)) return;
  weights_.swap(next_);
  mass_.swap(next_mass_);
  sum_ = sum;
  ++rounds_;
}

std::int64_t Residual::draw(std::int64_t vocab_size, float uniform) const {
  alignas(64) float weights[kChunk];
  InverseCdf walk;
  walk.target = static_cast<double>(uniform) * sum_;
  return draw_from_chunks(walk, mass_, vocab_size, weights, [&](std::int64_t chunk_idx) {
    std::copy_n(weights_.data() + chunk_idx * kChunk, kChunk, weights);
    return 1.0;
  });
}

}  // namespace via::cpu
