// SPDX-License-Identifier: Apache-2.0
// What a draw is made from after rejections (docs/design.md section 4).
//   with a draft distribution: r <- norm(max(r - p, 0)) after each rejected sibling, r = q at
//   first; one-hot drafts: q with the rejected children removed.
// The final draw is the smallest id t with cumsum(w)[t] > u * sum(w). A residual without mass (only
// rounding makes one) is not used: the last one with mass is kept.
#pragma once

#include <cstdint>

#include "core/macros.h"

namespace via {
VIA_CORE_BEGIN

// One entry of max(r - p, 0); F is float or a vector of floats. NaN and negative p count as 0.
template <typename F>
VIA_HD F residual_weight(F r, F p) {
  const F zero = {};
  const F taken = p > zero ? p : zero;
  const F rest = r - taken;
  return rest > zero ? rest : zero;
}

VIA_HD bool residual_has_mass(double sum) { return sum > 0.0; }

// The inverse-CDF walk over ids in ascending order, in as many parts as the caller likes.
struct InverseCdf {
  double target = 0.0;     // u * sum of all weights
  double sum = 0.0;        // weights passed so far
  std::int64_t last = -1;  // last id with mass: the answer if rounding leaves a gap at the end

  VIA_HD bool step(std::int64_t token_id, double weight) {
    if (weight > 0.0) last = token_id;
    sum += weight;
    return weight > 0.0 && sum > target;
  }
};

VIA_CORE_END
}  // namespace via
