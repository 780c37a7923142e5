// SPDX-License-Identifier: Apache-2.0

#include "bindings/step_arrays.h"

#include "bindings/array_reader.h"

namespace via::python {
namespace {

void read_requests(const ArrayReader& reader, StepParams& p) {
  const std::int64_t rows = p.batch_size;
  reader.set(p.eos_token_ids, "eos_token_ids", {p.num_eos});
  reader.set(p.tokens, "tokens", {rows, p.capacity});
  reader.set(p.tiers, "tiers", {rows, p.capacity});
  reader.set(p.logprobs, "logprobs", {rows, p.capacity});
  reader.set(p.overshoot, "overshoot", {rows, p.capacity});
  reader.set(p.prompt_lens, "prompt_lens", {rows});
  reader.set(p.lengths, "lengths", {rows});
  reader.set(p.frontiers, "frontiers", {rows});
  reader.set(p.confirmed, "confirmed", {rows});
  reader.set(p.kept, "kept", {rows});
  reader.set(p.finished, "finished", {rows});
  reader.set(p.verify_calls, "verify_calls", {rows});
  reader.set(p.steps, "steps", {rows});
  reader.set(p.status, "status", {rows});
  reader.set(p.counters, "counters", {rows, kStepCounters});
  reader.set(p.words, "words", {rows, kStepWords});
}

void read_block(const ArrayReader& reader, StepParams& p) {
  const std::int64_t rows = p.batch_size, nodes = p.num_nodes, width = nodes + 1;
  reader.set(p.draft_ids, "draft_ids", {rows, nodes});
  reader.set(p.draft_parents, "draft_parents", {rows, nodes});
  reader.set(p.draft_counts, "draft_counts", {rows});
  reader.set(p.node_counts, "node_counts", {rows});
  reader.set(p.context_lens, "context_lens", {rows});
  reader.set(p.block_counts, "block_counts", {rows});
  reader.set(p.block_ids, "block_ids", {rows, width});
  reader.set(p.block_parents, "block_parents", {rows, width});
  reader.set(p.block_depths, "block_depths", {rows, width});
  reader.set(p.block_held, "block_held", {rows, width});
  reader.set(p.hidden_index, "hidden_index", {rows, width});
  reader.set(p.walk, "walk", {rows, 4});
  reader.set(p.move_context, "move_context", {rows});
  reader.set(p.move_counts, "move_counts", {rows});
  reader.set(p.move_path, "move_path", {rows, nodes});
  reader.set(p.hidden_context, "hidden_context", {rows});
  reader.set(p.hidden_counts, "hidden_counts", {rows});
  reader.set(p.path_logprobs, "path_logprobs", {rows, nodes, 2});
}

void read_tail(const ArrayReader& reader, StepParams& p) {
  const std::int64_t rows = p.batch_size, width = p.num_nodes + std::int64_t{1};
  const std::int64_t chain = p.max_backlog + std::int64_t{p.num_nodes};
  reader.set(p.own_token, "own_token", {rows});
  reader.set(p.own_logprob, "own_logprob", {rows});
  reader.set(p.slim_source, "slim_source", {rows, width});
  reader.set(p.slim_target, "slim_target", {rows, width});
  reader.set(p.tail_context, "tail_context", {rows});
  reader.set(p.tail_counts, "tail_counts", {rows});
  reader.set(p.tail_parents, "tail_parents", {rows, p.tail_width});
  reader.set(p.tail_depths, "tail_depths", {rows, p.tail_width});
  reader.set(p.draft_rows, "draft_rows", {rows, width});
  reader.set(p.chain_ids, "chain_ids", {rows, chain});
  reader.set(p.chain_parents, "chain_parents", {rows, chain});
  reader.set(p.chain_counts, "chain_counts", {rows});
  reader.set(p.chain_rows, "chain_rows", {rows, chain + 1});
  reader.set(p.chain_held, "chain_held", {rows, chain + 1});
}

}  // namespace

StepAudit audit_of(const std::string& name) {
  if (name == "none") return StepAudit::kNone;
  if (name == "chain") return StepAudit::kChain;
  if (name == "greedy") return StepAudit::kGreedy;
  fail_value({"step", "audit"}, "be one of none, chain, greedy", name);
}

Tensor read_step_arrays(const py::dict& arrays, StepParams& params) {
  const ArrayReader reader(arrays);
  params.batch_size = static_cast<std::int32_t>(reader.like().size(0));
  params.capacity = static_cast<std::int32_t>(reader.like().size(1));
  params.num_nodes = reader.size("draft_ids", 1, 2);
  params.tail_width = reader.size("tail_parents", 1, 2);
  params.num_eos = reader.size("eos_token_ids", 0, 1);
  read_requests(reader, params);
  read_block(reader, params);
  read_tail(reader, params);
  return reader.like();
}

}  // namespace via::python
