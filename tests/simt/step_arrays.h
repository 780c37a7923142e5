// SPDX-License-Identifier: Apache-2.0
// The arrays of StepParams by name and size: one list for allocating and for comparing them.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <type_traits>
#include <utility>
#include <vector>

#include "gpu_or_simt.h"
#include "via/step.h"

namespace via::testing {

// visit(name, field, elements per batch row) for every array of a verification with N nodes.
template <typename Visit>
void each_output(Verification& v, int nodes, bool with_route, Visit visit) {
  if (with_route) {
    visit("ratios", v.ratios, nodes);
    visit("tiers", v.tiers, nodes);
  }
  visit("path", v.path, nodes);
  visit("num_accepted", v.num_accepted, 1);
  visit("next_token", v.next_token, 1);
  visit("next_row", v.next_row, 1);
  visit("escalate", v.escalate, 1);
  visit("logprobs", v.logprobs, nodes + 1);
  visit("status", v.status, 1);
}

// The same for the requests: what lasts from step to step.
template <typename Visit>
void each_request_array(StepParams& p, Visit visit) {
  visit("tokens", p.tokens, p.capacity);
  visit("tiers", p.tiers, p.capacity);
  visit("logprobs", p.logprobs, p.capacity);
  visit("overshoot", p.overshoot, p.capacity);
  visit("prompt_lens", p.prompt_lens, 1);
  visit("lengths", p.lengths, 1);
  visit("frontiers", p.frontiers, 1);
  visit("confirmed", p.confirmed, 1);
  visit("kept", p.kept, 1);
  visit("finished", p.finished, 1);
  visit("verify_calls", p.verify_calls, 1);
  visit("steps", p.steps, 1);
  visit("status", p.status, 1);
  visit("counters", p.counters, kStepCounters);
  visit("words", p.words, kStepWords);
}

// And for what belongs to one step.
template <typename Visit>
void each_step_array(StepParams& p, Visit visit) {
  const int nodes = p.num_nodes, width = nodes + 1, chain = p.max_backlog + nodes;
  visit("draft_ids", p.draft_ids, nodes);
  visit("draft_parents", p.draft_parents, nodes);
  visit("draft_counts", p.draft_counts, 1);
  visit("node_counts", p.node_counts, 1);
  visit("context_lens", p.context_lens, 1);
  visit("block_counts", p.block_counts, 1);
  visit("block_ids", p.block_ids, width);
  visit("block_parents", p.block_parents, width);
  visit("block_depths", p.block_depths, width);
  visit("hidden_index", p.hidden_index, width);
  visit("block_held", p.block_held, width);
  visit("walk", p.walk, 4);
  visit("own_token", p.own_token, 1);
  visit("own_logprob", p.own_logprob, 1);
  visit("slim_source", p.slim_source, width);
  visit("slim_target", p.slim_target, width);
  visit("tail_context", p.tail_context, 1);
  visit("tail_counts", p.tail_counts, 1);
  visit("tail_parents", p.tail_parents, p.tail_width);
  visit("tail_depths", p.tail_depths, p.tail_width);
  visit("draft_rows", p.draft_rows, width);
  visit("chain_ids", p.chain_ids, chain);
  visit("chain_parents", p.chain_parents, chain);
  visit("chain_counts", p.chain_counts, 1);
  visit("chain_rows", p.chain_rows, chain + 1);
  visit("chain_held", p.chain_held, chain + 1);
  visit("move_context", p.move_context, 1);
  visit("move_counts", p.move_counts, 1);
  visit("move_path", p.move_path, nodes);
  visit("hidden_context", p.hidden_context, 1);
  visit("hidden_counts", p.hidden_counts, 1);
}

// All of it in memory that kernels may use and the race detector watches.
class StepMemory {
 public:
  // Sizes of `p` are set; its pointers are filled in.
  StepMemory(StepParams& p, bool with_route) {
    const auto allocate = [&](const char*, auto*& field, int columns) {
      field = take<std::remove_const_t<std::remove_pointer_t<std::decay_t<decltype(field)>>>>(
          static_cast<std::size_t>(p.batch_size) * columns);
    };
    each_request_array(p, allocate);
    each_step_array(p, allocate);
    allocate("path_logprobs", p.path_logprobs, 2 * p.num_nodes);
    each_output(p.slim, p.num_nodes, with_route, allocate);
    each_output(p.full, p.num_nodes, with_route, allocate);
    each_output(p.audit_result, p.audit_nodes, with_route, allocate);
  }

  // `count` elements, zero.
  template <typename T>
  T* take(std::size_t count) {
    const std::size_t bytes = (count + 1) * sizeof(T);
    parts_.push_back(std::make_unique<DeviceBuffer<char>>(bytes));
    std::memset(parts_.back()->data(), 0, bytes);
    return reinterpret_cast<T*>(parts_.back()->data());
  }

 private:
  std::vector<std::unique_ptr<DeviceBuffer<char>>> parts_;
};

// Equal; float32 up to rounding.
template <typename T>
void expect_equal(Checker& checker, const char* name, const T* found, const T* wanted,
                  std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) {
    bool same = std::memcmp(found + i, wanted + i, sizeof(T)) == 0;
    if constexpr (std::is_same_v<std::remove_const_t<T>, float>) {
      same = same || std::fabs(found[i] - wanted[i]) <= 1e-5f * (1.0f + std::fabs(wanted[i]));
    }
    checker.expect(same, "%s[%ld] = %g, not %g", name, static_cast<long>(i),
                   static_cast<double>(found[i]), static_cast<double>(wanted[i]));
  }
}

// What lasts of two steps; scratch of the step is compared by what comes of it.
inline void expect_same_requests(Checker& checker, StepParams& found, StepParams& wanted) {
  std::vector<std::pair<const void*, const char*>> fields;
  each_request_array(wanted,
                     [&](const char* name, auto* field, int) { fields.push_back({field, name}); });
  std::size_t next = 0;
  each_request_array(found, [&](const char* name, auto* field, int columns) {
    const auto* const other = static_cast<decltype(field)>(const_cast<void*>(fields[next++].first));
    expect_equal(checker, name, field, other, std::int64_t{found.batch_size} * columns);
  });
}

}  // namespace via::testing
