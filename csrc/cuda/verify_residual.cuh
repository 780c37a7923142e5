// SPDX-License-Identifier: Apache-2.0
// Residuals of drafts with a distribution (docs/design.md section 4): after each rejected sibling
//   r <- norm(max(r - p, 0)), r = q at first,
// evaluated token by token from q and the rejected siblings' p, so that no row is ever stored.
// Mapping: a block to a chunk, eight tokens a thread. Bytes: one row of q and one of p per rejected
// sibling. With a reduced drafter vocabulary p is gathered into shared memory through the id map,
// as integers of 2^-42: entries on one id add up in any order to the same sum.
#pragma once

#include <cstdint>

#include "core/residual.h"
#include "cuda/verify_request.cuh"
#include "cuda/verify_scan.cuh"

namespace via::cuda {

inline constexpr int kTokensPerThread = kChunk / kThreads;
inline constexpr float kFixedPoint = 0x1p42f;

// Siblings rejected at one row, in order, each with the normaliser of what it was taken from.
struct Rejections {
  int count;
  std::int16_t node[kRows];
  float normaliser[kRows];
};

// The verifier's law of one row.
struct Law {
  Row row;
  const ChunkRecord* records;
  int chunks;
  float scale;
  RowRecord record;

  VIA_DEVICE bool has_mass() const { return record.max > kNegInf; }
  VIA_DEVICE bool is_one_hot() const { return record.max == kPosInf; }
  // Brings weights relative to a chunk's maximum to probabilities.
  VIA_DEVICE float chunk_factor(int chunk_idx) const {
    const double shift =
        exponent_of(records[chunk_idx].max, scale) - exponent_of(record.max, scale);
    return static_cast<float>(exp2(shift) / record.sum);
  }
  VIA_DEVICE float probability(std::int64_t token_id, float chunk_max, float factor) const {
    if (is_one_hot()) return token_id == record.argmax ? 1.0f : 0.0f;
    const float logit = logit_at(row, token_id);
    return record.cut.keeps(logit, token_id) ? weight_of(logit, chunk_max, scale) * factor : 0.0f;
  }
};

// Probability of one column of a draft row; NaN as it is.
VIA_DEVICE float draft_column(const Row& row, bool is_logits, const RowRecord& record,
                              std::int64_t column) {
  if (!is_logits) return raw_value(row, column);
  if (record.max == kPosInf) return column == record.argmax ? 1.0f : 0.0f;
  const float logit = logit_at(row, column);
  const float weight = weight_of(logit, record.max, exponent_scale(1.0f));
  return record.sum > 0.0 ? weight * static_cast<float>(1.0 / record.sum) : 0.0f;
}

// p of every target id of a chunk into `fixed` [kChunk], through the id map. True if a NaN was met.
VIA_DEVICE bool gather_mapped(const VerifyParams& p, const Row& row, const RowRecord& record,
                              int chunk_idx, unsigned long long* fixed) {
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < kChunk; i += kThreads) fixed[i] = 0;
  __syncthreads();
  bool has_nan = false;
  for (std::int64_t c = threadIdx.x; c < row.size; c += kThreads) {
    const std::int64_t target = read_int(p.draft_to_target, c);
    const bool is_ours = target / kChunk == chunk_idx && target >= 0 && target < p.vocab_size;
    // A NaN anywhere in the row counts, once: for the first chunk.
    if (!is_ours && chunk_idx != 0) continue;
    const float value = draft_column(row, p.draft_probs_are_logits, record, c);
    has_nan |= value != value;
    if (!is_ours || !(value > 0.0f)) continue;
    // More than everything is no probability: what it leaves is 0 all the same.
    const float bounded = value < 1.0f ? value : 1.0f;
    atomicAdd(&fixed[target % kChunk], static_cast<unsigned long long>(bounded * kFixedPoint));
  }
  __syncthreads();
  return has_nan;
}

