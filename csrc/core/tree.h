// SPDX-License-Identifier: Apache-2.0
// Draft trees as sets of nodes in two 64-bit words: node i hangs under node parent(i) < i, or under
// the root (-1). A node is live if its token can be tested: its id is inside the vocabulary and so
// are the ids of all its ancestors; the subtree of any other node cannot be reached.
#pragma once

#include <cstdint>

#include "core/macros.h"
#include "via/types.h"

namespace via {
VIA_CORE_BEGIN

struct NodeSet {
  std::uint64_t word[2] = {0, 0};

  VIA_HD bool has(int node_idx) const { return (word[node_idx >> 6] >> (node_idx & 63)) & 1u; }
  VIA_HD void add(int node_idx) { word[node_idx >> 6] |= std::uint64_t{1} << (node_idx & 63); }
};

// What stands at one node of the draft.
enum class NodeKind { kNone, kToken, kBadToken };

// -1 is "no node here" without complaint; any other id outside the vocabulary is an error.
VIA_HD NodeKind node_kind(std::int64_t token_id, std::int64_t vocab_size) {
  if (token_id == -1) return NodeKind::kNone;
  return token_id >= 0 && token_id < vocab_size ? NodeKind::kToken : NodeKind::kBadToken;
}

VIA_HD bool parent_is_valid(std::int64_t parent, int node_idx) {
  return parent >= -1 && parent < node_idx;
}

// A node joins the live set if its own token is one and its parent is live (or the root).
VIA_HD bool is_live(const NodeSet& live, NodeKind kind, int parent) {
  return kind == NodeKind::kToken && (parent < 0 || live.has(parent));
}

// A node's ancestors and the node itself, given those of its parent (none for a child of the root).
VIA_HD NodeSet extend_path(NodeSet parent_path, int node_idx) {
  parent_path.add(node_idx);
  return parent_path;
}

// Attention at `position` sees positions from here on: `window` of them, its own included; 0 = all.
VIA_HD std::int64_t first_seen(std::int64_t position, std::int64_t window) {
  return window > 0 && position >= window ? position - window + 1 : 0;
}

// Row 0 of the logits follows the root, row i + 1 follows node i.
VIA_HD int row_of_node(int node_idx) { return node_idx + 1; }

VIA_CORE_END
}  // namespace via
