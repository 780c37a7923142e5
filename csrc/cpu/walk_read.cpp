// SPDX-License-Identifier: Apache-2.0
// What a walk reads: the parameters and the tree of its request, uniforms, rows of logits and draft
// distributions, and what an earlier call decided. Values are checked here, once, and reported as
// status bits.
#include <algorithm>

#include "core/accept.h"
#include "cpu/view.h"
#include "cpu/walk.h"

namespace via::cpu {
namespace {

struct Buffers {
  Law law;
  DraftLaw draft;
  Residual residual;
};

// Kept per thread, so that small calls allocate nothing.
Buffers& buffers() {
  thread_local Buffers kept;
  return kept;
}

}  // namespace

// Given uniforms win. The final draw is column N of them; from a seed it has a purpose of its own
// and column 0, so that padding a row to a wider batch changes nothing.
float Walk::uniform(int column, Purpose purpose) const {
  const TensorView& given = params_.uniform_samples;
  if (given.data != nullptr) {
    const float* const row = static_cast<const float*>(given.data) + batch_idx_ * given.stride[0];
    return clamp_uniform(row[purpose == kPurposeFinalDraw ? params_.num_nodes : column]);
  }
  if (params_.seed.data == nullptr || params_.position.data == nullptr) return 0.0f;
  return philox_uniform(read_int(params_.seed, batch_idx_ * params_.seed.stride[0]),
                        read_int(params_.position, batch_idx_ * params_.position.stride[0]),
                        static_cast<std::uint32_t>(column), purpose);
}

float Walk::final_uniform() const { return uniform(0, kPurposeFinalDraw); }

RowView Walk::logits_row(int row_idx) const {
  const TensorView& logits = params_.logits;
  RowView row = row_at(logits, batch_idx_ * logits.stride[0] + row_idx * logits.stride[1],
                       params_.vocab_size);
  const TensorView& allowed = params_.allowed;
  if (allowed.data != nullptr) {
    row.allowed = static_cast<const std::uint32_t*>(allowed.data) + batch_idx_ * allowed.stride[0] +
                  row_idx * allowed.stride[1];
  }
  return row;
}

void Walk::open_draft(int node_idx) {
  const TensorView& probs = params_.draft_probs;
  const RowView row = row_at(probs, batch_idx_ * probs.stride[0] + node_idx * probs.stride[1],
                             params_.draft_vocab_size);
  const TensorView& map = params_.draft_to_target;
  draft_.open(row, params_.draft_probs_are_logits, map.data != nullptr ? &map : nullptr,
              params_.vocab_size);
}

void Walk::close_draft() {
  if (draft_.has_nan) status_ |= kStatusNan;
  if (draft_.has_bad_id) status_ |= kStatusTokenId;
}

Walk::Walk(const VerifyParams& params, int batch_idx)
    : params_(params),
      batch_idx_(batch_idx),
      rule_(params.rule),
      law_(buffers().law),
      draft_(buffers().draft),
      residual_(buffers().residual) {
  filters_ = read_filters(params.filter, batch_idx);
  tau_ = {read_param(params.accept_threshold, batch_idx),
          read_param(params.escalate_threshold, batch_idx),
          read_param(params.draft_threshold, batch_idx), params.use_draft_threshold};
  read_tree();
  if (!filters_are_valid(filters_) || (rule_ == Rule::kRoute && !thresholds_are_valid(tau_))) {
    status_ |= kStatusParameter;
    is_refused_ = true;
  }
}

void Walk::read_tree() {
  const VerifyParams& p = params_;
  const std::int64_t counts = p.node_counts.data == nullptr
                                  ? p.num_nodes
                                  : read_int(p.node_counts, batch_idx_ * p.node_counts.stride[0]);
  bool is_tree = counts >= 0 && counts <= p.num_nodes;
  for (int node = 0; is_tree && node < counts; ++node) {
    const std::int64_t parent = p.parents.data == nullptr
                                    ? node - 1
                                    : read_int(p.parents, batch_idx_ * p.parents.stride[0] + node);
    is_tree = parent_is_valid(parent, node);
    parent_[node] = static_cast<int>(parent);
  }
  if (!is_tree) {
    status_ |= kStatusTree;
    return;
  }
  num_nodes_ = static_cast<int>(counts);
  for (int node = 0; node < num_nodes_; ++node) {
    const TensorView& ids = p.draft_token_ids;
    token_[node] = read_int(ids, batch_idx_ * ids.stride[0] + node);
    const NodeKind kind = node_kind(token_[node], p.vocab_size);
    if (kind == NodeKind::kBadToken) status_ |= kStatusTokenId;
    if (is_live(live_, kind, parent_[node])) live_.add(node);
  }
}

void Walk::clear_outputs() {
  const std::int64_t nodes = params_.num_nodes;
  const Verification& out = params_.out;
  const std::int64_t base = batch_idx_ * nodes;
  std::fill_n(out.path + base, nodes, -1);
  std::fill_n(out.logprobs + base + batch_idx_, nodes + 1, 0.0f);
  if (out.ratios != nullptr) std::fill_n(out.ratios + base, nodes, 0.0f);
  if (out.tiers != nullptr) {
    std::fill_n(out.tiers + base, nodes, static_cast<std::uint8_t>(kTierNone));
  }
  out.num_accepted[batch_idx_] = 0;
  out.next_token[batch_idx_] = -1;
  out.next_row[batch_idx_] = 0;
  out.escalate[batch_idx_] = false;
  out.status[batch_idx_] = 0;
}

// Copies what `resume` decided; false if the row is finished. A path that does not lie in this tree
// counts as a malformed tree: the row starts again at the root, without nodes.
bool Walk::read_resume() {
  const Verification& from = *params_.resume;
  const Verification& out = params_.out;
  const std::int64_t nodes = params_.num_nodes, base = batch_idx_ * nodes;
  out.status[batch_idx_] = from.status[batch_idx_];
  if (out.ratios != nullptr && from.ratios != nullptr) {
    std::copy_n(from.ratios + base, nodes, out.ratios + base);
  }
  if (out.tiers != nullptr && from.tiers != nullptr) {
    std::copy_n(from.tiers + base, nodes, out.tiers + base);
  }
  if (!from.escalate[batch_idx_]) {
    std::copy_n(from.path + base, nodes, out.path + base);
    std::copy_n(from.logprobs + base + batch_idx_, nodes + 1, out.logprobs + base + batch_idx_);
    out.num_accepted[batch_idx_] = from.num_accepted[batch_idx_];
    out.next_token[batch_idx_] = from.next_token[batch_idx_];
    out.next_row[batch_idx_] = from.next_row[batch_idx_];
    return false;
  }
  const std::int32_t accepted = from.num_accepted[batch_idx_];
  bool is_path = accepted >= 0 && accepted <= num_nodes_;
  int last = -1;
  for (int i = 0; is_path && i < accepted; ++i) {
    const std::int32_t node = from.path[base + i];
    is_path = node >= 0 && node < num_nodes_ && live_.has(node) && parent_[node] == last;
    last = node;
  }
  if (!is_path) {
    status_ |= kStatusTree;
    num_nodes_ = 0;
    return true;
  }
  std::copy_n(from.path + base, accepted, out.path + base);
  std::copy_n(from.logprobs + base + batch_idx_, accepted, out.logprobs + base + batch_idx_);
  num_accepted_ = accepted;
  row_idx_ = row_of_node(last);
  return true;
}

}  // namespace via::cpu