// The residual's weights at kTokensPerThread tokens of a chunk: begin + threadIdx.x * step_thread +
// i * step. Every thread calls. True if a draft row has a NaN among them.
VIA_DEVICE_CALL bool residual_weights(const VerifyArgs& args, int batch_idx, const Request& request,
                                      const Law& law, const Rejections& rejected, int chunk_idx,
                                      int step_thread, int step, unsigned long long* fixed,
                                      float (&r)[kTokensPerThread]) {
  const VerifyParams& p = args.p;
  const int first = static_cast<int>(threadIdx.x) * step_thread;
  const std::int64_t begin = std::int64_t{chunk_idx} * kChunk;
  const float chunk_max = law.records[chunk_idx].max;
  const bool has_mass = law.is_one_hot() || law.records[chunk_idx].sum > 0.0f;
  const float factor = has_mass && !law.is_one_hot() ? law.chunk_factor(chunk_idx) : 0.0f;
#pragma unroll
  for (int i = 0; i < kTokensPerThread; ++i) {
    const std::int64_t id = begin + first + i * step;
    r[i] = has_mass && id < p.vocab_size ? law.probability(id, chunk_max, factor) : 0.0f;
  }
  bool has_nan = false;
  for (int k = 0; k < rejected.count; ++k) {
    const int node = rejected.node[k];
    const Row row = draft_row(p, batch_idx, node);
    const RowRecord& record = row_record(args, batch_idx, args.draft_slot(node));
    const bool is_mapped = p.draft_to_target.data != nullptr;
    if (is_mapped) has_nan |= gather_mapped(p, row, record, chunk_idx, fixed);
#pragma unroll
    for (int i = 0; i < kTokensPerThread; ++i) {
      const int local = first + i * step;
      const std::int64_t id = begin + local;
      float taken = 0.0f;
      if (is_mapped) {
        taken = static_cast<float>(fixed[local]) * (1.0f / kFixedPoint);
      } else if (id < row.size) {
        taken = draft_column(row, p.draft_probs_are_logits, record, id);
        has_nan |= taken != taken;
      }
      r[i] = residual_weight(r[i] * rejected.normaliser[k], taken);
      // The rejected token has no mass left; rounding may say otherwise.
      if (id == request.token[node]) r[i] = 0.0f;
    }
  }
  return has_nan;
}

// The siblings that were rejected before `node` and left mass, then `node` itself. One thread.
VIA_DEVICE void list_rejections(const VerifyArgs& args, int batch_idx, const Request& request,
                                int node, Rejections& rejected) {
  rejected.count = 0;
  float normaliser = 1.0f;
  int sibling = request.first_child[row_of_node(request.parent[node])];
  while (sibling >= 0 && sibling <= node) {
    const RowRecord& record = row_record(args, batch_idx, args.draft_slot(sibling));
    if (sibling == node || residual_has_mass(record.residual)) {
      rejected.node[rejected.count] = static_cast<std::int16_t>(sibling);
      rejected.normaliser[rejected.count] = normaliser;
      ++rejected.count;
      normaliser = static_cast<float>(1.0 / record.residual);
    }
    sibling = request.next_sibling[sibling];
  }
}

// The chunks of one unit after `node` was rejected: masses, and the weights that later siblings'
// tokens have.
VIA_DEVICE_CALL void residual_unit(const VerifyArgs& args, int batch_idx, const Request& request,
                                   const Law& law, int node, const Rejections& rejected,
                                   int first_chunk, int last_chunk, unsigned long long* fixed,
                                   double* scratch) {
  const int buffer = residual_buffer(rejected.count);
  double* const masses = residual_masses(args, batch_idx, buffer);
  float* const siblings = sibling_weights(args, batch_idx, buffer);
  for (int c = first_chunk; c < last_chunk; ++c) {
    float r[kTokensPerThread];
    const bool has_nan =
        residual_weights(args, batch_idx, request, law, rejected, c, 1, kThreads, fixed, r);
    if (has_nan) {
      atomicOr(&row_record(args, batch_idx, args.draft_slot(node)).flags,
               static_cast<unsigned>(kRowHasNan));
    }
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < kTokensPerThread; ++i) sum += r[i];
    const double mass = Block::sum(static_cast<double>(sum), scratch);
    if (threadIdx.x == 0) masses[c] = mass;
    for (int s = request.next_sibling[node]; s >= 0; s = request.next_sibling[s]) {
      const int local = request.token[s] - c * kChunk;
      if (local < 0 || local >= kChunk || local % kThreads != static_cast<int>(threadIdx.x))
        continue;
#pragma unroll
      for (int i = 0; i < kTokensPerThread; ++i) {
        if (i == local / kThreads) siblings[s] = r[i];
      }
    }
  }
}

}  // namespace via::cuda
