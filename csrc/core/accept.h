// SPDX-License-Identifier: Apache-2.0
// Lossless acceptance of one drafted token (docs/design.md section 4). q: the verifier's filtered
// distribution, p: the distribution the token was drawn from, u: a uniform in [0, 1).
// Decided in float64; strict comparisons, so a token with q = 0 is never accepted.
#pragma once

#include <cstdint>

#include "core/macros.h"

namespace via {
VIA_CORE_BEGIN

// Draft with a distribution: accept iff u * p(x) < q(x). A p that is no probability (negative, NaN)
// counts as 0.
VIA_HD bool accept_token(float uniform, double draft_probability, double probability) {
  const double p = draft_probability > 0.0 ? draft_probability : 0.0;
  return static_cast<double>(uniform) * p < probability;
}

// One-hot drafts: the children of a parent share one uniform; child c is accepted iff u < the sum
// of q over the distinct children up to and including c, and q(c) > 0. This is inverse-CDF sampling
// with the children first. Thresholds below 1 accept more, and are lossy: by a child's own q, or by
// a sum that counts for more.
struct OneHotWalk {
  float threshold_single = 1.0f;
  float threshold_acc = 1.0f;
  double covered = 0.0;

  VIA_HD bool accept(float uniform, double probability) {
    covered += probability;
    if (!(probability > 0.0)) return false;
    return static_cast<double>(uniform) < covered / static_cast<double>(threshold_acc) ||
           probability >= static_cast<double>(threshold_single);
  }
};

VIA_CORE_END
}  // namespace via
