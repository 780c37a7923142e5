// SPDX-License-Identifier: Apache-2.0
// Stage greedy: backlog and draft judged as one tree; and the choice of the stage.
#pragma once

#include "core/step_full.h"

namespace via {
VIA_CORE_BEGIN

// Greedy exact: one walk over backlog and draft, as one tree.
VIA_HD void step_greedy(const StepParams& p, int batch_idx) {
  const StepRow row(p, batch_idx);
  const SlimWalk walk = stored_walk(row);
  p.move_counts[batch_idx] = 0;  // what the slim walk kept has been moved
  if (walk.escalate) {
    const int backlog = row.backlog;
    const int first = p.frontiers[batch_idx] + 1;
    const int found = p.audit_result.num_accepted[batch_idx];
    const float* const values = row.of(p.audit_result.logprobs, p.audit_nodes + 1);
    const std::int32_t* const slim_path = row.of(p.slim.path, p.num_nodes);
    std::int32_t* const path = row.of(p.audit_result.path, p.audit_nodes);
    p.status[batch_idx] |= p.audit_result.status[batch_idx];
    p.verify_calls[batch_idx] += 1;
    const int kept = found < backlog ? found : backlog;
    const int path_len = found - kept;
    for (int i = 0; i < path_len; ++i) path[i] = path[backlog + i] - backlog;
    int same = 0;
    while (same < path_len && same < walk.path && path[same] == slim_path[same]) ++same;
    for (int i = 0; i < kept; ++i) {
      float* const logprob = row.of(p.logprobs, p.capacity) + first + i;
      row.set_overshoot(first + i, *logprob, values[i]);
      *logprob = values[i];
    }
    for (int i = 0; i < same && kept == backlog; ++i) {
      row.set_overshoot(row.length + i, row.of(p.slim.logprobs, p.num_nodes + 1)[i],
                        values[backlog + i]);
    }
    commit_full(
        row, kept, path, path_len, path_len + 1,
        [&](int i) {
          return i < path_len ? row.draft_id(path[i]) : p.audit_result.next_token[batch_idx];
        },
        [&](int i) { return i < same ? kTokenAccepted : kTokenFull; },
        [&](int i) { return values[kept + i]; });
  }
  row.set_words(false, false, 0);
}

VIA_HD void run_stage(StepStage stage, const StepParams& p, int batch_idx) {
  switch (stage) {
    case StepStage::kBegin: return step_begin(p, batch_idx);
    case StepStage::kSlim: return step_slim(p, batch_idx);
    case StepStage::kAudit: return step_audit(p, batch_idx);
    case StepStage::kFull: return step_full(p, batch_idx);
    case StepStage::kGreedy: return step_greedy(p, batch_idx);
  }
}

VIA_CORE_END
}  // namespace via
