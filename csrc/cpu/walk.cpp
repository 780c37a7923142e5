// SPDX-License-Identifier: Apache-2.0
// The walk over one draft tree (docs/design.md sections 3 and 4). At each row it reads the logits
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

WalkBuffers& buffers() {
  thread_local WalkBuffers kept;
  return kept;
}

}  // namespace

Walk::Walk(const VerifyParams& params, int batch_idx)
    : params_(params),
      batch_idx_(batch_idx),
      first_node_(static_cast<std::int64_t>(batch_idx) * params.num_nodes),
      request_(params, batch_idx),
      rule_(params.rule),
      law_(buffers().law),
      draft_(buffers().draft),
      residual_(buffers().residual) {}

void Walk::run() {
  clear_outputs();
  if (params_.resume != nullptr && !read_resume()) return;
  if (request_.is_refused) {
    rule_ = Rule::kGreedy;
    request_.drop_nodes();
  }
  bool walking = true;
  while (walking) {
    if (rule_ == Rule::kRoute && stops_at_leaf()) {
      escalate();
      break;
    }
    load_row();
    if (end_without_mass()) break;
    if (rule_ == Rule::kRoute) {
      walking = step_route();
    } else if (rule_ == Rule::kGreedy || !(request_.filters.temperature > 0.0f)) {
      walking = step_greedy();
    } else {
      walking = request_.has_draft() ? step_sample_drawn() : step_sample_one_hot();
    }
  }
  if (rule_ == Rule::kRoute) score_other_rows();
  finish();
}

// The law of the row: at temperature 0 the softmax at temperature 1, without filters.
void Walk::load_row() {
  const Filters& filters = request_.filters;
  const bool is_greedy = !(filters.temperature > 0.0f);
  if (params_.logits_are_probs) {
    scan_probs(request_.logits_row(row_idx_), law_);
    if (law_.has_nan) request_.status |= kStatusNan;
    return;
  }
  scan_softmax(request_.logits_row(row_idx_), is_greedy ? 1.0f : filters.temperature, law_);
  if (law_.has_nan) request_.status |= kStatusNan;
  if (!is_greedy && law_.has_mass() && !law_.is_one_hot()) apply_filters(filters, law_);
}

bool Walk::end_without_mass() {
  if (law_.has_mass()) return false;
  request_.status |= kStatusNoMass;
  emit(lowest_allowed(law_.row));
  return true;
}

bool Walk::step_greedy() {
  int child = request_.next_child(row_idx_, -1);
  while (child >= 0 && request_.token(child) != law_.stats.argmax) {
    child = request_.next_child(row_idx_, child);
  }
  if (child < 0) {
    emit(law_.stats.argmax);
    return false;
  }
  accept_node(child);
  return true;
}

bool Walk::step_sample_one_hot() {
  std::int64_t tried[kMaxNodes];
  int num_tried = 0;
  const float coin = request_.coin(row_idx_);
  OneHotWalk children = {params_.threshold_single, params_.threshold_acc};
  for (int node = request_.next_child(row_idx_, -1); node >= 0;
       node = request_.next_child(row_idx_, node)) {
    const std::int64_t token = request_.token(node);
    if (std::find(tried, tried + num_tried, token) != tried + num_tried) continue;
    if (children.accept(coin, law_.probability_of(token))) {
      accept_node(node);
      return true;
    }
    tried[num_tried++] = token;
  }
  emit(draw_without(tried, num_tried));
  return false;
}

// The final draw of one-hot drafts. A child whose removal would leave no mass (rounding) stays.
std::int64_t Walk::draw_without(const std::int64_t* tokens, int count) {
  const float uniform = request_.final_uniform();
  std::int64_t token = draw(law_, uniform, tokens, count);
  if (token >= 0) return token;
  std::int64_t removed[kMaxNodes];
  int num_removed = 0;
  token = draw(law_, uniform, nullptr, 0);
  for (int i = 0; i < count; ++i) {
    removed[num_removed] = tokens[i];
    const std::int64_t next = draw(law_, uniform, removed, num_removed + 1);
    if (next < 0) continue;
    token = next;
    ++num_removed;
  }
  return token;
}

bool Walk::step_sample_drawn() {
  residual_.reset();
  for (int node = request_.next_child(row_idx_, -1); node >= 0;
       node = request_.next_child(row_idx_, node)) {
    const std::int64_t token = request_.token(node);
    request_.open_draft(node, draft_);
    const bool is_accepted = accept_token(request_.coin(node), draft_.probability_of(token),
                                          residual_.probability_of(law_, token));
    if (!is_accepted) residual_.reject(law_, draft_, token);
    close_draft();
    if (is_accepted) {
      accept_node(node);
      return true;
    }
  }
  const float uniform = request_.final_uniform();
  emit(residual_.started() ? residual_.draw(law_.row.size, uniform)
                           : draw(law_, uniform, nullptr, 0));
  return false;
}

// What the node's distribution met while it was used.
void Walk::close_draft() {
  if (draft_.has_nan) request_.status |= kStatusNan;
  if (draft_.has_bad_id) request_.status |= kStatusTokenId;
}

}  // namespace via::cpu
