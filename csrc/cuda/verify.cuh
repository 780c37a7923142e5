// SPDX-License-Identifier: Apache-2.0
// verify on CUDA: one launch from logits to decisions (docs/design.md sections 2 to 4).
//   r(v) = s_u(v) / max_w s_u(w), three-way routing, lossless acceptance u p(x) < q(x), recovered
//   and bonus token, log-probabilities, status
// Mapping: blocks of 256 threads take units of work, some 2048-token chunks of one row, a warp to a
// chunk (cuda/verify_scan.cuh). The last block to finish a row merges and filters it; the last to
// finish a request's rows walks its tree (cuda/verify_decide.cuh), decides, or asks for the rows it
// turns out to need, which any block then takes (cuda/verify_queue.cuh). A small problem reads all
// rows at once, a large one only those on the walk.
// Bytes: rows with a child (route), rows on the walk (greedy, sample), once; plus 16 per chunk.
// Numerics: cuda/verify_scan.cuh; no float atomics, every sum in an order of its own: results are
// bitwise repeatable and independent of grid and batch.
#pragma once

#include <cstdint>

#include "cuda/verify_decide.cuh"

namespace via::cuda {

// Node exists and its id is a token; ancestors are not looked at.
VIA_DEVICE bool has_token(const VerifyParams& p, int batch_idx, int node_idx) {
  if (node_idx >= p.num_nodes || node_idx >= node_count(p, batch_idx)) return false;
  return node_kind(node_token(p, batch_idx, node_idx), p.vocab_size) == NodeKind::kToken;
}

// Whether the row of a static item can matter. Reads a few words only; every thread calls, with the
// same result.
VIA_DEVICE bool is_row_needed(const VerifyArgs& args, int batch_idx, int row_idx, int base,
                              const RequestParams& params) {
  const VerifyParams& p = args.p;
  if (args.has_resume && !args.resume.escalate[batch_idx]) return false;
  if (row_idx > p.num_nodes) return false;
  if (params.is_refused) return row_idx == base;
  if (p.rule != Rule::kRoute) return row_idx == base || has_token(p, batch_idx, row_idx - 1);
  const int i = static_cast<int>(threadIdx.x);
  const bool is_child =
      i < p.num_nodes && node_parent(p, batch_idx, i) == row_idx - 1 && has_token(p, batch_idx, i);
  if (__syncthreads_or(is_child) != 0) return true;
  const bool may_be_reached = row_idx == 0 || has_token(p, batch_idx, row_idx - 1);
  return params.may_give_bonus() && may_be_reached && (row_idx == 0 || args.plan.reads_leaves);
}

// Whether there is anything to read for a static item.
VIA_DEVICE_CALL bool is_work_needed(const VerifyArgs& args, const Work& work) {
  const RequestParams params = read_request_params(args.p, work.batch_idx);
  if (!work.is_in_range) return false;
  if (work.kind == ItemKind::kTarget) {
    return is_row_needed(args, work.batch_idx, work.slot, work.base, params);
  }
  if (args.has_resume && !args.resume.escalate[work.batch_idx]) return false;
  return uses_draft_probs(args.p, params) &&
         has_token(args.p, work.batch_idx, work.slot - args.draft_slot(0));
}

// Chunks of a row that a unit covers.
struct ChunkRange {
  int first;
  int last;
};
VIA_DEVICE ChunkRange unit_chunks(const VerifyArgs& args, int unit, int chunks) {
  const std::int64_t units = args.plan.units;
  return {static_cast<int>(unit * std::int64_t{chunks} / units),
          static_cast<int>((unit + 1) * std::int64_t{chunks} / units)};
}

VIA_DEVICE_CALL void run_unit(const VerifyArgs& args, VerifyShared& shared) {
  const Work work = shared.queue.work;
  const RequestParams params = read_request_params(args.p, work.batch_idx);
  // Not behind published items: a ticket could keep one that others are free to take.
  unsigned* const counter = work.is_static ? &args.ws.queue->head.value : nullptr;
  if (work.kind == ItemKind::kTarget) {
    const ChunkRange range = unit_chunks(args, work.unit, args.plan.chunks);
    float* const lane_max =
        args.plan.stores_lane_max ? lane_maxima(args, work.batch_idx, work.slot) : nullptr;
    const unsigned ticket =
        scan_unit(target_row(args.p, work.batch_idx, work.slot), params.scale(), range.first,
                  range.last, chunk_records(args, work.batch_idx, work.slot), lane_max, counter);
    if (threadIdx.x == 0) shared.queue.ticket = ticket;
  } else if (work.kind == ItemKind::kDraft) {
    if (!args.p.draft_probs_are_logits) return;
    const ChunkRange range = unit_chunks(args, work.unit, args.plan.draft_chunks);
    const unsigned ticket = scan_unit(
        draft_row(args.p, work.batch_idx, work.slot - args.draft_slot(0)), exponent_scale(1.0f),
        range.first, range.last, chunk_records(args, work.batch_idx, work.slot), nullptr, counter);
    if (threadIdx.x == 0) shared.queue.ticket = ticket;
  } else if (work.kind == ItemKind::kResidual) {
    const int node = work.slot - args.draft_slot(0);
    load_request(args.p, work.batch_idx, shared.request);
    if (threadIdx.x == 0) {
      list_rejections(args, work.batch_idx, shared.request, node, shared.rejected);
    }
    __syncthreads();
    const int row_idx = row_of_node(shared.request.parent[node]);
    const Law law = target_law(args, work.batch_idx, row_idx, shared.request.params,
                               row_record(args, work.batch_idx, row_idx));
    const ChunkRange range = unit_chunks(args, work.unit, args.plan.chunks);
    residual_unit(args, work.batch_idx, shared.request, law, node, shared.rejected, range.first,
                  range.last, shared.fixed, shared.draw.scratch);
  }
}

// p of the node's own token, where it takes more than reading one element.
VIA_DEVICE_CALL RowRecord finish_draft(const VerifyArgs& args, int batch_idx, int node,
                                       VerifyShared& shared) {
  const VerifyParams& p = args.p;
  const Row row = draft_row(p, batch_idx, node);
  const std::int64_t token = node_token(p, batch_idx, node);
  const float scale = exponent_scale(1.0f);
  RowRecord record = {};
  if (p.draft_probs_are_logits) {
    record = merge_chunks(chunk_records(args, batch_idx, args.draft_slot(node)),
                          args.plan.draft_chunks, scale, shared.draw.scratch);
  }
  const auto column = [&](std::int64_t idx) -> double {
    if (!p.draft_probs_are_logits) return raw_value(row, idx);
    if (record.max == kPosInf) return idx == record.argmax ? 1.0 : 0.0;
    if (!(record.max > kNegInf)) return 0.0;
    return probability(logit_at(row, idx), scale, record.sum, exponent_of(record.max, scale));
  };
  if (p.draft_to_target.data == nullptr) {
    record.probability = column(token);
  } else {
    double sum = 0.0;
    unsigned flags = 0;
    for (std::int64_t c = threadIdx.x; c < row.size; c += kThreads) {
      const std::int64_t target = read_int(p.draft_to_target, c);
      if (target < 0 || target >= p.vocab_size) flags |= kRowHasBadId;
      if (target != token) continue;
      const double value = column(c);
      if (value != value) flags |= kRowHasNan;
      if (value > 0.0) sum += value;
    }
    record.probability = Block::sum(sum, shared.draw.scratch);
    if (__syncthreads_or(static_cast<int>(flags & kRowHasNan)) != 0) record.flags |= kRowHasNan;
    if (__syncthreads_or(static_cast<int>(flags & kRowHasBadId)) != 0) {
      record.flags |= kRowHasBadId;
    }
  }
  record.flags |= kRowScanned;
  return record;
}

// What follows when all units of an item are done.
VIA_DEVICE_CALL void complete_item(const VerifyArgs& args, VerifyShared& shared) {
  const Work work = shared.queue.work;
  const RequestParams params = read_request_params(args.p, work.batch_idx);
  RowRecord& stored = row_record(args, work.batch_idx, work.slot);
  ChunkRecord* const records = chunk_records(args, work.batch_idx, work.slot);
  if (work.kind == ItemKind::kDraft) {
    const RowRecord record =
        finish_draft(args, work.batch_idx, work.slot - args.draft_slot(0), shared);
    if (threadIdx.x == 0) stored = record;
    return;
  }
  if (work.kind == ItemKind::kResidual) {
    const int node = work.slot - args.draft_slot(0);
    const double* const masses =
        residual_masses(args, work.batch_idx, residual_buffer(shared.rejected.count));
    double mass = 0.0;
    for (int c = static_cast<int>(threadIdx.x); c < args.plan.chunks; c += kThreads) {
      mass += masses[c];
    }
    mass = Block::sum(mass, shared.draw.scratch);
    if (threadIdx.x != 0) return;
    RowRecord& draft = row_record(args, work.batch_idx, args.draft_slot(node));
    draft.residual = mass;
    draft.flags |= kRowRejected;
    return;
  }
  const float scale = params.scale();
  RowRecord record = stored;
  bool filters = true;
  if (work.kind == ItemKind::kTarget) {
    record = merge_chunks(records, args.plan.chunks, scale, shared.draw.scratch);
    filters = args.p.rule != Rule::kRoute;
    if (params.router.is_given()) {
      record.features =
          find_features(target_row(args.p, work.batch_idx, work.slot), record, records,
                        args.plan.chunks, params, reinterpret_cast<float*>(shared.draw.scratch));
    }
  }
  const bool can_filter =
      params.needs_filter(args.p.vocab_size) && record.max > kNegInf && record.max < kPosInf;
  if (!can_filter) {
    record.flags |= kRowFiltered;
  } else if (filters) {
    record = filter_row(target_row(args.p, work.batch_idx, work.slot), record, params.filters,
                        scale, records, args.plan.chunks,
                        lane_maxima(args, work.batch_idx, work.slot), shared.buffer, shared.select);
  }
  if (threadIdx.x == 0) stored = record;
}

VIA_DEVICE_CALL void run_work(const VerifyArgs& args, VerifyShared& shared) {
  const Work& work = shared.queue.work;
  const bool runs = !work.is_static || is_work_needed(args, work);
  if (runs) run_unit(args, shared);
  if (!finish_unit(args, shared.queue)) return;
  if (runs) complete_item(args, shared);
  if (finish_item(args, shared.queue)) decide(args, work.batch_idx, shared);
}

// A block's part of a call. All blocks of the grid take part; a barrier among them, or the end of
// the launch, stands between two calls.
VIA_DEVICE void run_verify(const VerifyArgs& args, VerifyShared& shared) {
  if (threadIdx.x == 0) shared.queue.ticket = kNoTicket;
  while (take_work(args, shared.queue)) run_work(args, shared);
  leave_queue(args, shared.queue);
}

}  // namespace via::cuda
