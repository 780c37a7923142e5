// SPDX-License-Identifier: Apache-2.0
// Rule route (docs/design.md section 3, step 3): ratios and tiers of every node, and the step
// that follows the child with the largest ratio. Rows on the walk are scanned for their sum as well
// (log-probabilities, draws); rows off the walk for the maximum only. With a router (section 12)
// every row is scanned for its sum, and once more around its maximum.
#include "cpu/view.h"
#include "cpu/walk.h"

namespace via::cpu {

// A leaf whose bonus token would not be trusted escalates without being read.
bool Walk::stops_at_leaf() const {
  return !request_.may_give_bonus() && !request_.has_child(row_idx_);
}

bool Walk::step_route() {
  const RouteCandidate best = score_children(row_idx_);
  Tier tier = kTierRegenerate;  // a leaf gives the bonus token
  if (best.node_idx >= 0) {
    tier = static_cast<Tier>(params_.out.tiers[first_node_ + best.node_idx]);
  } else if (request_.router.is_given()) {
    const RouterFeatures features =
        bonus_features(features_of_row(), request_.child_depth(row_idx_));
    if (!request_.router.passes(RouterModel::kBonus, features)) tier = kTierEscalate;
  }
  if (tier == kTierAccept) {
    accept_node(best.node_idx);
    return true;
  }
  if (tier == kTierEscalate) {
    escalate();
  } else if (request_.filters.temperature > 0.0f) {
    emit(draw(law_, request_.final_uniform(), nullptr, 0));
  } else {
    emit(law_.stats.argmax);
  }
  return false;
}

// Ratios and tiers of the children of the row in law_; returns the walk's candidate among them.
RouteCandidate Walk::score_children(int row_idx) {
  RouteCandidate best;
  const float temperature = ratio_temperature(request_.filters.temperature);
  RowFeatures row = {};
  int depth = 0;
  if (request_.router.is_given() && request_.has_child(row_idx)) {
    row = features_of_row();
    depth = request_.child_depth(row_idx);
  }
  for (int node = request_.next_child(row_idx, -1); node >= 0;
       node = request_.next_child(row_idx, node)) {
    const std::int64_t token = request_.token(node);
    const double ratio = draft_ratio(logit_at(law_.row, token), token, law_.stats.max,
                                     law_.stats.argmax, temperature);
    const float stored = static_cast<float>(ratio);
    params_.out.ratios[first_node_ + node] = stored;
    params_.out.tiers[first_node_ + node] =
        static_cast<std::uint8_t>(tier_of_node(node, stored, row, depth));
    best.offer(node, ratio);
  }
  if (row_idx == 0) {
    is_root_scored_ = true;
  } else {
    scored_.add(row_idx - 1);
  }
  return best;
}

// Of the row in law_, before filters.
RowFeatures Walk::features_of_row() const {
  const SoftmaxStats& stats = law_.stats;
  if (!stats.has_mass() || stats.is_one_hot()) return row_features(stats.max, kNegInf, 0.0, 1.0f);
  return row_features(stats.max, second_max(law_),
                      log_probability(stats.max, law_.scale, stats.sum, stats.exponent),
                      ratio_temperature(request_.filters.temperature));
}

// `row` and `depth`, of the node, count with a router only.
Tier Walk::tier_of_node(int node_idx, float ratio, const RowFeatures& row, int depth) {
  if (!request_.router.is_given()) {
    const double drawn = request_.tau.use_draft ? draft_probability_of(node_idx) : 0.0;
    return route_tier(ratio, drawn, request_.tau);
  }
  const std::int64_t token = request_.token(node_idx);
  const float ratio_log =
      log_ratio(logit_at(law_.row, token), token, law_.stats.max, law_.stats.argmax,
                ratio_temperature(request_.filters.temperature));
  return routed_tier(request_.router, ratio,
                     node_features(ratio_log, row, request_.draft_scores(node_idx), depth,
                                   token == law_.stats.argmax));
}

void Walk::score_other_rows() {
  for (int row = 0; row <= request_.num_nodes(); ++row) {
    const bool is_scored = row == 0 ? is_root_scored_ : scored_.has(row - 1);
    if (is_scored || !request_.has_child(row)) continue;
    if (request_.router.is_given()) {
      scan_softmax(request_.logits_row(row), ratio_temperature(request_.filters.temperature), law_);
    } else {
      scan_max(request_.logits_row(row), law_);
    }
    if (law_.has_nan) request_.status |= kStatusNan;
    score_children(row);
  }
}

double Walk::draft_probability_of(int node_idx) {
  request_.open_draft(node_idx, draft_);
  const double probability = draft_.probability_of(request_.token(node_idx));
  close_draft();
  return probability;
}

}  // namespace via::cpu
