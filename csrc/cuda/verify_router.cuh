// SPDX-License-Identifier: Apache-2.0
// The calibrated router on CUDA (docs/design.md section 12): what its models see of a row, found
// once when the row's chunks are joined, and the tiers of all nodes, a thread to a node.
// Bytes: the chunk that holds the row's maximum once more, from the second-level cache; the scan
// itself is the same with and without a router.
#pragma once

#include <cstdint>

#include "cuda/verify_request.cuh"

namespace via::cuda {

// The second largest logit of a row with a finite maximum; equal to it where two tokens share it,
// -inf where no other token has mass. Every thread of the block calls and gets it.
VIA_DEVICE float second_max(const Row& row, const RowRecord& record, const ChunkRecord* records,
                            int chunks, float* scratch) {
  const std::int64_t owner = record.argmax / kChunk;
  float second = kNegInf;
  for (int c = static_cast<int>(threadIdx.x); c < chunks; c += kThreads) {
    if (c != owner) second = MaxOf{}(second, records[c].max);
  }
  const std::int64_t end = (owner + 1) * kChunk < row.size ? (owner + 1) * kChunk : row.size;
  for (std::int64_t id = owner * kChunk + threadIdx.x; id < end; id += kThreads) {
    if (id != record.argmax) second = MaxOf{}(second, logit_at(row, id));
  }
  return Block::max(second, scratch);
}

// Features of a joined row before filters. Every thread of the block calls and gets them.
VIA_DEVICE_CALL RowFeatures find_features(const Row& row, const RowRecord& record,
                                          const ChunkRecord* records, int chunks,
                                          const RequestParams& params, float* scratch) {
  if (!(record.max > kNegInf) || record.max == kPosInf) {
    return row_features(record.max, kNegInf, 0.0, 1.0f);
  }
  const float second = second_max(row, record, records, chunks, scratch);
  const float scale = params.scale();
  const double exponent = exponent_of(record.max, scale);
  return row_features(record.max, second, log_probability(record.max, scale, record.sum, exponent),
                      ratio_temperature(params.filters.temperature));
}

// Depth of the children of a row; those of the root have 1.
VIA_DEVICE int child_depth(const VerifyParams& p, const Request& request, int row_idx) {
  if (p.parents.data == nullptr) return row_idx + 1;
  int depth = 1;
  for (int node = row_idx - 1; node >= 0; node = request.parent[node]) ++depth;
  return depth;
}

// Tier of a live node whose row has been scanned.
VIA_DEVICE_CALL Tier tier_by_router(const VerifyParams& p, int batch_idx, const Request& request,
                                    int node, const RowRecord& row, float logit, float ratio) {
  const TensorView& scores = p.draft_scores;
  const float* drafted = nullptr;
  if (scores.data != nullptr) {
    drafted = static_cast<const float*>(scores.data) + batch_idx * scores.stride[0] +
              node * scores.stride[1];
  }
  const std::int32_t token = request.token[node];
  const float ratio_log = log_ratio(logit, token, row.max, row.argmax,
                                    ratio_temperature(request.params.filters.temperature));
  const int depth = child_depth(p, request, row_of_node(request.parent[node]));
  return routed_tier(request.params.router, ratio,
                     node_features(ratio_log, row.features, drafted, depth, token == row.argmax));
}

// Whether the bonus token of a scanned row passes.
VIA_DEVICE_CALL bool bonus_by_router(const VerifyParams& p, const Request& request, int row_idx,
                                     const RowRecord& row) {
  const RouterFeatures features = bonus_features(row.features, child_depth(p, request, row_idx));
  return request.params.router.passes(RouterModel::kBonus, features);
}

}  // namespace via::cuda
