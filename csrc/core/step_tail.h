// SPDX-License-Identifier: Apache-2.0
// Inputs of a full pass: backlog and root in front, draft nodes behind, and what its audit judges.
#pragma once

#include "core/step_slim.h"

namespace via {
VIA_CORE_BEGIN

// Tail token j: j < lead stands at frontier + j; then come the nodes. What is no token is a chain.
VIA_HD void set_tail(const StepRow& row, bool full) {
  const StepParams& p = row.p;
  const int width = p.num_nodes + 1;
  const int lead = row.backlog + 1;
  const int count = lead + p.node_counts[row.b];
  const std::int32_t* const parents = row.of(p.block_parents, width);
  const std::int32_t* const depths = row.of(p.block_depths, width);
  p.tail_context[row.b] = p.frontiers[row.b];
  p.tail_counts[row.b] = full ? count : 0;
  for (int j = 0; j < p.tail_width; ++j) {
    const bool node = j >= lead && j < count;
    row.of(p.tail_parents, p.tail_width)[j] = node ? lead - 1 + parents[j - lead + 1] : j - 1;
    row.of(p.tail_depths, p.tail_width)[j] = node ? lead - 1 + depths[j - lead + 1] : j;
  }
  for (int i = 0; i < width; ++i) row.of(p.draft_rows, width)[i] = row.backlog + i;
}

// Greedy: backlog and nodes as one tree, rows as they stand in the tail.
VIA_HD void set_audit_tree(const StepRow& row, bool full) {
  const StepParams& p = row.p;
  const int width = p.max_backlog + p.num_nodes;
  const std::int32_t* const parents = row.of(p.block_parents, p.num_nodes + 1);
  const std::int32_t* const depths = row.of(p.block_depths, p.num_nodes + 1);
  const int backlog = row.backlog;
  p.chain_counts[row.b] = full ? backlog + p.node_counts[row.b] : 0;
  for (int i = 0; i < width; ++i) {
    const bool node = i >= backlog && i < backlog + p.num_nodes;
    row.of(p.chain_ids, width)[i] = i < backlog
                                        ? row.of(p.tokens, p.capacity)[p.frontiers[row.b] + 1 + i]
                                        : (node ? row.draft_id(i - backlog) : -1);
    row.of(p.chain_parents, width)[i] = node ? backlog - 1 + parents[i - backlog + 1] : i - 1;
  }
  for (int r = 0; r <= width; ++r) {
    const bool node = r > backlog && r <= backlog + p.num_nodes;
    row.of(p.chain_held, width + 1)[r] = row.held(node ? depths[r - backlog] : r - backlog);
  }
}

// Sampling and route: every provisional token, the backlog's and the walk's, as one chain. A final
// token of the slim verifier's own has no row after it, and needs none.
VIA_HD void set_audit_chain(const StepRow& row, const SlimWalk& walk, bool full) {
  const StepParams& p = row.p;
  const int width = p.max_backlog + p.num_nodes;
  const std::int32_t* const path = row.of(p.slim.path, p.num_nodes);
  const int backlog = row.backlog;
  p.chain_counts[row.b] = full ? backlog + walk.decided : 0;
  for (int i = 0; i < width; ++i) {
    std::int64_t token = -1;
    if (i < backlog) token = row.of(p.tokens, p.capacity)[p.frontiers[row.b] + 1 + i];
    if (i >= backlog && i < backlog + walk.decided) token = decided_token(row, walk, i - backlog);
    row.of(p.chain_ids, width)[i] = token;
    row.of(p.chain_parents, width)[i] = i - 1;
  }
  for (int r = 0; r <= width; ++r) {
    const int step = r - backlog < walk.path ? r - backlog : walk.path;
    const int block_row = step > 0 ? path[step - 1] + 1 : 0;
    const int depth = step > 0 ? row.of(p.block_depths, p.num_nodes + 1)[block_row] : step;
    row.of(p.chain_rows, width + 1)[r] = step > 0 ? backlog + block_row : backlog + step;
    row.of(p.chain_held, width + 1)[r] = row.held(depth);
  }
}

VIA_HD void step_slim(const StepParams& p, int batch_idx) {
  const StepRow row(p, batch_idx);
  const bool had_pass = row.active && row.backlog < p.max_backlog;
  const bool needs_prefix = row.active && !had_pass;
  SlimWalk walk;
  if (had_pass) walk = read_walk(row);
  const bool full = row.active && walk.escalate;
  std::int32_t* const fields = row.of(p.walk, kWalkFields);
  fields[kWalkPath] = walk.path;
  fields[kWalkDecided] = walk.decided;
  fields[kWalkFinal] = walk.final;
  fields[kWalkFull] = full;
  set_tail(row, full);
  if (p.audit == StepAudit::kGreedy) set_audit_tree(row, full);
  if (p.audit == StepAudit::kChain) {
    set_audit_chain(row, walk, full);
    set_slim_rows(row, walk);
  }
  set_hidden_index(row, needs_prefix);
  p.block_counts[batch_idx] = needs_prefix ? 1 + p.node_counts[batch_idx] : 0;
  if (had_pass && !walk.escalate) commit_walk(row, walk);
  if (!had_pass) p.slim.status[batch_idx] = 0;
  cut_verification(row, walk.path, full);
  row.set_words(full, needs_prefix, row.backlog + 1);
}

VIA_CORE_END
}  // namespace via
