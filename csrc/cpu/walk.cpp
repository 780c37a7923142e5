// SPDX-License-Identifier: Apache-2.0
// The walk over one draft tree (algorithm.md sections 2 and 4). At each row it reads the logits
// once and takes one step of its rule:
//   greedy  the child equal to argmax q, else argmax q ends the step;
//   sample  lossless acceptance of the children, else a draw from what the rejections left;
//   route   the child with the largest ratio: accept it, regenerate from s here, or escalate.
// Rows read: greedy and sample those on the walk; route every row that has a child, and a leaf row
// when it is reached. At temperature 0 sample is greedy.
#include "cpu/walk.h"

#include <algorithm>

#include "core/accept.h"
#include "cpu/view.h"

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

void Walk::run() {
  clear_outputs();
  const VerifyParams& p = params_;
  if (p.resume != nullptr && !read_resume()) return;
  if (is_refused_) {
    rule_ = Rule::kGreedy;
    filters_ = {};
    num_nodes_ = 0;
  }
  bool walking = true;
  while (walking) {
    // A leaf whose bonus token would not be trusted escalates without being read.
    if (rule_ == Rule::kRoute && !bonus_is_allowed(tau_) && !has_child(row_idx_)) {
      escalate();
      break;
    }
    load_row(row_idx_);
    if (end_without_mass()) break;
    if (rule_ == Rule::kRoute) {
      walking = step_route();
    } else if (rule_ == Rule::kSample && filters_.temperature > 0.0f) {
      walking = step_sample();
    } else {
      walking = step_greedy();
    }
  }
  if (rule_ == Rule::kRoute) score_other_rows();
  p.out.num_accepted[batch_idx_] = num_accepted_;
  p.out.next_row[batch_idx_] = row_idx_;
  p.out.status[batch_idx_] |= status_;
}

// The law of a row: at temperature 0 log-softmax at temperature 1, without filters.
void Walk::load_row(int row_idx) {
  const bool is_greedy = !(filters_.temperature > 0.0f);
  scan_softmax(logits_row(row_idx), is_greedy ? 1.0f : filters_.temperature, law_);
  if (law_.has_nan) status_ |= kStatusNan;
  if (!is_greedy && law_.has_mass() && !law_.is_one_hot()) apply_filters(filters_, law_);
}

bool Walk::end_without_mass() {
  if (law_.has_mass()) return false;
  status_ |= kStatusNoMass;
  emit(lowest_allowed(law_.row));
  return true;
}

bool Walk::step_greedy() {
  const int child = child_with_token(law_.stats.argmax);
  if (child < 0) {
    emit(law_.stats.argmax);
    return false;
  }
  accept_node(child);
  return true;
}

bool Walk::step_sample() {
  return params_.draft_probs.data != nullptr ? step_with_distribution() : step_one_hot();
}

bool Walk::step_one_hot() {
  std::int64_t tried[kMaxNodes];
  int num_tried = 0;
  const float coin = uniform(row_idx_, kPurposeCoin);
  OneHotWalk children;
  for (int node = 0; node < num_nodes_; ++node) {
    if (row_of_node(parent_[node]) != row_idx_ || !live_.has(node)) continue;
    if (std::find(tried, tried + num_tried, token_[node]) != tried + num_tried) continue;
    if (children.accept(coin, law_.probability_of(token_[node]))) {
      accept_node(node);
      return true;
    }
    tried[num_tried++] = token_[node];
  }
  emit(draw_without(tried, num_tried));
  return false;
}

// The final draw of one-hot drafts. A child whose removal would leave no mass (rounding) stays.
std::int64_t Walk::draw_without(const std::int64_t* tokens, int count) {
  const float u = final_uniform();
  std::int64_t token = draw(law_, u, tokens, count);
  if (token >= 0) return token;
  std::int64_t removed[kMaxNodes];
  int num_removed = 0;
  token = draw(law_, u, nullptr, 0);
  for (int i = 0; i < count; ++i) {
    removed[num_removed] = tokens[i];
    const std::int64_t next = draw(law_, u, removed, num_removed + 1);
    if (next < 0) continue;
    token = next;
    ++num_removed;
  }
  return token;
}

