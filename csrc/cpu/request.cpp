// SPDX-License-Identifier: Apache-2.0
// Reading one batch row of a verify call. Ids, counts, parents and per-row parameters live in the
// caller's arrays, so they are checked here and reported in `status`:
//   malformed tree: as if nothing was drafted; id outside the vocabulary: its subtree is absent;
//   parameter out of range: the row is greedy and accepts nothing.
#include "cpu/request.h"

#include "cpu/view.h"

namespace via::cpu {

Request::Request(const VerifyParams& params, int batch_idx)
    : params_(params), batch_idx_(batch_idx) {
  filters = read_filters(params.filter, batch_idx);
  tau = {read_param(params.accept_threshold, batch_idx),
         read_param(params.escalate_threshold, batch_idx),
         read_param(params.draft_threshold, batch_idx), params.use_draft_threshold};
  read_tree();
  const bool is_route = params.rule == Rule::kRoute;
  if (is_route && params.use_router) router = read_router(params.router, batch_idx);
  const bool decides = router.is_given() ? router.holds_numbers() : thresholds_are_valid(tau);
  is_refused = !filters_are_valid(filters) || (is_route && !decides);
  if (is_refused) {
    status |= kStatusParameter;
    filters = {};
    tau = {};
    router = {};
  }
}

void Request::read_tree() {
  const VerifyParams& p = params_;
  const std::int64_t count = p.node_counts.data == nullptr
                                 ? p.num_nodes
                                 : read_int(p.node_counts, batch_idx_ * p.node_counts.stride[0]);
  bool is_tree = count >= 0 && count <= p.num_nodes;
  for (int node = 0; is_tree && node < count; ++node) {
    const std::int64_t parent = p.parents.data == nullptr
                                    ? node - 1
                                    : read_int(p.parents, batch_idx_ * p.parents.stride[0] + node);
    is_tree = parent_is_valid(parent, node);
    parent_[node] = static_cast<int>(parent);
  }
  if (!is_tree) {
    status |= kStatusTree;
    return;
  }
  num_nodes_ = static_cast<int>(count);
  const TensorView& ids = p.draft_token_ids;
  for (int node = 0; node < num_nodes_; ++node) {
    token_[node] = read_int(ids, batch_idx_ * ids.stride[0] + node);
    const NodeKind kind = node_kind(token_[node], p.vocab_size);
    if (kind == NodeKind::kBadToken) status |= kStatusTokenId;
    if (is_live(live_, kind, parent_[node])) live_.add(node);
  }
}

int Request::next_child(int row_idx, int after) const {
  for (int node = after + 1; node < num_nodes_; ++node) {
    if (row_of_node(parent_[node]) == row_idx && live_.has(node)) return node;
  }
  return -1;
}

bool Request::is_live_child(int node_idx, int parent) const {
  return node_idx >= 0 && node_idx < num_nodes_ && live_.has(node_idx) &&
         parent_[node_idx] == parent;
}

int Request::child_depth(int row_idx) const {
  int depth = 1;
  for (int node = row_idx - 1; node >= 0; node = parent_[node]) ++depth;
  return depth;
}

const float* Request::draft_scores(int node_idx) const {
  const TensorView& scores = params_.draft_scores;
  if (scores.data == nullptr) return nullptr;
  return static_cast<const float*>(scores.data) + batch_idx_ * scores.stride[0] +
         node_idx * scores.stride[1];
}

RowView Request::logits_row(int row_idx) const {
  const TensorView& logits = params_.logits;
  const std::int64_t* const offsets = params_.logits_offsets;
  const std::int64_t begin = offsets != nullptr
                                 ? offsets[batch_idx_ * (params_.num_nodes + 1) + row_idx]
                                 : batch_idx_ * logits.stride[0] + row_idx * logits.stride[1];
  RowView row = row_at(logits, begin, params_.vocab_size);
  const TensorView& allowed = params_.allowed;
  const bool* const rows = params_.allowed_rows;
  if (allowed.data != nullptr &&
      (rows == nullptr || rows[batch_idx_ * params_.allowed_rows_stride + row_idx])) {
    row.allowed = static_cast<const std::uint32_t*>(allowed.data) + batch_idx_ * allowed.stride[0] +
                  row_idx * allowed.stride[1];
  }
  return row;
}

void Request::open_draft(int node_idx, DraftLaw& draft) const {
  const TensorView& probs = params_.draft_probs;
  const std::int64_t* const offsets = params_.draft_offsets;
  const std::int64_t begin = offsets != nullptr
                                 ? offsets[batch_idx_ * params_.num_nodes + node_idx]
                                 : batch_idx_ * probs.stride[0] + node_idx * probs.stride[1];
  const RowView row = row_at(probs, begin, params_.draft_vocab_size);
  const TensorView& map = params_.draft_to_target;
  draft.open(row, params_.draft_probs_are_logits, map.data != nullptr ? &map : nullptr,
             params_.vocab_size);
}

// Given uniforms win. Among them the final draw is column N; from a seed it has a purpose of its
// own and column 0, so that padding a row to a wider batch changes nothing.
float Request::uniform(int column, Purpose purpose) const {
  const TensorView& given = params_.uniform_samples;
  if (given.data != nullptr) {
    const float* const row = static_cast<const float*>(given.data) + batch_idx_ * given.stride[0];
    return clamp_uniform(row[column]);
  }
  if (params_.seed.data == nullptr || params_.position.data == nullptr) return 0.0f;
  return philox_uniform(read_int(params_.seed, batch_idx_ * params_.seed.stride[0]),
                        read_int(params_.position, batch_idx_ * params_.position.stride[0]),
                        purpose == kPurposeFinalDraw ? 0u : static_cast<std::uint32_t>(column),
                        purpose);
}

}  // namespace via::cpu
