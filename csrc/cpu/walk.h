// SPDX-License-Identifier: Apache-2.0
// The walk over one batch row's tree, and the decisions it writes.
#pragma once

#include <cstdint>

#include "core/route.h"
#include "core/tree.h"
#include "cpu/draft.h"
#include "cpu/law.h"
#include "cpu/request.h"
#include "via/verify.h"

namespace via::cpu {

// Large buffers of a walk, kept per thread so that small calls allocate nothing.
struct WalkBuffers {
  Law law;
  DraftLaw draft;
  Residual residual;
};

class Walk {
 public:
  Walk(const VerifyParams& params, int batch_idx);
  // Decides the row and writes every output element of it.
  void run();

 private:
  // walk_outputs.cpp
  void clear_outputs();
  bool read_resume();
  void accept_node(int node_idx);
  void emit(std::int64_t token_id);
  void escalate();
  void finish();

  // walk.cpp: one step each; false ends the walk
  void load_row();
  bool end_without_mass();
  bool step_greedy();
  bool step_sample_one_hot();
  bool step_sample_drawn();
  std::int64_t draw_without(const std::int64_t* tokens, int count);

  // walk_route.cpp
  bool step_route();
  bool stops_at_leaf() const;
  RouteCandidate score_children(int row_idx);
  RowFeatures features_of_row() const;
  Tier tier_of_node(int node_idx, float ratio, const RowFeatures& row, int depth);
  void score_other_rows();
  double draft_probability_of(int node_idx);

  void close_draft();

  const VerifyParams& params_;
  const std::int64_t batch_idx_;
  const std::int64_t first_node_;  // of this row in the [B, N] outputs
  Request request_;
  Rule rule_;
  NodeSet scored_;  // rows of the nodes whose children have ratios
  bool is_root_scored_ = false;
  int row_idx_ = 0;  // the row the walk stands at
  int num_accepted_ = 0;
  Law& law_;  // of row_idx_
  DraftLaw& draft_;
  Residual& residual_;
};

}  // namespace via::cpu