bool Walk::step_with_distribution() {
  residual_.reset();
  for (int node = 0; node < num_nodes_; ++node) {
    if (row_of_node(parent_[node]) != row_idx_ || !live_.has(node)) continue;
    open_draft(node);
    const bool accepted = accept_token(uniform(node, kPurposeCoin), draft_.probability_of(token_[node]),
                                       residual_.probability_of(law_, token_[node]));
    if (!accepted) residual_.reject(law_, draft_, token_[node]);
    close_draft();
    if (accepted) {
      accept_node(node);
      return true;
    }
  }
  emit(residual_.started() ? residual_.draw(law_.row.size, final_uniform())
                           : draw(law_, final_uniform(), nullptr, 0));
  return false;
}

bool Walk::step_route() {
  const RouteCandidate best = score_children(row_idx_, law_);
  Tier tier = kTierRegenerate;  // a leaf gives the bonus token
  if (best.node_idx >= 0) {
    const std::int64_t base = static_cast<std::int64_t>(batch_idx_) * params_.num_nodes;
    tier = static_cast<Tier>(params_.out.tiers[base + best.node_idx]);
  }
  if (tier == kTierAccept) {
    accept_node(best.node_idx);
    return true;
  }
  if (tier == kTierEscalate) {
    escalate();
  } else if (filters_.temperature > 0.0f) {
    emit(draw(law_, final_uniform(), nullptr, 0));
  } else {
    emit(law_.stats.argmax);
  }
  return false;
}

// Ratios and tiers of a row's children; returns the walk's candidate among them.
RouteCandidate Walk::score_children(int row_idx, const Law& law) {
  RouteCandidate best;
  const std::int64_t base = static_cast<std::int64_t>(batch_idx_) * params_.num_nodes;
  const float temperature = ratio_temperature(filters_.temperature);
  for (int node = 0; node < num_nodes_; ++node) {
    if (row_of_node(parent_[node]) != row_idx || !live_.has(node)) continue;
    const double ratio = draft_ratio(logit_at(law.row, token_[node]), token_[node], law.stats.max,
                                     law.stats.argmax, temperature);
    double draft_probability = 0.0;
    if (tau_.use_draft) {
      open_draft(node);
      draft_probability = draft_.probability_of(token_[node]);
      close_draft();
    }
    const float stored = static_cast<float>(ratio);
    params_.out.ratios[base + node] = stored;
    params_.out.tiers[base + node] =
        static_cast<std::uint8_t>(route_tier(stored, draft_probability, tau_));
    best.offer(node, ratio);
  }
  if (row_idx == 0) {
    root_scored_ = true;
  } else {
    scored_rows_.add(row_idx - 1);
  }
  return best;
}

void Walk::score_other_rows() {
  for (int row = 0; row <= num_nodes_; ++row) {
    const bool scored = row == 0 ? root_scored_ : scored_rows_.has(row - 1);
    if (scored || !has_child(row)) continue;
    scan_max(logits_row(row), law_);
    if (law_.has_nan) status_ |= kStatusNan;
    score_children(row, law_);
  }
}

void Walk::accept_node(int node_idx) {
  const std::int64_t base = static_cast<std::int64_t>(batch_idx_) * params_.num_nodes;
  params_.out.path[base + num_accepted_] = node_idx;
  params_.out.logprobs[base + batch_idx_ + num_accepted_] =
      law_.log_probability_of(token_[node_idx]);
  ++num_accepted_;
  row_idx_ = row_of_node(node_idx);
}

void Walk::emit(std::int64_t token_id) {
  const std::int64_t base = static_cast<std::int64_t>(batch_idx_) * (params_.num_nodes + 1);
  params_.out.next_token[batch_idx_] = token_id;
  params_.out.logprobs[base + num_accepted_] = law_.log_probability_of(token_id);
}

void Walk::escalate() { params_.out.escalate[batch_idx_] = true; }

int Walk::child_with_token(std::int64_t token_id) const {
  for (int node = 0; node < num_nodes_; ++node) {
    if (row_of_node(parent_[node]) == row_idx_ && live_.has(node) && token_[node] == token_id) {
      return node;
    }
  }
  return -1;
}

bool Walk::has_child(int row_idx) const {
  for (int node = 0; node < num_nodes_; ++node) {
    if (row_of_node(parent_[node]) == row_idx && live_.has(node)) return true;
  }
  return false;
}

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
    row.allowed = static_cast<const std::uint32_t*>(allowed.data) +
                  batch_idx_ * allowed.stride[0] + row_idx * allowed.stride[1];
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
    const std::int64_t parent =
        p.parents.data == nullptr
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
