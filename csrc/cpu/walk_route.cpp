// SPDX-License-Identifier: Apache-2.0
// Rule route (docs/design.md section 3, step 3): ratios and tiers of every node, and the step
// that follows the child with the largest ratio. Rows on the walk are scanned for their sum as well
// (log-probabilities, draws); rows off the walk for the maximum only.
#include "cpu/view.h"
#include "cpu/walk.h"

namespace via::cpu {

// A leaf whose bonus token would not be trusted escalates without being read.
bool Walk::stops_at_leaf() const {
  return !bonus_is_allowed(request_.tau) && !request_.has_child(row_idx_);
}

bool Walk::step_route() {
  const RouteCandidate best = score_children(row_idx_);
  Tier tier = kTierRegenerate;  // a leaf gives the bonus token
  if (best.node_idx >= 0) tier = static_cast<Tier>(params_.out.tiers[first_node_ + best.node_idx]);
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
  for (int node = request_.next_child(row_idx, -1); node >= 0;
       node = request_.next_child(row_idx, node)) {
    const std::int64_t token = request_.token(node);
    const double ratio = draft_ratio(logit_at(law_.row, token), token, law_.stats.max,
                                     law_.stats.argmax, temperature);
    const float stored = static_cast<float>(ratio);
    const double drawn = request_.tau.use_draft ? draft_probability_of(node) : 0.0;
    params_.out.ratios[first_node_ + node] = stored;
    params_.out.tiers[first_node_ + node] =
        static_cast<std::uint8_t>(route_tier(stored, drawn, request_.tau));
    best.offer(node, ratio);
  }
  if (row_idx == 0) {
    is_root_scored_ = true;
  } else {
    scored_.add(row_idx - 1);
  }
  return best;
}

void Walk::score_other_rows() {
  for (int row = 0; row <= request_.num_nodes(); ++row) {
    const bool is_scored = row == 0 ? is_root_scored_ : scored_.has(row - 1);
    if (is_scored || !request_.has_child(row)) continue;
    scan_max(request_.logits_row(row), law_);
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
