// SPDX-License-Identifier: Apache-2.0
// Stage slim: how far the slim verifier decides, and the full pass's inputs where it does not.
#pragma once

#include "core/step_begin.h"

namespace via {
VIA_CORE_BEGIN

struct SlimWalk {
  int path = 0;     // accepted nodes
  int decided = 0;  // tokens: the path's, then perhaps the slim verifier's own
  bool final = false;
  bool escalate = true;
};

// The walk, cut where the backlog is full or the request ends. Both cuts depend only on tokens that
// are already resolved, never on the children of the row where the full model takes over: exact
// sampling stays exact.
VIA_HD SlimWalk read_walk(const StepRow& row) {
  const StepParams& p = row.p;
  const std::int32_t* const path = row.of(p.slim.path, p.num_nodes);
  SlimWalk walk;
  p.status[row.b] |= p.slim.status[row.b];
  p.verify_calls[row.b] += 1;
  walk.path = p.slim.num_accepted[row.b];
  walk.escalate = p.slim.escalate[row.b];
  row.count(kCountAccepted, walk.path);
  if (row.has_children(last_row(path, walk.path))) {
    row.count(walk.escalate ? kCountEscalated : kCountRegenerated, 1);
  }
  // Row 0 adds the root to the backlog, each accepted node one more.
  const int most = p.max_backlog - row.backlog;
  if (walk.path >= most) {
    walk.path = most;
    walk.escalate = true;
  }
  walk.decided = walk.path + !walk.escalate;
  const int cut = row.cut(row.length, walk.decided, [&](int i) {
    return i < walk.path ? row.draft_id(path[i]) : p.slim.next_token[row.b];
  });
  if (cut > 0) {
    walk.path = walk.path < cut ? walk.path : cut;
    walk.decided = cut;
    walk.final = true;
    walk.escalate = p.audit != StepAudit::kNone;
  }
  p.own_token[row.b] = p.slim.next_token[row.b];
  p.own_logprob[row.b] = row.of(p.slim.logprobs, p.num_nodes + 1)[walk.path];
  return walk;
}

VIA_HD std::int64_t decided_token(const StepRow& row, const SlimWalk& walk, int i) {
  return i < walk.path ? row.draft_id(row.of(row.p.slim.path, row.p.num_nodes)[i])
                       : row.p.own_token[row.b];
}

// Provisional where the policy audits.
VIA_HD void commit_walk(const StepRow& row, const SlimWalk& walk) {
  const StepParams& p = row.p;
  const std::int32_t* const path = row.of(p.slim.path, p.num_nodes);
  for (int i = 0; i < walk.path; ++i) row.of(p.move_path, p.num_nodes)[i] = path[i];
  p.move_context[row.b] = row.root;
  p.move_counts[row.b] = p.hidden_counts[row.b] = walk.path;
  p.hidden_context[row.b] = row.backlog;
  row.append(
      row.length, walk.decided, [&](int i) { return decided_token(row, walk, i); },
      [&](int i) { return i < walk.path ? kTokenAccepted : kTokenSlim; },
      [&](int i) { return row.of(p.slim.logprobs, p.num_nodes + 1)[i]; });
  if (p.audit == StepAudit::kNone) {
    p.confirmed[row.b] = p.lengths[row.b];
    p.finished[row.b] = walk.final;
  }
  row.count(kCountExamined, walk.path + row.has_children(last_row(path, walk.path)));
  row.count(kCountKept, walk.path);
}

// What a verify call resumes from: as if the slim verifier had escalated right after the path.
// Rows without a full pass are copied through by that call.
VIA_HD void cut_verification(const StepRow& row, int path_len, bool full) {
  const Verification& slim = row.p.slim;
  slim.escalate[row.b] = full;
  if (!full) return;
  const int width = row.p.num_nodes;
  for (int i = path_len; i < width; ++i) row.of(slim.path, width)[i] = -1;
  for (int i = path_len; i <= width; ++i) row.of(slim.logprobs, width + 1)[i] = 0.0f;
  slim.num_accepted[row.b] = path_len;
  slim.next_token[row.b] = -1;
  slim.next_row[row.b] = last_row(row.of(slim.path, width), path_len);
}

// Rows of slim distributions to keep for the audit: one per decided token.
VIA_HD void set_slim_rows(const StepRow& row, const SlimWalk& walk) {
  const StepParams& p = row.p;
  const std::int32_t* const path = row.of(p.slim.path, p.num_nodes);
  for (int i = 0; i <= p.num_nodes; ++i) {
    const bool keeps = i < walk.decided;
    row.of(p.slim_source, p.num_nodes + 1)[i] = keeps && i > 0 ? path[i - 1] + 1 : 0;
    row.of(p.slim_target, p.num_nodes + 1)[i] =
        row.b * (p.max_backlog + std::int64_t{1}) + (keeps ? row.backlog + i : p.max_backlog);
  }
}

VIA_CORE_END
}  // namespace via
