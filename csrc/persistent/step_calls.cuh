// SPDX-License-Identifier: Apache-2.0
// From what the caller hands over to what the step's kernel takes: the verify calls, the saved slim
// rows, the moves, the passes' inputs, and where everything lies in the work space. Host code.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>

#include "cuda/filtered_probs_plan.cuh"
#include "cuda/launch.h"
#include "cuda/verify_plan.cuh"
#include "persistent/attention.cuh"
#include "persistent/step_args.cuh"

namespace via::persistent {

inline TensorView int32_view(const std::int32_t* data, std::int64_t stride) {
  return {data, DType::kInt32, {stride, 0, 0}};
}
inline TensorView int64_view(const std::int64_t* data, std::int64_t stride) {
  return {data, DType::kInt64, {stride, 0, 0}};
}

// What all calls of a step have in common. `width`: logits rows per request.
inline VerifyParams make_call(const StepLaunch& launch, const VerifyParams& rule, int nodes,
                              std::int64_t width) {
  VerifyParams p = rule;
  const std::int64_t vocab_size = launch.model.shape.vocab_size;
  p.batch_size = launch.step.batch_size;
  p.num_nodes = nodes;
  p.vocab_size = launch.model.shape.vocab_size;
  if (p.draft_to_target.data == nullptr) p.draft_vocab_size = p.vocab_size;
  p.logits = {launch.model.buffers.logits, DType::kFloat32, {width * vocab_size, vocab_size, 0}};
  p.logits_offsets = nullptr;
  p.allowed = {launch.held_words, DType::kInt32, {0, 0, 0}};  // one mask for all rows that are held
  if (p.seed.data != nullptr) p.position = int64_view(launch.step.verify_calls, 1);
  p.resume = nullptr;
  return p;
}

inline VerifyParams draft_call(const StepLaunch& launch, const VerifyParams& rule) {
  const StepParams& step = launch.step;
  const int nodes = step.num_nodes;
  VerifyParams p = make_call(launch, rule, nodes, nodes + 1);
  p.draft_token_ids = int64_view(step.draft_ids, nodes);
  p.parents = int32_view(step.draft_parents, nodes);
  p.node_counts = int32_view(step.node_counts, 1);
  p.allowed_rows = step.block_held;
  p.allowed_rows_stride = nodes + 1;
  return p;
}

// Rows of the audit stand in the tail as they are judged (greedy), or where its offsets say.
inline VerifyParams audit_call(const StepLaunch& launch, const std::int64_t* offsets) {
  const StepParams& step = launch.step;
  const std::int64_t chain = step.max_backlog + std::int64_t{step.num_nodes};
  const std::int64_t vocab_size = launch.model.shape.vocab_size;
  VerifyParams p = make_call(launch, launch.audit, step.audit_nodes, step.tail_width);
  if (step.audit == StepAudit::kChain) p.logits_offsets = offsets;
  p.draft_token_ids = int64_view(step.chain_ids, chain);
  p.parents = int32_view(step.chain_parents, chain);
  p.node_counts = int32_view(step.chain_counts, 1);
  p.allowed_rows = step.chain_held;
  p.allowed_rows_stride = chain + 1;
  p.draft_probs = {};
  p.draft_to_target = {};
  p.draft_vocab_size = p.vocab_size;
  p.draft_probs_are_logits = false;
  if (launch.slim_rows != nullptr) {  // chains have at most max_backlog nodes
    p.draft_probs = {
        launch.slim_rows, DType::kFloat32, {(step.max_backlog + 1) * vocab_size, vocab_size, 0}};
  }
  p.out = step.audit_result;
  return p;
}

inline FilteredProbsParams saved_call(const StepLaunch& launch, const std::int64_t* rows) {
  const StepParams& step = launch.step;
  const std::int64_t vocab_size = launch.model.shape.vocab_size;
  FilteredProbsParams p;
  p.num_rows = step.batch_size * (step.num_nodes + 1);
  p.vocab_size = launch.model.shape.vocab_size;
  p.logits = {launch.model.buffers.logits, DType::kFloat32, {vocab_size, 0, 0}};
  p.allowed = {launch.held_words, DType::kInt32, {0, 0, 0}};
  p.allowed_rows = step.block_held;
  p.filter = launch.slim.filter;
  p.probs = launch.slim_rows;
  p.probs_stride = vocab_size;
  p.probs_rows = rows;
  return p;
}

inline MoveArgs make_moves(const StepLaunch& launch) {
  const StepParams& step = launch.step;
  MoveArgs moves;
  if (!launch.moves) return moves;
  const Buffers& buffers = launch.model.buffers;
  moves.caches = launch.caches;
  moves.num_caches = 2 * launch.model.shape.num_layers;
  moves.cache_rows.context_lens = int32_view(step.move_context, 1);
  moves.cache_rows.num_accepted = int32_view(step.move_counts, 1);
  moves.cache_rows.path = int32_view(step.move_path, step.num_nodes);
  moves.cache_rows.capacity = launch.model.cache.capacity;
  moves.cache_rows.num_nodes = step.num_nodes;
  moves.cache_rows.num_chunks = 1;
  const std::int64_t row_bytes = std::int64_t{launch.model.shape.hidden_size} * 4;
  moves.hidden = {
      buffers.hidden, {buffers.hidden_rows * row_bytes, row_bytes, row_bytes}, 1, row_bytes};
  moves.hidden_rows = moves.cache_rows;
  moves.hidden_rows.context_lens = int32_view(step.hidden_context, 1);
  moves.hidden_rows.num_accepted = int32_view(step.hidden_counts, 1);
  moves.hidden_rows.capacity = buffers.hidden_rows;
  const std::int64_t columns = row_bytes / compact::kWidth;
  moves.hidden_rows.num_chunks = static_cast<std::int32_t>(
      std::max<std::int64_t>((columns + compact::kThreads - 1) / compact::kThreads, 1));
  return moves;
}

inline PassInput block_input(const StepParams& step) {
  PassInput input;
  input.token_ids = step.block_ids;
  input.hidden_index = step.hidden_index;
  input.counts = step.block_counts;
  input.contexts = step.context_lens;
  input.parents = step.block_parents;
  input.depths = step.block_depths;
  input.width = step.num_nodes + 1;
  return input;
}
inline PassInput tail_input(const StepParams& step) {
  PassInput input;
  input.counts = step.tail_counts;
  input.contexts = step.tail_context;
  input.parents = step.tail_parents;
  input.depths = step.tail_depths;
  input.width = step.tail_width;
  return input;
}

inline int widest_pass(const StepParams& step) {
  return step.has_slim ? std::max(step.tail_width, step.num_nodes + 1) : step.num_nodes + 1;
}

inline void check_sizes(const StepLaunch& launch) {
  const StepParams& step = launch.step;
  const auto refuse = [](const char* name, const std::string& rule, std::int64_t got) {
    throw std::runtime_error(std::string("persistent: ") + name + " must " + rule + ", got " +
                             std::to_string(got));
  };
  const std::int64_t tokens =
      std::int64_t{step.batch_size} * (step.num_nodes + 1 + (step.has_slim ? step.max_backlog : 0));
  const std::int64_t rows = std::int64_t{step.batch_size} * widest_pass(step);
  if (step.batch_size < 1 || step.batch_size > kMaxBatch) {
    refuse("batch_size", "be in [1, 4]", step.batch_size);
  }
  if (tokens > kMaxTokens) refuse("tokens of a full pass", "be at most 64", tokens);
  if (rows > launch.model.buffers.rows) {
    refuse("buffers.rows", "be at least " + std::to_string(rows), launch.model.buffers.rows);
  }
  const Cache& cache = launch.model.cache;
  if ((cache.row_stride | cache.position_stride | cache.head_stride) % kPiece != 0) {
    refuse("cache strides", "be multiples of 8", cache.row_stride);
  }
  // The rows that are saved have no request of their own to look a filter up for.
  const FilterParams& filter = launch.slim.filter;
  if (launch.slim_rows != nullptr &&
      (filter.temperature.data != nullptr || filter.top_k.data != nullptr ||
       filter.top_p.data != nullptr || filter.min_p.data != nullptr)) {
    throw std::runtime_error("persistent: filters must be numbers, got arrays");
  }
}

// The part of the work space that is zero between launches: passes and calls share it, since each
// leaves it zero.
struct StepLayout {
  std::size_t zero_bytes = 0;
  std::size_t bytes = 0;
};

// Fills `args`; the pointers into the work space are meaningless where that is null.
inline StepLayout make_step_args(const StepLaunch& launch, StepArgs& args) {
  check_sizes(launch);
  const StepParams& step = launch.step;
  args.model = launch.model;
  args.step = step;
  args.block = block_input(step);
  args.tail = tail_input(step);
  args.moves = make_moves(launch);
  args.saves_rows = step.has_slim && launch.slim_rows != nullptr;
  args.notes_path = step.has_slim && launch.notes_path && !args.saves_rows && step.num_nodes > 0;
  const bool audits = step.has_slim && step.audit != StepAudit::kNone;
  unsigned* const abort =
      launch.model.control != nullptr ? &launch.model.control->abort.value : nullptr;
  void* const base = launch.model.buffers.workspace;

  StepLayout layout;
  layout.zero_bytes = attention_workspace(launch.model.shape, launch.model.cache.capacity,
                                          step.batch_size, widest_pass(step));
  const std::int64_t rows = std::int64_t{step.batch_size} * (step.num_nodes + 1);
  const auto lay = [&](const VerifyParams& p, cuda::VerifyArgs& call) {
    call.p = p;
    call.has_resume = p.resume != nullptr;
    if (call.has_resume) call.resume = *p.resume;
    call.p.resume = nullptr;
    call.plan = cuda::make_plan(p, {launch.grid, 1});
    call.plan.watchdog_ns = launch.model.watchdog_ns;
    call.plan.abort = abort;
    layout.zero_bytes = std::max(layout.zero_bytes, cuda::lay_out(p, call.plan, base, call.ws));
  };
  VerifyParams slim = draft_call(launch, launch.slim);
  slim.out = step.slim;
  VerifyParams full = draft_call(launch, launch.full);
  full.out = step.full;
  if (step.has_slim) {
    lay(slim, args.slim);
    full.resume = &step.slim;
  }
  const FilteredProbsParams saved = saved_call(launch, nullptr);
  args.saved.p = saved;
  if (args.saves_rows) {
    args.saved.plan = cuda::make_plan(saved, cuda::ProbsLimits{launch.grid});
    args.saved.plan.watchdog_ns = launch.model.watchdog_ns;
    args.saved.plan.abort = abort;
    layout.zero_bytes =
        std::max(layout.zero_bytes, cuda::lay_out(saved, args.saved.plan, base, args.saved.ws));
  }
  lay(full, args.full);
  if (audits) lay(audit_call(launch, nullptr), args.audit);

  cuda::Carver carver(static_cast<char*>(base) + layout.zero_bytes);
  args.full_offsets = carver.take<std::int64_t>(rows);
  args.audit_offsets = carver.take<std::int64_t>(
      audits ? std::int64_t{step.batch_size} * (step.audit_nodes + 1) : 0);
  args.saved_rows = carver.take<std::int64_t>(rows);
  args.path_chunks =
      carver.take<cuda::ChunkRecord>(args.notes_path ? rows * args.full.plan.chunks : 0);
  layout.bytes = layout.zero_bytes + carver.used();
  if (step.has_slim) args.full.p.logits_offsets = args.full_offsets;
  if (audits && step.audit == StepAudit::kChain) args.audit.p.logits_offsets = args.audit_offsets;
  args.saved.p.probs_rows = args.saved_rows;
  return layout;
}

}  // namespace via::persistent
