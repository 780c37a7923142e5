// SPDX-License-Identifier: Apache-2.0
// What the block does that finds all rows of a request's round in place: walk, then either ask for
// the rows that the walk still needs, or draw, write every output of the request and close it.
#pragma once

#include <cstdint>

#include "cuda/verify_draw.cuh"
#include "cuda/verify_queue.cuh"
#include "cuda/verify_walk.cuh"

namespace via::cuda {

// Shared memory of a block. Sorting, leaving tokens out and gathering a mapped draft row happen at
// different times.
struct VerifyShared {
  QueueState queue;
  SelectState select;
  DrawState draw;
  Request request;
  WalkState walk;
  Rejections rejected;
  union {
    SelectBuffer buffer;
    Excluded excluded;
    unsigned long long fixed[kChunk];
  };
  unsigned scratch[kWarps];
};

VIA_DEVICE Law target_law(const VerifyArgs& args, int batch_idx, int row_idx,
                          const RequestParams& params, const RowRecord& record) {
  return {target_row(args.p, batch_idx, row_idx), chunk_records(args, batch_idx, row_idx),
          args.plan.chunks, params.scale(), record};
}

// Number of accepted nodes that an earlier call decided.
VIA_DEVICE int num_resumed(const VerifyArgs& args, int batch_idx, const WalkState& walk) {
  if (!args.has_resume || (walk.status & kStatusTree) != 0) return 0;
  return args.resume.num_accepted[batch_idx];
}

// The i-th row on the path: before the i-th accepted node.
VIA_DEVICE int path_row(const WalkState& walk, int i) {
  return i == 0 ? 0 : row_of_node(walk.path[i - 1]);
}

VIA_DEVICE bool is_descendant(const Request& request, int node, int row_idx) {
  while (node >= 0 && row_of_node(node) > row_idx) node = request.parent[node];
  return row_of_node(node) == row_idx;
}

// Which item thread i asks for, if any.
VIA_DEVICE bool wanted_item(const VerifyArgs& args, int batch_idx, const Request& request,
                            const WalkState& walk, ItemKind& kind, int& slot) {
  const int i = static_cast<int>(threadIdx.x);
  const bool is_node = i < request.num_nodes && request.is_live[i];
  const bool is_route = args.p.rule == Rule::kRoute;
  kind = ItemKind::kDraft;
  slot = args.draft_slot(i);
  if (walk.outcome == Outcome::kNeedResidual) {
    kind = ItemKind::kResidual;
    return i == walk.need_node;
  }
  if (walk.outcome == Outcome::kNeedDraft) {
    return is_node && request.parent[i] == request.parent[walk.need_node] &&
           (walk.draft_flags[i] & kRowScanned) == 0;
  }
  if (walk.outcome == Outcome::kNeedTargets) {
    kind = ItemKind::kTarget;
    slot = i;
    if (i == walk.row_idx) return true;
    // Rows that the walk may reach next, while the machine has room for them.
    return !is_route && i > walk.row_idx && i <= request.num_nodes && request.is_live[i - 1] &&
           (walk.row[i].flags & kRowScanned) == 0 && i - walk.row_idx < args.plan.window &&
           is_descendant(request, i - 1, walk.row_idx);
  }
  if (is_route && args.plan.scans_drafts && uses_draft_probs(args.p, request.params) && is_node &&
      (walk.draft_flags[i] & kRowScanned) == 0) {
    return true;
  }
  // Log-probabilities and the final draw need the filtered rows of the path.
  if (!request.params.needs_filter(args.p.vocab_size) || i > walk.num_accepted) return false;
  if (i == walk.num_accepted && walk.outcome == Outcome::kEscalate) return false;
  if (i < num_resumed(args, batch_idx, walk)) return false;
  kind = ItemKind::kFilter;
  slot = path_row(walk, i);
  return (walk.row[slot].flags & kRowFiltered) == 0;
}

VIA_DEVICE float node_log_probability(const Request& request, const RowRecord& row,
                                      std::int32_t token, float logit) {
  if (!(row.max > kNegInf)) return kNegInf;
  if (row.max == kPosInf) return token == row.argmax ? 0.0f : kNegInf;
  if (!row.cut.keeps(logit, token)) return kNegInf;
  const float scale = request.params.scale();
  return static_cast<float>(log_probability(logit, scale, row.sum, exponent_of(row.max, scale)));
}

// The token after the accepted ones; every thread gets it. -1 when escalating.
VIA_DEVICE_CALL std::int32_t next_token(const VerifyArgs& args, int batch_idx,
                                        VerifyShared& shared) {
  const WalkState& walk = shared.walk;
  if (walk.outcome == Outcome::kEscalate) return -1;
  if (walk.outcome == Outcome::kEmit) return walk.token;
  const Law law =
      target_law(args, batch_idx, walk.row_idx, shared.request.params, walk.row[walk.row_idx]);
  if (walk.outcome == Outcome::kEmitLowestAllowed) {
    return lowest_allowed(law.row, reinterpret_cast<int*>(shared.draw.scratch));
  }
  const float uniform = request_uniform(args.p, batch_idx, 0, kPurposeFinalDraw);
  // Whatever rounding does to sums, the id that is written lies inside the vocabulary.
  const auto checked = [&](std::int32_t token) { return token >= 0 ? token : law.record.argmax; };
  if (walk.outcome == Outcome::kDrawResidual) {
    return checked(draw_from_residual(args, batch_idx, shared.request, law, shared.rejected,
                                      uniform, shared.fixed, shared.draw));
  }
  const int i = static_cast<int>(threadIdx.x);
  if (i < shared.rejected.count) {
    shared.excluded.token[i] = shared.request.token[shared.rejected.node[i]];
  }
  if (i == 0) shared.excluded.count = shared.rejected.count;
  __syncthreads();
  return checked(draw_from_law(law, chunk_records(args, batch_idx, walk.row_idx), uniform,
                               shared.excluded, shared.draw));
}

// Ratios and tiers of every node.
VIA_DEVICE void write_ratios(const VerifyArgs& args, int batch_idx, const VerifyShared& shared) {
  const Verification& out = args.p.out;
  const int i = static_cast<int>(threadIdx.x);
  if (out.ratios == nullptr || i >= args.p.num_nodes) return;
  const std::int64_t at = static_cast<std::int64_t>(batch_idx) * args.p.num_nodes + i;
  float ratio = 0.0f;
  std::uint8_t tier = kTierNone;
  if (args.has_resume && args.resume.ratios != nullptr) {
    ratio = args.resume.ratios[at];
    tier = args.resume.tiers[at];
  } else if (args.p.rule == Rule::kRoute && i < shared.request.num_nodes &&
             shared.request.is_live[i]) {
    ratio = static_cast<float>(shared.walk.ratio[i]);
    tier = static_cast<std::uint8_t>(node_tier(shared.request, shared.walk, i));
  }
  out.ratios[at] = ratio;
  out.tiers[at] = tier;
}

// Status bits that rows and nodes off the path add under rule route.
VIA_DEVICE int route_status(const VerifyArgs& args, const VerifyShared& shared) {
  const int i = static_cast<int>(threadIdx.x);
  const Request& request = shared.request;
  unsigned flags = 0;
  if (args.p.rule == Rule::kRoute) {
    if (first_child(request, i) >= 0) flags |= shared.walk.row[i].flags;
    if (uses_draft_probs(args.p, request.params) && i < request.num_nodes && request.is_live[i]) {
      flags |= shared.walk.draft_flags[i];
    }
  }
  const int nan = __syncthreads_or(static_cast<int>(flags & kRowHasNan));
  const int bad_id = __syncthreads_or(static_cast<int>(flags & kRowHasBadId));
  return (nan != 0 ? kStatusNan : 0) | (bad_id != 0 ? kStatusTokenId : 0);
}

VIA_DEVICE_CALL void write_decision(const VerifyArgs& args, int batch_idx,
                                    const VerifyShared& shared, std::int32_t token) {
  const Verification& out = args.p.out;
  const WalkState& walk = shared.walk;
  const int i = static_cast<int>(threadIdx.x);
  const std::int64_t nodes = args.p.num_nodes, first = batch_idx * nodes;
  const bool escalates = walk.outcome == Outcome::kEscalate;
  write_ratios(args, batch_idx, shared);
  if (i < nodes) out.path[first + i] = i < walk.num_accepted ? walk.path[i] : -1;
  if (i <= nodes) {
    float logprob = 0.0f;
    if (i < num_resumed(args, batch_idx, walk)) {
      logprob = args.resume.logprobs[first + batch_idx + i];
    } else if (i < walk.num_accepted) {
      const int node = walk.path[i];
      logprob = node_log_probability(shared.request, walk.row[path_row(walk, i)],
                                     shared.request.token[node], walk.logit[node]);
    } else if (i == walk.num_accepted && !escalates) {
      const float logit = logit_at(target_row(args.p, batch_idx, walk.row_idx), token);
      logprob = node_log_probability(shared.request, walk.row[walk.row_idx], token, logit);
    }
    out.logprobs[first + batch_idx + i] = logprob;
    if (args.p.coins != nullptr) args.p.coins[first + batch_idx + i] = walk.coin[i];
  }
  const int status = walk.status | route_status(args, shared);
  if (i != 0) return;
  out.num_accepted[batch_idx] = walk.num_accepted;
  out.next_token[batch_idx] = token;
  out.next_row[batch_idx] = walk.row_idx;
  out.escalate[batch_idx] = escalates;
  out.status[batch_idx] = status | (args.has_resume ? args.resume.status[batch_idx] : 0);
}

// A row that did not escalate is copied through.
VIA_DEVICE_CALL void copy_resumed(const VerifyArgs& args, int batch_idx,
                                  const VerifyShared& shared) {
  const Verification& out = args.p.out;
  const Verification& from = args.resume;
  const int i = static_cast<int>(threadIdx.x);
  const std::int64_t nodes = args.p.num_nodes, first = batch_idx * nodes;
  write_ratios(args, batch_idx, shared);
  if (i < nodes) out.path[first + i] = from.path[first + i];
  if (i <= nodes) out.logprobs[first + batch_idx + i] = from.logprobs[first + batch_idx + i];
  if (i != 0) return;
  out.num_accepted[batch_idx] = from.num_accepted[batch_idx];
  out.next_token[batch_idx] = from.next_token[batch_idx];
  out.next_row[batch_idx] = from.next_row[batch_idx];
  out.escalate[batch_idx] = false;
  out.status[batch_idx] = from.status[batch_idx];
}

// Decides the request, or publishes what it still needs.
VIA_DEVICE_CALL void decide(const VerifyArgs& args, int batch_idx, VerifyShared& shared) {
  load_request(args.p, batch_idx, shared.request);
  if (args.has_resume && !args.resume.escalate[batch_idx]) {
    copy_resumed(args, batch_idx, shared);
    finish_request(args, batch_idx, shared.queue);
    return;
  }
  gather_nodes(args, batch_idx, shared.request, shared.walk);
  if (shared.request.params.router.is_given()) {
    gather_tiers(args.p, batch_idx, shared.request, shared.walk);
  }
  if (threadIdx.x == 0) {
    walk_tree(args, batch_idx, shared.request, shared.walk, shared.rejected);
  }
  __syncthreads();
  ItemKind kind;
  int slot;
  const bool wanted = wanted_item(args, batch_idx, shared.request, shared.walk, kind, slot);
  if (publish_items(args, batch_idx, wanted, kind, slot, shared.queue, shared.scratch) > 0) return;
  const std::int32_t token = next_token(args, batch_idx, shared);
  write_decision(args, batch_idx, shared, token);
  finish_request(args, batch_idx, shared.queue);
}

}  // namespace via::cuda
