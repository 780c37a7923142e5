// SPDX-License-Identifier: Apache-2.0
// The walk over one draft tree (docs/design.md sections 3 and 4), started anew each time more rows
// are known. All threads gather what every node and row contributes into shared memory; then one
// thread walks there, row by row:
//   greedy  the child equal to argmax q, else argmax q ends the step;
//   sample  lossless acceptance of the children, else a draw from what the rejections left;
//   route   the child with the largest ratio: accept it, regenerate from s here, or escalate.
// It ends with a decision, or with the rows it would have to see first.
#pragma once

#include <cstdint>

#include "core/accept.h"
#include "core/residual.h"
#include "cuda/verify_residual.cuh"
#include "cuda/verify_router.cuh"

namespace via::cuda {

enum class Outcome : int {
  kNeedTargets,   // rows of the verifier: need_row and what the window allows
  kNeedDraft,     // the draft row of need_node
  kNeedResidual,  // the residual after need_node's rejection
  kEmit,          // next token: `token`
  kEmitLowestAllowed,
  kDrawLaw,       // without the tokens in `Excluded`
  kDrawResidual,  // of the listed rejections
  kEscalate
};

// In shared memory.
struct WalkState {
  RowRecord row[kRows];
  float logit[kRows];         // of node i in its parent's row
  double probability[kRows];  // of node i in its parent's row, filtered
  double drafted[kRows];      // p of node i
  double ratio[kRows];        // of node i
  double residual[kRows];     // after node i's rejection
  unsigned draft_flags[kRows];
  float coin[kRows];
  std::uint8_t routed[kRows];  // with a router: tier of node i
  std::uint8_t bonus[kRows];   // with a router: row i may give its bonus token
  std::int16_t path[kRows];
  int num_accepted;
  int row_idx;
  int status;
  Outcome outcome;
  int need_node;
  std::int32_t token;
};

// Rules that judge drafts by the distribution they were drawn from.
VIA_DEVICE bool uses_draft_probs(const VerifyParams& p, const RequestParams& params) {
  if (p.draft_probs.data == nullptr || params.is_refused) return false;
  if (p.rule == Rule::kRoute) return params.tau.use_draft;
  return p.rule == Rule::kSample && !params.is_greedy();
}

// What every node and row contributes, as far as its row has been scanned.
VIA_DEVICE_CALL void gather_nodes(const VerifyArgs& args, int batch_idx, const Request& request,
                                  WalkState& walk) {
  const VerifyParams& p = args.p;
  const int i = static_cast<int>(threadIdx.x);
  if (i <= request.num_nodes) walk.row[i] = row_record(args, batch_idx, i);
  __syncthreads();
  if (i <= p.num_nodes) walk.coin[i] = request_uniform(p, batch_idx, i, kPurposeCoin);
  if (i < request.num_nodes && request.is_live[i]) {
    const RowRecord& row = walk.row[row_of_node(request.parent[i])];
    const std::int32_t token = request.token[i];
    const bool is_known = (row.flags & kRowScanned) != 0;
    float logit = kNegInf;
    if (is_known) {
      logit = logit_at(target_row(p, batch_idx, row_of_node(request.parent[i])), token);
    }
    walk.logit[i] = logit;
    const float temperature = request.params.filters.temperature;
    double probability_here = 0.0;
    if (row.max == kPosInf) {
      probability_here = token == row.argmax ? 1.0 : 0.0;
    } else if (is_known && row.cut.keeps(logit, token)) {
      const float scale = request.params.scale();
      probability_here = probability(logit, scale, row.sum, exponent_of(row.max, scale));
    }
    walk.probability[i] = probability_here;
    walk.ratio[i] =
        is_known ? draft_ratio(logit, token, row.max, row.argmax, ratio_temperature(temperature))
                 : 0.0;
    if (uses_draft_probs(p, request.params)) {
      const RowRecord& draft = row_record(args, batch_idx, args.draft_slot(i));
      walk.draft_flags[i] = draft.flags;
      walk.residual[i] = draft.residual;
      walk.drafted[i] = draft.probability;
      if (!args.plan.scans_drafts) {
        const float value = raw_value(draft_row(p, batch_idx, i), token);
        walk.drafted[i] = value > 0.0f ? static_cast<double>(value) : 0.0;
        walk.draft_flags[i] |= kRowScanned | (value != value ? kRowHasNan : 0u);
      }
    }
  }
  __syncthreads();
}

// With a router: tiers of the nodes and bonus tokens of the rows, as far as rows have been scanned.
VIA_DEVICE_CALL void gather_tiers(const VerifyParams& p, int batch_idx, const Request& request,
                                  WalkState& walk) {
  const int i = static_cast<int>(threadIdx.x);
  if (i <= request.num_nodes && (walk.row[i].flags & kRowScanned) != 0) {
    walk.bonus[i] = bonus_by_router(p, request, i, walk.row[i]);
  }
  if (i < request.num_nodes && request.is_live[i]) {
    const RowRecord& row = walk.row[row_of_node(request.parent[i])];
    walk.routed[i] = kTierNone;
    if ((row.flags & kRowScanned) != 0) {
      walk.routed[i] = tier_by_router(p, batch_idx, request, i, row, walk.logit[i],
                                      static_cast<float>(walk.ratio[i]));
    }
  }
  __syncthreads();
}

// Tier of a live node.
VIA_DEVICE Tier node_tier(const Request& request, const WalkState& walk, int node) {
  const RouteThresholds& tau = request.params.tau;
  if (request.params.router.is_given()) return static_cast<Tier>(walk.routed[node]);
  return route_tier(static_cast<float>(walk.ratio[node]), tau.use_draft ? walk.drafted[node] : 0.0,
                    tau);
}

// Where the walk starts: at the root, or where the call that is resumed stopped. A path that is
// none of this tree counts as a malformed tree. One thread.
VIA_DEVICE void start_walk(const VerifyArgs& args, int batch_idx, Request& request,
                           WalkState& walk) {
  walk.num_accepted = 0;
  walk.row_idx = 0;
  walk.status = request.status;
  if (args.has_resume) {
    const std::int32_t accepted = args.resume.num_accepted[batch_idx];
    bool is_path = accepted >= 0 && accepted <= request.num_nodes;
    int last = -1;
    for (int i = 0; is_path && i < accepted; ++i) {
      const std::int32_t node =
          args.resume.path[static_cast<std::int64_t>(batch_idx) * args.p.num_nodes + i];
      is_path = node >= 0 && node < request.num_nodes && request.is_live[node] &&
                request.parent[node] == last;
      last = node;
      walk.path[i] = static_cast<std::int16_t>(node);
    }
    if (is_path) {
      walk.num_accepted = accepted;
      walk.row_idx = row_of_node(last);
    } else {
      walk.status |= kStatusTree;
      request.num_nodes = 0;
    }
  }
  if (request.params.is_refused) request.num_nodes = 0;
}

VIA_DEVICE void accept_node(WalkState& walk, int node) {
  walk.path[walk.num_accepted++] = static_cast<std::int16_t>(node);
  walk.row_idx = row_of_node(node);
}

VIA_DEVICE bool end_walk(WalkState& walk, Outcome outcome) {
  walk.outcome = outcome;
  return false;
}

VIA_DEVICE int first_child(const Request& request, int row_idx) {
  return row_idx <= request.num_nodes && request.num_nodes > 0 ? request.first_child[row_idx] : -1;
}

// One step of each rule; false ends the walk.
VIA_DEVICE bool step_greedy(const Request& request, WalkState& walk) {
  const std::int32_t argmax = walk.row[walk.row_idx].argmax;
  int child = first_child(request, walk.row_idx);
  while (child >= 0 && request.token[child] != argmax) child = request.next_sibling[child];
  if (child >= 0) {
    accept_node(walk, child);
    return true;
  }
  walk.token = argmax;
  return end_walk(walk, Outcome::kEmit);
}

VIA_DEVICE bool step_sample_one_hot(const VerifyParams& p, const Request& request, WalkState& walk,
                                    Rejections& tried) {
  tried.count = 0;
  OneHotWalk children = {p.threshold_single, p.threshold_acc};
  const float coin = walk.coin[walk.row_idx];
  for (int child = first_child(request, walk.row_idx); child >= 0;
       child = request.next_sibling[child]) {
    if (request.is_duplicate[child]) continue;
    if (children.accept(coin, walk.probability[child])) {
      accept_node(walk, child);
      return true;
    }
    tried.node[tried.count++] = static_cast<std::int16_t>(child);
  }
  return end_walk(walk, Outcome::kDrawLaw);
}

VIA_DEVICE void note_draft(WalkState& walk, int node) {
  if ((walk.draft_flags[node] & kRowHasNan) != 0) walk.status |= kStatusNan;
  if ((walk.draft_flags[node] & kRowHasBadId) != 0) walk.status |= kStatusTokenId;
}

VIA_DEVICE bool step_sample_drawn(const VerifyArgs& args, int batch_idx, const Request& request,
                                  WalkState& walk, Rejections& rejected) {
  rejected.count = 0;
  double left = 1.0;  // mass of the residual so far
  for (int child = first_child(request, walk.row_idx); child >= 0;
       child = request.next_sibling[child]) {
    if ((walk.draft_flags[child] & kRowScanned) == 0) {
      walk.need_node = child;
      return end_walk(walk, Outcome::kNeedDraft);
    }
    double probability = walk.probability[child];
    if (rejected.count > 0) {
      const float* const weights =
          sibling_weights(args, batch_idx, residual_buffer(rejected.count));
      probability = static_cast<double>(weights[child]) / left;
    }
    if (accept_token(walk.coin[child], walk.drafted[child], probability)) {
      note_draft(walk, child);
      accept_node(walk, child);
      return true;
    }
    if ((walk.draft_flags[child] & kRowRejected) == 0) {
      walk.need_node = child;
      return end_walk(walk, Outcome::kNeedResidual);
    }
    note_draft(walk, child);
    if (!residual_has_mass(walk.residual[child])) continue;
    rejected.node[rejected.count] = static_cast<std::int16_t>(child);
    rejected.normaliser[rejected.count] =
        rejected.count > 0 ? static_cast<float>(1.0 / left) : 1.0f;
    ++rejected.count;
    left = walk.residual[child];
  }
  return end_walk(walk, rejected.count > 0 ? Outcome::kDrawResidual : Outcome::kDrawLaw);
}

VIA_DEVICE bool step_route(const Request& request, WalkState& walk) {
  RouteCandidate best;
  for (int child = first_child(request, walk.row_idx); child >= 0;
       child = request.next_sibling[child]) {
    best.offer(child, walk.ratio[child]);
  }
  Tier tier = kTierRegenerate;  // a leaf gives the bonus token
  if (best.node_idx >= 0) {
    tier = node_tier(request, walk, best.node_idx);
  } else if (request.params.router.is_given() && walk.bonus[walk.row_idx] == 0) {
    tier = kTierEscalate;
  }
  if (tier == kTierAccept) {
    accept_node(walk, best.node_idx);
    return true;
  }
  if (tier == kTierEscalate) return end_walk(walk, Outcome::kEscalate);
  if (!request.params.is_greedy()) return end_walk(walk, Outcome::kDrawLaw);
  walk.token = walk.row[walk.row_idx].argmax;
  return end_walk(walk, Outcome::kEmit);
}

// Walks as far as the scanned rows allow. One thread. `rejected` receives the nodes that a draw has
// to leave out.
VIA_DEVICE_CALL void walk_tree(const VerifyArgs& args, int batch_idx, Request& request,
                               WalkState& walk, Rejections& rejected) {
  start_walk(args, batch_idx, request, walk);
  rejected.count = 0;
  const bool is_refused = request.params.is_refused;
  const bool is_route = args.p.rule == Rule::kRoute && !is_refused;
  const bool is_sample = args.p.rule == Rule::kSample && !request.params.is_greedy();
  bool is_walking = true;
  while (is_walking) {
    const bool is_leaf = first_child(request, walk.row_idx) < 0;
    if (is_route && is_leaf && !request.params.may_give_bonus()) {
      end_walk(walk, Outcome::kEscalate);
      return;
    }
    const RowRecord& row = walk.row[walk.row_idx];
    if ((row.flags & kRowScanned) == 0) {
      end_walk(walk, Outcome::kNeedTargets);
      return;
    }
    if ((row.flags & kRowHasNan) != 0) walk.status |= kStatusNan;
    if (!(row.max > kNegInf)) {
      walk.status |= kStatusNoMass;
      end_walk(walk, Outcome::kEmitLowestAllowed);
      return;
    }
    if (is_route) {
      is_walking = step_route(request, walk);
    } else if (!is_sample) {
      is_walking = step_greedy(request, walk);
    } else if (args.p.draft_probs.data == nullptr) {
      is_walking = step_sample_one_hot(args.p, request, walk, rejected);
    } else {
      is_walking = step_sample_drawn(args, batch_idx, request, walk, rejected);
    }
  }
}

}  // namespace via::cuda
