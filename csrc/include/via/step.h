// SPDX-License-Identifier: Apache-2.0
// step: the bookkeeping of one decoding step, so that a step runs without the host between passes.
// Stages: begin (inputs of the first pass), slim (what the slim verifier decided), then audit, full
// or greedy (what the full model decided). Each is one small launch between the model's passes.
#pragma once

#include <cstdint>

#include "via/types.h"
#include "via/verify.h"

namespace via {

enum class StepStage : std::int32_t { kBegin, kSlim, kAudit, kFull, kGreedy };

// How a full pass judges the backlog (docs/design.md, section 5). kChain: backlog and walk as one
// chain, stage audit, then the draft, stage full. kGreedy: backlog and draft as one tree.
enum class StepAudit : std::int32_t { kNone, kChain, kGreedy };

// Columns of `counters`.
enum StepCounter : std::int32_t {
  kCountSteps,
  kCountSlimPasses,
  kCountFullPasses,
  kCountDrafted,
  kCountExamined,
  kCountKept,  // draft tokens kept, less those an audit dropped later
  kCountAccepted,
  kCountRegenerated,
  kCountEscalated,
  kStepCounters
};

// Columns of `words`, what the host may want to know after a stage.
enum StepWord : std::int32_t {
  kWordFull,       // 1: this row needs a full pass
  kWordPrefix,     // 1: and its hidden rows, because it had no slim pass
  kWordLead,       // tokens before the draft in that pass: backlog and root
  kWordFinished,   // 1: the request has ended
  kWordLength,     // tokens, prompt included
  kWordConfirmed,  // of these, tokens that cannot be rolled back
  kStepWords
};

// All arrays are contiguous. B rows, N nodes, S = capacity, C = max_backlog + N chain tokens,
// M = tail_width tokens of a full pass, at least C + 1 if a slim verifier runs. Hidden rows: 1 +
// max_backlog + N per row, one spare behind.
struct StepParams {
  std::int32_t batch_size = 0;
  std::int32_t num_nodes = 0;
  std::int32_t capacity = 0;
  std::int32_t tail_width = 0;
  std::int32_t max_backlog = 0;
  std::int32_t max_new_tokens = 0;
  std::int32_t min_new_tokens = 0;
  std::int32_t num_eos = 0;
  bool has_slim = false;
  StepAudit audit = StepAudit::kNone;
  const std::int64_t* eos_token_ids = nullptr;  // [num_eos]

  // The requests. The root is the last token; positions below the frontier hold full-model KV.
  std::int64_t* tokens = nullptr;             // [B, S]
  std::uint8_t* tiers = nullptr;              // [B, S]
  float* logprobs = nullptr;                  // [B, S]
  float* overshoot = nullptr;                 // [B, S] max(0, s - q) where both are known, else -1
  const std::int32_t* prompt_lens = nullptr;  // [B]
  std::int32_t* lengths = nullptr;            // [B]
  std::int32_t* frontiers = nullptr;          // [B]
  std::int32_t* confirmed = nullptr;          // [B]
  std::int32_t* kept = nullptr;               // [B] tokens that this step did not roll back
  bool* finished = nullptr;                   // [B]
  std::int64_t* verify_calls = nullptr;       // [B] Philox position of the next verify call
  std::int64_t* steps = nullptr;              // [B] Philox position of the drafter
  std::int32_t* status = nullptr;             // [B] Status bits of all calls
  std::int64_t* counters = nullptr;           // [B, kStepCounters]

  // The proposal.
  const std::int64_t* draft_ids = nullptr;      // [B, N]
  const std::int32_t* draft_parents = nullptr;  // [B, N]
  const std::int32_t* draft_counts = nullptr;   // [B]

  // begin: root and nodes as a block of 1 + N tokens.
  std::int32_t* node_counts = nullptr;    // [B] nodes whose token could still be kept
  std::int32_t* context_lens = nullptr;   // [B]
  std::int32_t* block_counts = nullptr;   // [B] tokens of the pass, 0 = the row sits it out
  std::int64_t* block_ids = nullptr;      // [B, 1 + N]
  std::int32_t* block_parents = nullptr;  // [B, 1 + N]
  std::int32_t* block_depths = nullptr;   // [B, 1 + N]
  std::int64_t* hidden_index =
      nullptr;                 // [B, 1 + N] flat hidden row that each token's state goes to
  bool* block_held = nullptr;  // [B, 1 + N] rows where end of sequence is held back

  // slim: the slim verifier's walk; `slim` is cut so that a verify call can resume from it.
  Verification slim;
  std::int32_t* walk = nullptr;         // [B, 4] path length, decided tokens, final, full
  std::int64_t* own_token = nullptr;    // [B] the slim verifier's own token, last of the decided
  float* own_logprob = nullptr;         // [B]
  std::int64_t* slim_source = nullptr;  // [B, 1 + N] block row whose distribution is kept
  std::int64_t* slim_target = nullptr;  // [B, 1 + N] flat place, max_backlog + 1 per row, one spare
  std::int32_t* tail_context = nullptr;   // [B]
  std::int32_t* tail_counts = nullptr;    // [B]
  std::int32_t* tail_parents = nullptr;   // [B, M]
  std::int32_t* tail_depths = nullptr;    // [B, M]
  std::int64_t* draft_rows = nullptr;     // [B, 1 + N] tail rows of root and nodes
  std::int64_t* chain_ids = nullptr;      // [B, C] what the audit judges
  std::int32_t* chain_parents = nullptr;  // [B, C]
  std::int32_t* chain_counts = nullptr;   // [B]
  std::int64_t* chain_rows = nullptr;     // [B, C + 1] tail rows of the audit's logits
  bool* chain_held = nullptr;             // [B, C + 1]

  // audit, full, greedy: results of verify on the full model's logits; C or N nodes.
  Verification audit_result;
  std::int32_t audit_nodes = 0;  // columns of audit_result's path
  Verification full;
  const float* path_logprobs =
      nullptr;  // [B, N, 2] slim and full log-probability of the walk's path

  // Cache rows to keep, for compact_kv.
  std::int32_t* move_context = nullptr;    // [B]
  std::int32_t* move_counts = nullptr;     // [B]
  std::int32_t* move_path = nullptr;       // [B, N]
  std::int32_t* hidden_context = nullptr;  // [B]
  std::int32_t* hidden_counts = nullptr;   // [B]

  std::int32_t* words = nullptr;  // [B, kStepWords]
  void* stream = nullptr;         // CUDA: cudaStream_t
};

// Runs on the host, synchronously.
void step_cpu(StepStage stage, const StepParams& params);

// Queues one launch on params.stream of the current device and returns. No host synchronisation;
// may be recorded in a CUDA graph. Throws std::runtime_error for CUDA failures, or "built without
// CUDA".
void step_cuda(StepStage stage, const StepParams& params);

}  // namespace via
