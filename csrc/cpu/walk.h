// SPDX-License-Identifier: Apache-2.0
// One batch row of verify: its draft tree, its parameters, and the walk over it.
#pragma once

#include <cstdint>

#include "core/filters.h"
#include "core/philox.h"
#include "core/route.h"
#include "core/tree.h"
#include "cpu/draft.h"
#include "cpu/law.h"
#include "via/verify.h"

namespace via::cpu {

class Walk {
 public:
  // Reads ids, parents, counts and parameters of the row and checks them.
  Walk(const VerifyParams& params, int batch_idx);
  // Decides the row and writes every output element of it.
  void run();

 private:
  void clear_outputs();
  void read_tree();
  bool read_resume();
  void load_row(int row_idx);
  void accept_node(int node_idx);
  void emit(std::int64_t token_id);
  void escalate();
  bool end_without_mass();
  int child_with_token(std::int64_t token_id) const;
  bool has_child(int row_idx) const;
  RowView logits_row(int row_idx) const;
  float uniform(int column, Purpose purpose) const;
  float final_uniform() const;
  std::int64_t draw_without(const std::int64_t* tokens, int count);
  void open_draft(int node_idx);
  void close_draft();

  bool step_greedy();
  bool step_sample();
  bool step_one_hot();
  bool step_with_distribution();
  bool step_route();
  RouteCandidate score_children(int row_idx, const Law& law);
  void score_other_rows();

  const VerifyParams& params_;
  const int batch_idx_;
  int num_nodes_ = 0;        // nodes in use in this batch row
  Rule rule_;
  Filters filters_;
  RouteThresholds tau_;
  std::int64_t token_[kMaxNodes];
  int parent_[kMaxNodes];
  NodeSet live_, scored_rows_;
  bool root_scored_ = false;
  bool is_refused_ = false;  // a parameter is out of range: greedy, nothing accepted
  int row_idx_ = 0;          // the row the walk stands at
  int num_accepted_ = 0;
  std::int32_t status_ = 0;
  Law& law_;
  DraftLaw& draft_;
  Residual& residual_;
};

}  // namespace via::cpu
