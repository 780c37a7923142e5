// SPDX-License-Identifier: Apache-2.0
// One batch row of a verify call as it came in: its parameters, its tree, its coins. Ids, counts,
// parents and per-row parameters live in the caller's arrays; they are checked here and reported in
// the row's status, never on the host:
//   malformed tree: as if nothing was drafted; id outside the vocabulary: its subtree is absent;
//   parameter out of range: the row is greedy and accepts nothing.
#pragma once

#include <cstdint>

#include "core/philox.h"
#include "core/route.h"
#include "core/router.h"
#include "core/tree.h"
#include "cuda/verify_row.cuh"

namespace via::cuda {

struct RequestParams {
  Filters filters;
  RouteThresholds tau;
  RowRouter router;  // decides in place of tau if given
  bool is_refused;
  bool holds_probs;  // rows are probabilities, not logits

  // False if a leaf escalates whatever its row holds.
  VIA_DEVICE bool may_give_bonus() const {
    return router.is_given() ? router.may_give_bonus() : bonus_is_allowed(tau);
  }
  VIA_DEVICE bool is_greedy() const { return !(filters.temperature > 0.0f); }
  // The scale of the verifier's rows: temperature 1 when decoding greedily.
  VIA_DEVICE float scale() const {
    if (holds_probs) return kProbabilityRow;
    return exponent_scale(is_greedy() ? 1.0f : filters.temperature);
  }
  VIA_DEVICE bool needs_filter(std::int32_t vocab_size) const {
    const bool top_k = filters.top_k > 0 && filters.top_k < vocab_size;
    return !is_greedy() && (top_k || filters.top_p < 1.0f || filters.min_p > 0.0f);
  }
};

VIA_DEVICE RequestParams read_request_params(const VerifyParams& p, int batch_idx) {
  RequestParams params;
  params.filters = {read_param(p.filter.temperature, batch_idx),
                    read_param(p.filter.top_k, batch_idx), read_param(p.filter.top_p, batch_idx),
                    read_param(p.filter.min_p, batch_idx)};
  params.tau = {read_param(p.accept_threshold, batch_idx),
                read_param(p.escalate_threshold, batch_idx),
                read_param(p.draft_threshold, batch_idx), p.use_draft_threshold};
  const bool is_route = p.rule == Rule::kRoute;
  params.router = {};
  if (is_route && p.use_router) params.router = read_router(p.router, batch_idx);
  const bool decides =
      params.router.is_given() ? params.router.holds_numbers() : thresholds_are_valid(params.tau);
  params.is_refused = !filters_are_valid(params.filters) || (is_route && !decides);
  if (params.is_refused) {
    params.filters = {};
    params.tau = {};
    params.router = {};
  }
  params.holds_probs = p.logits_are_probs;
  return params;
}

VIA_DEVICE std::int64_t node_count(const VerifyParams& p, int batch_idx) {
  if (p.node_counts.data == nullptr) return p.num_nodes;
  return read_int(p.node_counts, batch_idx * p.node_counts.stride[0]);
}
VIA_DEVICE std::int64_t node_parent(const VerifyParams& p, int batch_idx, int node_idx) {
  if (p.parents.data == nullptr) return node_idx - 1;
  return read_int(p.parents, batch_idx * p.parents.stride[0] + node_idx);
}
VIA_DEVICE std::int64_t node_token(const VerifyParams& p, int batch_idx, int node_idx) {
  return read_int(p.draft_token_ids, batch_idx * p.draft_token_ids.stride[0] + node_idx);
}

// In shared memory.
struct Request {
  RequestParams params;
  int num_nodes;
  int status;
  std::int32_t token[kRows];
  std::int16_t parent[kRows];
  std::int16_t first_child[kRows];   // by logits row; -1 = none
  std::int16_t next_sibling[kRows];  // by node; -1 = none
  std::uint8_t is_live[kRows];
  std::uint8_t is_duplicate[kRows];  // an earlier live sibling has the same token
  std::int16_t ancestor[kRows];      // used while reading
};

// Reads and checks everything but the logits; every thread of the block calls, and none may still
// be using what `request` held.
VIA_DEVICE_CALL void load_request(const VerifyParams& p, int batch_idx, Request& request) {
  const int i = static_cast<int>(threadIdx.x);
  const std::int64_t count = node_count(p, batch_idx);
  bool is_tree = count >= 0 && count <= p.num_nodes;
  bool is_bad_parent = false, is_bad_token = false;
  if (is_tree && i < count) {
    const std::int64_t parent = node_parent(p, batch_idx, i);
    const std::int64_t token = node_token(p, batch_idx, i);
    const NodeKind kind = node_kind(token, p.vocab_size);
    is_bad_parent = !parent_is_valid(parent, i);
    is_bad_token = kind == NodeKind::kBadToken;
    request.token[i] = static_cast<std::int32_t>(token);
    request.parent[i] = request.ancestor[i] = static_cast<std::int16_t>(parent);
    request.is_live[i] = kind == NodeKind::kToken;
  }
  is_tree = __syncthreads_or(is_bad_parent) == 0 && is_tree;
  const bool has_bad_token = __syncthreads_or(is_bad_token) != 0;
  const int num_nodes = is_tree ? static_cast<int>(count) : 0;
  if (i == 0) {
    request.params = read_request_params(p, batch_idx);
    request.num_nodes = num_nodes;
    request.status = is_tree ? (has_bad_token ? kStatusTokenId : 0) : kStatusTree;
    if (request.params.is_refused) request.status |= kStatusParameter;
  }
  const bool is_used = i < num_nodes;
  // Whether all ancestors are live, in doubling steps.
  for (int reach = 1; reach < num_nodes; reach *= 2) {
    bool live = false;
    int next = -1;
    if (is_used) {
      const int ancestor = request.ancestor[i];
      live = request.is_live[i] && (ancestor < 0 || request.is_live[ancestor]);
      next = ancestor < 0 ? -1 : request.ancestor[ancestor];
    }
    __syncthreads();
    if (is_used) {
      request.is_live[i] = live;
      request.ancestor[i] = static_cast<std::int16_t>(next);
    }
    __syncthreads();
  }
  if (i <= num_nodes) {
    int child = i;  // a child of row i is node i or a later one
    while (child < num_nodes &&
           !(request.is_live[child] && row_of_node(request.parent[child]) == i)) {
      ++child;
    }
    request.first_child[i] = static_cast<std::int16_t>(child < num_nodes ? child : -1);
  }
  if (is_used) {
    int sibling = i + 1;
    while (sibling < num_nodes &&
           !(request.is_live[sibling] && request.parent[sibling] == request.parent[i])) {
      ++sibling;
    }
    request.next_sibling[i] = static_cast<std::int16_t>(sibling < num_nodes ? sibling : -1);
    bool duplicate = false;
#pragma unroll 1
    for (int j = request.parent[i] + 1; j < i; ++j) {
      duplicate |= request.is_live[j] && request.parent[j] == request.parent[i] &&
                   request.token[j] == request.token[i];
    }
    request.is_duplicate[i] = duplicate;
  }
  __syncthreads();
}

// Acceptance coin of a column, or the uniform of the final draw. Given uniforms win; among them the
// final draw is column N. From a seed it has a purpose of its own and column 0, so that padding a
// row to a wider batch changes nothing.
VIA_DEVICE float request_uniform(const VerifyParams& p, int batch_idx, int column,
                                 Purpose purpose) {
  const bool is_final = purpose == kPurposeFinalDraw;
  if (p.uniform_samples.data != nullptr) {
    const float* const row =
        static_cast<const float*>(p.uniform_samples.data) + batch_idx * p.uniform_samples.stride[0];
    return clamp_uniform(row[is_final ? p.num_nodes : column]);
  }
  if (p.seed.data == nullptr || p.position.data == nullptr) return 0.0f;
  return philox_uniform(read_int(p.seed, batch_idx * p.seed.stride[0]),
                        read_int(p.position, batch_idx * p.position.stride[0]),
                        is_final ? 0u : static_cast<std::uint32_t>(column), purpose);
}

}  // namespace via::cuda
