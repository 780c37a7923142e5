// SPDX-License-Identifier: Apache-2.0
// Stage begin: root and draft nodes as the token block of the step's first pass.
#pragma once

#include "core/step_row.h"

namespace via {
VIA_CORE_BEGIN

// Leading nodes of the proposal that form a tree; writes the block's parents and depths.
VIA_HD int read_tree(const StepRow& row) {
  const StepParams& p = row.p;
  std::int32_t* const parents = row.of(p.block_parents, p.num_nodes + 1);
  std::int32_t* const depths = row.of(p.block_depths, p.num_nodes + 1);
  const int wanted = p.draft_counts[row.b];
  parents[0] = -1;
  depths[0] = 0;
  int count = 0;
  for (int node = 0; node < p.num_nodes; ++node) {
    const int parent = row.of(p.draft_parents, p.num_nodes)[node];
    const bool usable = count == node && node < wanted && parent >= -1 && parent < node;
    count += usable;
    // What is no node stands as a chain, so that the block stays well formed.
    parents[node + 1] = usable ? parent + 1 : node;
    depths[node + 1] = depths[parents[node + 1]] + 1;
  }
  return count;
}

// Nodes too deep to be kept are dropped from the end; earlier ones stay as ancestors.
VIA_HD int drop_too_deep(const StepRow& row, int count) {
  const StepParams& p = row.p;
  const int limit = p.max_new_tokens - (row.length - p.prompt_lens[row.b]) - 1;
  const std::int32_t* const depths = row.of(p.block_depths, p.num_nodes + 1);
  while (count > 0 && depths[count] > limit) --count;
  return count;
}

// Where the hidden state of each block token goes; a row that sits the pass out uses the spare row.
VIA_HD void set_hidden_index(const StepRow& row, bool takes_part) {
  const StepParams& p = row.p;
  const std::int64_t spare = 1 + p.max_backlog + p.num_nodes;
  const std::int64_t first = row.b * (spare + 1);
  std::int64_t* const index = row.of(p.hidden_index, p.num_nodes + 1);
  for (int i = 0; i <= p.num_nodes; ++i) {
    index[i] = first + (takes_part && i <= p.node_counts[row.b] ? row.backlog + i : spare);
  }
}

VIA_HD void step_begin(const StepParams& p, int batch_idx) {
  const StepRow row(p, batch_idx);
  const int width = p.num_nodes + 1;
  const int proposed = read_tree(row);
  const int count = row.active ? drop_too_deep(row, proposed) : 0;
  const bool takes_part = row.active && (!p.has_slim || row.backlog < p.max_backlog);
  p.node_counts[batch_idx] = count;
  p.context_lens[batch_idx] = row.root;
  p.block_counts[batch_idx] = takes_part ? 1 + count : 0;
  p.kept[batch_idx] = row.length;
  row.of(p.block_ids, width)[0] = row.of(p.tokens, p.capacity)[row.root];
  for (int node = 0; node < p.num_nodes; ++node) {
    row.of(p.block_ids, width)[node + 1] = row.draft_id(node);
  }
  for (int i = 0; i < width; ++i) {
    row.of(p.block_held, width)[i] = row.held(row.of(p.block_depths, width)[i]);
  }
  if (p.has_slim) set_hidden_index(row, takes_part);
  std::int32_t* const walk = row.of(p.walk, kWalkFields);
  walk[kWalkPath] = walk[kWalkDecided] = walk[kWalkFinal] = 0;
  walk[kWalkFull] = row.active;
  p.steps[batch_idx] += row.active;
  row.count(kCountSteps, row.active);
  row.count(kCountDrafted, count);
  row.count(kCountSlimPasses, p.has_slim && takes_part);
  p.move_counts[batch_idx] = p.hidden_counts[batch_idx] = 0;
  row.set_words(row.active, false, 1);
}

VIA_CORE_END
}  // namespace via
