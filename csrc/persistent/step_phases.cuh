// SPDX-License-Identifier: Apache-2.0
// The phases of a step around the model's passes (docs/design.md, section 16). Every block calls
// every one, with block-uniform arguments; none waits for another block, except where verify and
// filtered_probs do, and a grid barrier stands between a phase and what reads its results. The
// bodies are those of csrc/core/step_*.h and csrc/cuda.
#pragma once

#include <cstdint>

#include "core/step_greedy.h"
#include "cuda/filtered_probs.cuh"
#include "cuda/verify.cuh"
#include "persistent/step_args.cuh"

namespace via::persistent {

// Where the audit and the draft find their rows in the logits of the tail, [B, M, V], and where the
// slim verifier's distributions go. All threads of the block that made stage slim of this row.
VIA_DEVICE_CALL void place_rows(const StepArgs& args, int batch_idx) {
  const StepParams& p = args.step;
  const std::int64_t vocab_size = args.model.shape.vocab_size;
  const std::int64_t first = std::int64_t{batch_idx} * p.tail_width;
  const int width = p.num_nodes + 1;
  const int i = static_cast<int>(threadIdx.x);
  if (i < width) {
    const std::int64_t at = std::int64_t{batch_idx} * width + i;
    args.full_offsets[at] = (first + p.draft_rows[at]) * vocab_size;
    if (args.saves_rows) args.saved_rows[at] = -1;
  }
  const int columns = p.audit == StepAudit::kChain ? p.audit_nodes + 1 : 0;
  const std::int64_t chain = p.max_backlog + std::int64_t{width};
  for (int r = i; r < columns; r += kThreads) {
    args.audit_offsets[std::int64_t{batch_idx} * columns + r] =
        (first + p.chain_rows[batch_idx * chain + r]) * vocab_size;
  }
  if (!args.saves_rows) return;
  __syncthreads();  // a kept row may lie behind one that is not
  if (i < p.walk[batch_idx * kWalkFields + kWalkDecided]) {
    const std::int64_t at = std::int64_t{batch_idx} * width;
    args.saved_rows[at + p.slim_source[at + i]] = p.slim_target[at + i];
  }
}

// A batch row to a block, all of it by one thread: dependent loads of few bytes.
template <StepStage kStage>
VIA_DEVICE_CALL void stage_phase(const StepArgs& args) {
  for (int b = static_cast<int>(blockIdx.x); b < args.step.batch_size;
       b += static_cast<int>(gridDim.x)) {
    if (threadIdx.x == 0) run_stage(kStage, args.step, b);
    if (kStage != StepStage::kSlim) continue;
    __syncthreads();
    place_rows(args, b);
  }
}

// Whether any row has this word set. Behind the barrier after a stage: the same for all blocks.
VIA_DEVICE bool any_word(const StepParams& p, StepWord word) {
  bool is_set = false;
  if (static_cast<int>(threadIdx.x) < p.batch_size) {
    is_set = p.words[static_cast<int>(threadIdx.x) * kStepWords + word] != 0;
  }
  return __syncthreads_or(is_set ? 1 : 0) != 0;
}

VIA_DEVICE_CALL void verify_phase(const cuda::VerifyArgs& args, unsigned char* scratch) {
  cuda::run_verify(args, *prim::carve<cuda::VerifyShared>(scratch, 1));
}

VIA_DEVICE_CALL void slim_rows_phase(const StepArgs& args, unsigned char* scratch) {
  cuda::run_filtered_probs(args.saved, *prim::carve<cuda::ProbsShared>(scratch, 1));
}

// Unfiltered log-probabilities of the path that the slim verifier walked before the full model took
// over, by the verifier that `column` names: 0 slim, 1 full. A step of the path to a block.
VIA_DEVICE_CALL void note_path_phase(const StepArgs& args, int column, unsigned char* scratch) {
  const StepParams& p = args.step;
  const cuda::VerifyArgs& call = column == 0 ? args.slim : args.full;
  double* const sums = prim::carve<double>(scratch, cuda::Block::kWords);
  const int units = p.batch_size * p.num_nodes;
  for (int unit = static_cast<int>(blockIdx.x); unit < units; unit += static_cast<int>(gridDim.x)) {
    const int b = unit / p.num_nodes, step = unit % p.num_nodes;
    const std::int32_t* const walk = p.walk + b * kWalkFields;
    if (walk[kWalkFull] == 0 || step >= walk[kWalkPath]) continue;
    const std::int32_t* const path = p.slim.path + std::int64_t{b} * p.num_nodes;
    cuda::Row row = cuda::target_row(call.p, b, step > 0 ? path[step - 1] + 1 : 0);
    row.allowed = nullptr;
    const float temperature = read_param(call.p.filter.temperature, b);
    const float scale = exponent_scale(temperature > 0.0f ? temperature : 1.0f);
    const int chunks = call.plan.chunks;
    cuda::ChunkRecord* const records = args.path_chunks + std::int64_t{unit} * chunks;
    cuda::scan_unit(row, scale, 0, chunks, records, nullptr, nullptr);
    __syncthreads();
    const cuda::RowRecord record = cuda::merge_chunks(records, chunks, scale, sums);
    if (threadIdx.x != 0) continue;
    const std::int64_t token = cuda::node_token(call.p, b, path[step]);
    const_cast<float*>(p.path_logprobs)[2 * std::int64_t{unit} + column] =
        static_cast<float>(log_probability(cuda::logit_at(row, token), scale, record.sum,
                                           exponent_of(record.max, scale)));
  }
}

// Accepted rows to where the sequence goes on, 16 bytes at a time, which heads and hidden rows of
// this engine allow. A (cache, batch row, chunk) to half a block.
VIA_DEVICE_CALL void compact_phase(const StepArgs& args, bool with_hidden, unsigned char* scratch) {
  constexpr int kHalf = compact::kThreads;
  static_assert(kThreads == 2 * kHalf, "two halves");
  const MoveArgs& moves = args.moves;
  const int half = static_cast<int>(threadIdx.x) / kHalf;
  const int i = static_cast<int>(threadIdx.x) % kHalf;
  compact::Move* const found = prim::carve<compact::Move>(scratch, kThreads) + half * kHalf;
  unsigned* const ends =
      prim::carve<unsigned>(scratch, 2 * compact::kWarps) + half * compact::kWarps;
  unsigned* const moving =
      prim::carve<unsigned>(scratch, 2 * compact::kWarps) + half * compact::kWarps;
  const int batch = args.step.batch_size;
  const int cache_units = moves.num_caches * batch;
  const int hidden_chunks = moves.hidden_rows.num_chunks;
  const int units = cache_units + (with_hidden ? batch * hidden_chunks : 0);
  const int step = 2 * static_cast<int>(gridDim.x);
  for (int base = 2 * static_cast<int>(blockIdx.x); base < units; base += step) {
    const int unit = base + half;
    const bool is_cache = unit < cache_units;
    const bool is_used = unit < units;
    const int within = is_cache ? unit : unit - cache_units;
    const int chunks = is_cache ? 1 : hidden_chunks;
    const compact::PathEntries& entries = is_cache ? moves.cache_rows : moves.hidden_rows;
    compact::CacheEntry cache;
    if (is_used) {
      cache = compact::make_entry(is_cache ? moves.caches[within / batch] : moves.hidden, batch);
      const int b = is_cache ? within % batch : within / chunks;
      compact::find_moves(entries, cache, b, i, found, ends, moving);
    }
    __syncthreads();
    if (is_used) compact::make_moves<true>(entries, cache, within % chunks, i, found, ends, moving);
    __syncthreads();
  }
}

}  // namespace via::persistent
