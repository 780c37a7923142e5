// SPDX-License-Identifier: Apache-2.0
// Ratios and the three-way route (docs/design.md section 2).
//   r(v) = s(v) / max s = exp((l_v - l_max)/T);  T = 1 when decoding greedily
//   accept if r >= tau_accept; regenerate if tau_escalate <= r < tau_accept; else escalate.
// Computed in float64; stored, and compared with the thresholds, as float32, so that the stored
// ratio explains the tier.
#pragma once

#include <cmath>
#include <cstdint>

#include "core/macros.h"
#include "core/softmax.h"
#include "via/types.h"

namespace via {
VIA_CORE_BEGIN

struct RouteThresholds {
  float accept = 0.7f;
  float escalate = 0.5f;
  float draft = 0.0f;  // nodes drafted with at least this probability are accepted
  bool use_draft = false;
};

// NaN compares false, so it is refused everywhere. Values above 1 are legal: never / always.
VIA_HD bool thresholds_are_valid(const RouteThresholds& tau) {
  return tau.accept >= 0.0f && tau.escalate >= 0.0f && tau.escalate <= tau.accept &&
         (!tau.use_draft || tau.draft >= 0.0f);
}

// The temperature under which ratios are taken.
VIA_HD float ratio_temperature(float temperature) {
  return temperature > 0.0f ? temperature : 1.0f;
}

// Ratio of a token against its row. At a maximum of +inf only the first +inf has mass.
VIA_HD double draft_ratio(float logit, std::int64_t token_id, float max, std::int64_t argmax,
                          float temperature) {
  if (max == kNegInf) return 0.0;
  if (max == kPosInf) return token_id == argmax ? 1.0 : 0.0;
  if (!(logit > kNegInf)) return 0.0;
  return exp((static_cast<double>(logit) - static_cast<double>(max)) /
             static_cast<double>(temperature));
}

// A node of ratio 0 is never accepted, neither by a threshold of 0 nor by the draft gate.
VIA_HD Tier route_tier(float ratio, double draft_probability, const RouteThresholds& tau) {
  const bool gate = tau.use_draft && draft_probability >= static_cast<double>(tau.draft);
  if (ratio > 0.0f && (gate || ratio >= tau.accept)) return kTierAccept;
  return ratio >= tau.escalate ? kTierRegenerate : kTierEscalate;
}

// A leaf, or a step without nodes, emits the slim verifier's bonus token only while that verifier
// can be trusted at all: thresholds above 1 mean the full model everywhere.
VIA_HD bool bonus_is_allowed(const RouteThresholds& tau) { return tau.accept <= 1.0f; }

// The walk's candidate: the child with the largest ratio, the lowest node on ties. Children are
// offered in node order.
struct RouteCandidate {
  int node_idx = -1;
  double ratio = -1.0;

  VIA_HD void offer(int child_idx, double child_ratio) {
    if (child_ratio > ratio) {
      node_idx = child_idx;
      ratio = child_ratio;
    }
  }
};

VIA_CORE_END
}  // namespace via
