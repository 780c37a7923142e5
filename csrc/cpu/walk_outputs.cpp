// SPDX-License-Identifier: Apache-2.0
// What a walk writes. Every element of every output is written: first as if nothing happened, then
// decision by decision; a resumed row starts from what the earlier call decided.
#include <algorithm>

#include "cpu/walk.h"

namespace via::cpu {

void Walk::clear_outputs() {
  const std::int64_t nodes = params_.num_nodes;
  const Verification& out = params_.out;
  std::fill_n(out.path + first_node_, nodes, -1);
  std::fill_n(out.logprobs + first_node_ + batch_idx_, nodes + 1, 0.0f);
  if (out.ratios != nullptr) std::fill_n(out.ratios + first_node_, nodes, 0.0f);
  if (out.tiers != nullptr) {
    std::fill_n(out.tiers + first_node_, nodes, static_cast<std::uint8_t>(kTierNone));
  }
  out.num_accepted[batch_idx_] = 0;
  out.next_token[batch_idx_] = -1;
  out.next_row[batch_idx_] = 0;
  out.escalate[batch_idx_] = false;
  out.status[batch_idx_] = 0;
}

// Copies what `resume` decided; false if the row is finished. A path that is none of this tree
// counts as a malformed tree: the row starts again at the root, without nodes.
bool Walk::read_resume() {
  const Verification& from = *params_.resume;
  const Verification& out = params_.out;
  const std::int64_t nodes = params_.num_nodes, first_logprob = first_node_ + batch_idx_;
  out.status[batch_idx_] = from.status[batch_idx_];
  if (out.ratios != nullptr && from.ratios != nullptr) {
    std::copy_n(from.ratios + first_node_, nodes, out.ratios + first_node_);
  }
  if (out.tiers != nullptr && from.tiers != nullptr) {
    std::copy_n(from.tiers + first_node_, nodes, out.tiers + first_node_);
  }
  if (!from.escalate[batch_idx_]) {
    std::copy_n(from.path + first_node_, nodes, out.path + first_node_);
    std::copy_n(from.logprobs + first_logprob, nodes + 1, out.logprobs + first_logprob);
    out.num_accepted[batch_idx_] = from.num_accepted[batch_idx_];
    out.next_token[batch_idx_] = from.next_token[batch_idx_];
    out.next_row[batch_idx_] = from.next_row[batch_idx_];
    return false;
  }
  const std::int32_t accepted = from.num_accepted[batch_idx_];
  bool is_path = accepted >= 0 && accepted <= request_.num_nodes();
  int last = -1;
  for (int i = 0; is_path && i < accepted; ++i) {
    const int node = from.path[first_node_ + i];
    is_path = request_.is_live_child(node, last);
    last = node;
  }
  if (!is_path) {
    request_.status |= kStatusTree;
    request_.drop_nodes();
    return true;
  }
  std::copy_n(from.path + first_node_, accepted, out.path + first_node_);
  std::copy_n(from.logprobs + first_logprob, accepted, out.logprobs + first_logprob);
  num_accepted_ = accepted;
  row_idx_ = row_of_node(last);
  return true;
}

void Walk::accept_node(int node_idx) {
  params_.out.path[first_node_ + num_accepted_] = node_idx;
  params_.out.logprobs[first_node_ + batch_idx_ + num_accepted_] =
      law_.log_probability_of(request_.token(node_idx));
  ++num_accepted_;
  row_idx_ = row_of_node(node_idx);
}

void Walk::emit(std::int64_t token_id) {
  params_.out.next_token[batch_idx_] = token_id;
  params_.out.logprobs[first_node_ + batch_idx_ + num_accepted_] =
      law_.log_probability_of(token_id);
}

void Walk::escalate() { params_.out.escalate[batch_idx_] = true; }

void Walk::finish() {
  params_.out.num_accepted[batch_idx_] = num_accepted_;
  params_.out.next_row[batch_idx_] = row_idx_;
  params_.out.status[batch_idx_] |= request_.status;
  if (params_.coins == nullptr) return;
  for (int column = 0; column <= params_.num_nodes; ++column) {
    params_.coins[first_node_ + batch_idx_ + column] = request_.coin(column);
  }
}

}  // namespace via::cpu
