// SPDX-License-Identifier: Apache-2.0
// Sampling filters, applied after the grammar mask and the temperature, in the order
//   top-k  keeps every token whose logit is at least the k-th largest (all ties stay);
//   top-p  keeps the smallest set, by probability descending then id ascending, such that the mass
//          before each kept token is < top_p of what top-k left;
//   min-p  keeps tokens with probability >= min_p * the largest.
// Probability falls with the logit, so each filter, and all together, is one cut in the order
// (logit descending, id ascending): the last kept place. The first maximum is always kept.
#pragma once

#include <cmath>
#include <cstdint>

#include "core/macros.h"
#include "core/softmax.h"

namespace via {
VIA_CORE_BEGIN

struct Filters {
  float temperature = 0.0f;
  std::int32_t top_k = 0;
  float top_p = 1.0f;
  float min_p = 0.0f;
};

VIA_HD bool filters_are_valid(const Filters& filters) {
  return filters.temperature >= 0.0f && filters.temperature < kPosInf && filters.top_k >= 0 &&
         filters.top_p > 0.0f && filters.top_p <= 1.0f && filters.min_p >= 0.0f &&
         filters.min_p <= 1.0f;
}

// Last kept place; by default everything stays.
struct FilterCut {
  float logit = kNegInf;
  std::int32_t last_id = 0x7fffffff;  // among the tokens with exactly this logit

  VIA_HD bool keeps(float value, std::int64_t token_id) const {
    return value > logit || (value == logit && token_id <= last_id);
  }
  VIA_HD bool keeps_all() const { return logit == kNegInf; }
};

// Both cuts at once: the one that comes first in the order.
VIA_HD FilterCut stricter_cut(FilterCut a, FilterCut b) {
  if (a.logit != b.logit) return a.logit > b.logit ? a : b;
  return a.last_id < b.last_id ? a : b;
}

// True if a token before which `mass` is passed belongs to the nucleus of the total.
VIA_HD bool top_p_keeps(double mass_before, float top_p, double total) {
  return mass_before < static_cast<double>(top_p) * total;
}

// min-p as a cut: l >= max + T log(min_p), in float64, then the smallest float that satisfies it.
VIA_HD FilterCut min_p_cut(float min_p, float max, float temperature) {
  if (!(min_p > 0.0f)) return {};
  if (min_p >= 1.0f) return {max, 0x7fffffff};
  const double bound =
      static_cast<double>(max) + static_cast<double>(temperature) * log(static_cast<double>(min_p));
  float logit = static_cast<float>(bound);
  if (static_cast<double>(logit) < bound) logit = nextafterf(logit, kPosInf);
  return {logit < max ? logit : max, 0x7fffffff};
}

// No token outside the nucleus weighs more than the whole tail: below this weight (relative to the
// row maximum) the row's `count` tokens together cannot reach into the top-p set.
VIA_HD double top_p_floor(float top_p, double total, std::int64_t count) {
  return (1.0 - static_cast<double>(top_p)) * total / static_cast<double>(count);
}

VIA_CORE_END
}  // namespace via
