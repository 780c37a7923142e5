// SPDX-License-Identifier: Apache-2.0
// The calibrated router (docs/design.md section 12): tiers by predicted disagreement with the full
// model instead of by thresholds.
//   z_m = bias_m + sum_k weight_mk feature_k;  a decision passes if z_m <= limit_m
// Numerics: features float32, rounded from float64. A product of two float32 is exact in float64,
// so a fused sum equals one that is not, and every back end finds the same z of the same features.
#pragma once

#include <cstdint>

#include "core/macros.h"
#include "core/softmax.h"
#include "via/types.h"

namespace via {
VIA_CORE_BEGIN

// Logarithms are cut at -kFeatureLimit, margins at kFeatureLimit.
inline constexpr float kFeatureLimit = 20.0f;

// The models, in packed order.
enum class RouterModel : int { kDraft = 0, kSlim = 1, kBonus = 2 };

// What the models see of a row's distribution s. No default: it lies in cleared memory.
struct RowFeatures {
  float log_max;  // ln max s
  float margin;   // ln of the largest over the second largest of s
};

// In the order of the weights.
struct RouterFeatures {
  float value[kRouterFeatures];
};

// NaN counts as the lower end.
VIA_HD float cut_log(double value) {
  if (!(value > -static_cast<double>(kFeatureLimit))) return -kFeatureLimit;
  return value < 0.0 ? static_cast<float>(value) : 0.0f;
}
VIA_HD float cut_margin(double value) {
  if (!(value > 0.0)) return 0.0f;
  return value < static_cast<double>(kFeatureLimit) ? static_cast<float>(value) : kFeatureLimit;
}

// From a row's maximum, its second largest logit (equal to the maximum where two tokens share it)
// and ln of the largest probability; the last two count only if the maximum is finite.
VIA_HD RowFeatures row_features(float max, float second, double log_max, float temperature) {
  if (max == kNegInf) return {-kFeatureLimit, 0.0f};
  if (max == kPosInf) return {0.0f, kFeatureLimit};
  return {cut_log(log_max), cut_margin((static_cast<double>(max) - static_cast<double>(second)) /
                                       static_cast<double>(temperature))};
}

// ln of the ratio of a token against its row, as core/route.h has it.
VIA_HD float log_ratio(float logit, std::int64_t token_id, float max, std::int64_t argmax,
                       float temperature) {
  if (max == kNegInf) return -kFeatureLimit;
  if (max == kPosInf) return token_id == argmax ? 0.0f : -kFeatureLimit;
  return cut_log((static_cast<double>(logit) - static_cast<double>(max)) /
                 static_cast<double>(temperature));
}

// `scores`: ln p(v) and ln p1 - ln p2 of the drafter, or null.
VIA_HD RouterFeatures node_features(float ratio_log, const RowFeatures& row, const float* scores,
                                    int depth, bool is_first_choice) {
  return {{ratio_log, row.log_max, row.margin, scores != nullptr ? cut_log(scores[0]) : 0.0f,
           scores != nullptr ? cut_margin(scores[1]) : 0.0f, static_cast<float>(depth),
           is_first_choice ? 1.0f : 0.0f}};
}

// Where there is no candidate; `depth` is that of a child.
VIA_HD RouterFeatures bonus_features(const RowFeatures& row, int depth) {
  return {{0.0f, row.log_max, row.margin, 0.0f, 0.0f, static_cast<float>(depth), 0.0f}};
}

// The packed router of one request; null = thresholds decide.
struct RowRouter {
  const float* packed = nullptr;  // [kRouterSize]

  VIA_HD bool is_given() const { return packed != nullptr; }
  VIA_HD float limit(RouterModel model) const {
    return packed[3 * kRouterWeights + static_cast<int>(model)];
  }
  // Weights are finite, limits no NaN.
  VIA_HD bool holds_numbers() const {
    bool valid = true;
    for (int i = 0; i < kRouterSize; ++i) {
      const bool is_number = packed[i] == packed[i];
      const bool is_finite = packed[i] > kNegInf && packed[i] < kPosInf;
      valid &= i < 3 * kRouterWeights ? is_finite : is_number;
    }
    return valid;
  }
  VIA_HD bool passes(RouterModel model, const RouterFeatures& features) const {
    const float* const weights = packed + static_cast<int>(model) * kRouterWeights;
    double log_odds = static_cast<double>(weights[0]);
    for (int k = 0; k < kRouterFeatures; ++k) {
      log_odds += static_cast<double>(weights[1 + k]) * static_cast<double>(features.value[k]);
    }
    return log_odds <= static_cast<double>(limit(model));
  }
  // False if no bonus token can pass: a leaf escalates without being read.
  VIA_HD bool may_give_bonus() const { return limit(RouterModel::kBonus) > kNegInf; }
};

VIA_HD RowRouter read_router(const RouterParam& param, int batch_idx) {
  return {param.data != nullptr ? param.data + batch_idx * param.stride : param.values};
}

// A node of ratio 0 is never accepted.
VIA_HD Tier routed_tier(const RowRouter& router, float ratio, const RouterFeatures& features) {
  if (ratio > 0.0f && router.passes(RouterModel::kDraft, features)) return kTierAccept;
  return router.passes(RouterModel::kSlim, features) ? kTierRegenerate : kTierEscalate;
}

VIA_CORE_END
}  // namespace via
