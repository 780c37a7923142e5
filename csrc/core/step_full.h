// SPDX-License-Identifier: Apache-2.0
// Stages audit and full: what the full model decided, and its commit.
#pragma once

#include "core/step_tail.h"

namespace via {
VIA_CORE_BEGIN

// Commits a full pass: the first `backlog_kept` backlog tokens stay, new tokens follow them.
template <typename TokenAt, typename TierAt, typename LogprobAt>
VIA_HD void commit_full(const StepRow& row, int backlog_kept, const std::int32_t* path,
                        int path_len, int count, const TokenAt& token_at, const TierAt& tier_at,
                        const LogprobAt& logprob_at) {
  const StepParams& p = row.p;
  const int kept = p.frontiers[row.b] + 1 + backlog_kept;
  int dropped = 0;
  for (int i = kept; i < row.length; ++i) {
    dropped += row.of(p.tiers, p.capacity)[i] == kTokenAccepted;
  }
  if (kept == row.length) {
    for (int i = 0; i < path_len; ++i) row.of(p.move_path, p.num_nodes)[i] = path[i];
    p.move_context[row.b] = row.root;
    p.move_counts[row.b] = path_len;
  }
  row.count(kCountExamined, path_len + row.has_children(last_row(path, path_len)));
  row.count(kCountKept, path_len - dropped);
  row.count(kCountFullPasses, 1);
  const int cut = row.cut(kept, count, token_at);
  row.append(kept, cut > 0 ? cut : count, token_at, tier_at, logprob_at);
  p.kept[row.b] = kept;
  p.finished[row.b] = cut > 0;
  p.frontiers[row.b] = p.lengths[row.b] - 1;
  p.confirmed[row.b] = p.lengths[row.b];
}

VIA_HD SlimWalk stored_walk(const StepRow& row) {
  const std::int32_t* const fields = row.of(row.p.walk, kWalkFields);
  SlimWalk walk;
  walk.path = fields[kWalkPath];
  walk.decided = fields[kWalkDecided];
  walk.final = fields[kWalkFinal] != 0;
  walk.escalate = fields[kWalkFull] != 0;
  return walk;
}

// The audit of a chain. What passes goes on to stage full, with its log-probabilities now the full
// model's; a failure, or the request's end, is committed here.
VIA_HD void step_audit(const StepParams& p, int batch_idx) {
  const StepRow row(p, batch_idx);
  const SlimWalk walk = stored_walk(row);
  p.move_counts[batch_idx] = 0;  // what the slim walk kept has been moved
  if (!walk.escalate) return;
  const int backlog = row.backlog;
  const int first = p.frontiers[batch_idx] + 1;
  const int total = backlog + walk.decided;
  const float* const values = row.of(p.audit_result.logprobs, p.audit_nodes + 1);
  const std::int32_t* const path = row.of(p.slim.path, p.num_nodes);
  float* const logprobs = row.of(p.logprobs, p.capacity);
  float* const walk_logprobs = row.of(p.slim.logprobs, p.num_nodes + 1);
  int kept = 0;
  if (total > 0) {
    p.status[batch_idx] |= p.audit_result.status[batch_idx];
    p.verify_calls[batch_idx] += 1;
    kept = p.audit_result.num_accepted[batch_idx];
    kept = kept < total ? kept : total;
  }
  for (int i = 0; i < kept; ++i) {
    const int step = i - backlog;
    const float slim = step < 0           ? logprobs[first + i]
                       : step < walk.path ? walk_logprobs[step]
                                          : p.own_logprob[batch_idx];
    row.set_overshoot(first + i, slim, values[i]);
    if (step < 0) logprobs[first + i] = values[i];
    if (step >= 0 && step < walk.path) walk_logprobs[step] = values[i];
  }
  const int backlog_kept = kept < backlog ? kept : backlog;
  if (kept < total) {
    const int path_len = kept - backlog_kept;
    commit_full(
        row, backlog_kept, path, path_len, path_len + 1,
        [&](int i) {
          return i < path_len ? row.draft_id(path[i]) : p.audit_result.next_token[batch_idx];
        },
        [&](int i) { return i < path_len ? kTokenAccepted : kTokenFull; },
        [&](int i) { return values[backlog_kept + i]; });
  } else if (walk.final) {
    commit_full(
        row, backlog, path, walk.path, walk.decided,
        [&](int i) { return decided_token(row, walk, i); },
        [&](int i) { return i < walk.path ? kTokenAccepted : kTokenSlim; },
        [&](int i) { return values[backlog + i]; });
  } else {
    return;
  }
  row.of(p.walk, kWalkFields)[kWalkFull] = 0;
  p.slim.escalate[batch_idx] = false;
  row.set_words(false, false, 0);
}

// The draft under the full model, from where the slim walk stopped.
VIA_HD void step_full(const StepParams& p, int batch_idx) {
  const StepRow row(p, batch_idx);
  const SlimWalk walk = stored_walk(row);
  if (p.audit == StepAudit::kNone) p.move_counts[batch_idx] = 0;
  if (walk.escalate) {
    const std::int32_t* const path = row.of(p.full.path, p.num_nodes);
    const int accepted = p.full.num_accepted[batch_idx];
    p.status[batch_idx] |= p.full.status[batch_idx];
    p.verify_calls[batch_idx] += 1;
    if (p.audit == StepAudit::kNone) {
      const float* const pairs = row.of(p.path_logprobs, 2 * p.num_nodes);
      for (int i = 0; i < walk.path; ++i) {
        row.set_overshoot(row.length + i, pairs[2 * i], pairs[2 * i + 1]);
      }
    }
    commit_full(
        row, row.backlog, path, accepted, accepted + 1,
        [&](int i) { return i < accepted ? row.draft_id(path[i]) : p.full.next_token[batch_idx]; },
        [&](int i) { return i < walk.path ? kTokenAccepted : kTokenFull; },
        [&](int i) { return row.of(p.full.logprobs, p.num_nodes + 1)[i]; });
  }
  row.set_words(false, false, 0);
}

VIA_CORE_END
}  // namespace via
