// SPDX-License-Identifier: Apache-2.0
// Online softmax statistics of a logits row: maximum, its lowest id, and the sum of
// exp(l / T) = 2^(l * scale), scale = log2(e)/T, kept as sum * 2^exponent so that any part of a row
// can have a scale of its own and parts merge by powers of two.
// Numerics: weights float32 (core/exp2.h), sums merged in float64; scalars that decide (a token's
// probability, log-probabilities) are float64 throughout, with the same float32 `scale`.
// NaN counts as -inf. A maximum of +inf makes the row one-hot at the first +inf.
#pragma once

#include <cmath>
#include <cstdint>

#include "core/macros.h"

namespace via {
VIA_CORE_BEGIN

inline constexpr float kNegInf = -__builtin_huge_valf();
inline constexpr float kPosInf = __builtin_huge_valf();

// Statistics of a part of a row.
struct SoftmaxStats {
  float max = kNegInf;
  double sum = 0.0;  // of 2^(l * scale - exponent); 0 while max is infinite
  double exponent = 0.0;
  std::int64_t argmax = -1;  // lowest id that holds `max`; -1 while max is -inf

  VIA_HD bool has_mass() const { return max > kNegInf; }
  VIA_HD bool is_one_hot() const { return max == kPosInf; }
};

// log2(e)/T, at most the largest float so that 0 * scale stays 0 however small T is.
VIA_HD float exponent_scale(float temperature) {
  const double scale = 1.4426950408889634 / static_cast<double>(temperature);
  return scale < 3.4028234663852886e38 ? static_cast<float>(scale) : 3.4028234663852886e38f;
}

// In place of a scale: the row holds probabilities, not logits. A weight is then the value itself,
// every exponent is 0, and what is not positive has no mass.
inline constexpr float kProbabilityRow = 0.0f;
VIA_HD bool holds_probabilities(float scale) { return scale == kProbabilityRow; }

// Exponent of a logit; the product of two float32 is exact in float64.
VIA_HD double exponent_of(float logit, float scale) {
  return static_cast<double>(logit) * static_cast<double>(scale);
}

// 2^(exponent - reference): parts of one row mostly share their exponent.
VIA_HD double rescale(double exponent, double reference) {
  return exponent == reference ? 1.0 : exp2(exponent - reference);
}

// Appends the statistics of a later part of the row. Ties keep the lower id.
VIA_HD void merge_stats(SoftmaxStats& into, const SoftmaxStats& next) {
  if (into.is_one_hot() || !next.has_mass()) return;
  if (next.is_one_hot() || !into.has_mass()) {
    into = next;
    return;
  }
  if (next.exponent > into.exponent) {
    into.sum = into.sum * rescale(into.exponent, next.exponent) + next.sum;
    into.exponent = next.exponent;
  } else {
    into.sum += next.sum * rescale(next.exponent, into.exponent);
  }
  if (next.max > into.max) {
    into.max = next.max;
    into.argmax = next.argmax;
  }
}

// Softmax probability of one token, given a sum of weights relative to 2^exponent.
VIA_HD double probability(float logit, float scale, double sum, double exponent) {
  if (!(logit > kNegInf)) return 0.0;
  if (holds_probabilities(scale)) return logit > 0.0f ? static_cast<double>(logit) : 0.0;
  return exp2(exponent_of(logit, scale) - exponent) / sum;
}

VIA_HD double log_probability(float logit, float scale, double sum, double exponent) {
  if (!(logit > kNegInf)) return static_cast<double>(kNegInf);
  if (holds_probabilities(scale)) {
    return logit > 0.0f ? log(static_cast<double>(logit)) : static_cast<double>(kNegInf);
  }
  return (exponent_of(logit, scale) - exponent) * 0.69314718055994531 - log(sum);
}

// Grammar mask: bit set = allowed. Rows without a mask pass null.
VIA_HD bool is_allowed(const std::uint32_t* allowed, std::int64_t token_id) {
  return allowed == nullptr || ((allowed[token_id >> 5] >> (token_id & 31)) & 1u) != 0;
}

VIA_CORE_END
}  // namespace via
