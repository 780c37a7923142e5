// SPDX-License-Identifier: Apache-2.0
// One batch row of a verify call as it came in: its tree, its parameters, its rows and uniforms.
#pragma once

#include <cstdint>

#include "core/filters.h"
#include "core/philox.h"
#include "core/route.h"
#include "core/router.h"
#include "core/tree.h"
#include "cpu/draft.h"
#include "cpu/kernels.h"
#include "via/verify.h"

namespace via::cpu {

class Request {
 public:
  // Reads and checks everything but the logits.
  Request(const VerifyParams& params, int batch_idx);

  // The lowest live node above `after` whose parent is followed by the row, or -1.
  int next_child(int row_idx, int after) const;
  bool has_child(int row_idx) const { return next_child(row_idx, -1) >= 0; }
  bool is_live_child(int node_idx, int parent) const;
  // Depth of the row's children; those of the root have 1.
  int child_depth(int row_idx) const;
  std::int64_t token(int node_idx) const { return token_[node_idx]; }
  int num_nodes() const { return num_nodes_; }
  // Goes on without any node.
  void drop_nodes() { num_nodes_ = 0; }

  // Logits under the grammar mask.
  RowView logits_row(int row_idx) const;
  bool has_draft() const { return params_.draft_probs.data != nullptr; }
  void open_draft(int node_idx, DraftLaw& draft) const;
  // The drafter's two numbers for a node, or null.
  const float* draft_scores(int node_idx) const;
  // False if a leaf escalates whatever its row holds.
  bool may_give_bonus() const {
    return router.is_given() ? router.may_give_bonus() : bonus_is_allowed(tau);
  }

  // Acceptance coin of a column; the uniform of the final draw.
  float coin(int column) const { return uniform(column, kPurposeCoin); }
  float final_uniform() const { return uniform(params_.num_nodes, kPurposeFinalDraw); }

  Filters filters;
  RouteThresholds tau;
  RowRouter router;  // decides in place of tau if given
  std::int32_t status = 0;
  bool is_refused = false;  // a parameter is out of range: greedy, nothing accepted

 private:
  void read_tree();
  float uniform(int column, Purpose purpose) const;

  const VerifyParams& params_;
  const std::int64_t batch_idx_;
  int num_nodes_ = 0;
  std::int64_t token_[kMaxNodes];
  int parent_[kMaxNodes];
  NodeSet live_;
};

}  // namespace via::cpu
