// SPDX-License-Identifier: Apache-2.0
// The persistent engine: a whole verification step of a Llama-like model in one cooperative launch
// (docs/design.md, section 16). Slim pass, verify, three-way routing, the rest of the full model
// only if a request escalates, acceptance, compaction: no host decision in between.
#pragma once

#include <cstddef>
#include <cstdint>

#include "via/compact_kv.h"
#include "via/persistent_program.h"
#include "via/step.h"
#include "via/types.h"
#include "via/verify.h"

namespace via::persistent {

// ---- memory of an engine
// Keys and values of one layer, [B, capacity, Hkv, D] bfloat16 with the strides of Cache.
struct LayerCache {
  void* key;
  void* value;
};
struct Cache {
  const LayerCache* layers = nullptr;  // [num_layers], on the device
  std::int64_t capacity = 0;
  std::int64_t row_stride = 0;  // elements
  std::int64_t position_stride = 0;
  std::int64_t head_stride = 0;
  std::int64_t window = 0;  // positions seen, the own one included; 0 = all
};

// Activations; row = batch row * width of the pass + token. bfloat16 unless said otherwise.
struct Buffers {
  void* normed = nullptr;        // [rows, hidden_size] residual * weight of the norm that follows
  float* square_sums = nullptr;  // [grid, kMaxTokens] a block's share of a token's sum of squares
  float* qkv = nullptr;          // [rows, (Hq + 2 Hkv) D]
  void* query = nullptr;         // [rows, Hq, D]
  void* key = nullptr;           // [rows, Hkv, D]
  void* value = nullptr;         // [rows, Hkv, D]
  void* attended = nullptr;      // [rows, Hq D padded to 64], zero behind Hq D
  void* features = nullptr;      // [rows, intermediate_size padded to 64], zero behind it
  float* logits = nullptr;       // [rows, vocab_size]
  float* hidden = nullptr;       // [B, hidden_rows, hidden_size]; the last row of each is spare
  void* workspace = nullptr;     // workspace_size bytes, zero before the first launch
  std::int32_t rows = 0;         // at least B times the width of the widest pass
  std::int32_t hidden_rows = 0;
};

// Words that blocks share, each on a line of its own. Zero before the first launch.
struct alignas(128) ControlWord {
  unsigned value;
};
enum class FaultCode : std::uint32_t {
  kNone,
  kBarrier,  // a grid barrier was not reached by all blocks
  kWait      // a wait inside a phase: verify's or filtered_probs' for other blocks
};
enum FaultField { kFaultCode, kFaultPhase, kFaultBlock, kFaultEpoch, kFaultSeen, kFaultFields };
struct Control {
  ControlWord arrivals;  // of all barriers of all launches
  ControlWord base;      // arrivals before this launch
  ControlWord abort;     // 1: somebody waited too long; every wait ends
  ControlWord fault[kFaultFields];
};

struct ModelArgs {
  ModelShape shape;
  Weights weights;
  Cache cache;
  Buffers buffers;
  const Phase* phases = nullptr;  // on the device
  PassRange passes[kNumPasses];
  Gates gates[kNumPasses];
  std::int32_t batch_size = 0;
  Control* control = nullptr;
  unsigned long long watchdog_ns = 0;
  std::int32_t missing_block = -1;  // a block that does not arrive, to prove the watchdog
  void* stamps = nullptr;  // times of phases, csrc/persistent/stamps.cuh; builds with VIA_STAMPS
};

// A pass over B x W tokens; row b has counts[b] of them, 0 = it sits the pass out. Arrays [B, W] or
// [B] on the device, those of StepParams.
struct PassInput {
  const std::int64_t* token_ids = nullptr;  // null: kLoad takes hidden row b * hidden_rows + token
  const std::int64_t* hidden_index = nullptr;  // kSave: flat hidden row of each token
  const std::int32_t* counts = nullptr;
  const std::int32_t* contexts = nullptr;  // positions before the new tokens
  const std::int32_t* parents = nullptr;   // among the new tokens, -1 = context only
  const std::int32_t* depths = nullptr;    // text position - context
  std::int32_t width = 0;
};

// ---- launches
struct StepLaunch {
  ModelArgs model;
  StepParams step;  // batch rows, arrays and policy of the step
  VerifyParams
      slim;  // rule of the slim verifier on the draft; logits, sizes and trees are filled in
  VerifyParams
      audit;          // of the full model on backlog and walk (chain) or backlog and draft (greedy)
  VerifyParams full;  // of the full model on the draft
  const std::uint32_t* held_words = nullptr;  // [ceil(V / 32)] allowed ids while end of sequence is
                                              // held back; null: it never is
  float* slim_rows = nullptr;  // [B, max_backlog + 1, V] exact sampling: the audit's p; or null
  bool notes_path = false;     // via without audit: log-probabilities for the overshoot
  bool moves = false;          // accepted cache rows may have to be moved: not for chains
  const CacheView* caches = nullptr;  // [2 num_layers], on the device, for `moves`
  std::int32_t grid = 0;              // blocks; all must be resident
  void* stream = nullptr;             // cudaStream_t
};

// Blocks that one launch may have on the current device: one per multiprocessor, fewer under MIG or
// MPS. Throws std::runtime_error if the kernel does not fit a multiprocessor, naming what is short.
int resident_blocks(const ModelShape& shape, int batch_size);

std::size_t workspace_size(const StepLaunch& launch);

// Queues one cooperative launch on launch.stream and returns; no host synchronisation, may be
// recorded in a CUDA graph. Throws std::runtime_error for CUDA failures, or "built without CUDA".
void step_cuda(const StepLaunch& launch);

// One pass alone: logits of the tokens at model.buffers.logits.
void pass_cuda(const ModelArgs& model, PassKind pass, const PassInput& input, int grid,
               void* stream);

}  // namespace via::persistent
