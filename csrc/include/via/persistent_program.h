// SPDX-License-Identifier: Apache-2.0
// The model of the persistent engine and its program: sizes, where every weight lies, what every
// block does phase by phase (docs/design.md, section 16). Host code only.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace via::persistent {

inline constexpr int kMaxBatch = 4;
inline constexpr int kMaxTokens = 64;  // of one pass, all rows of the batch together
inline constexpr int kMaxLayers = 128;

// Sizes as in Hugging Face configs.
struct ModelShape {
  std::int32_t hidden_size = 0;  // a multiple of 64
  std::int32_t num_layers = 0;
  std::int32_t num_heads = 0;
  std::int32_t num_kv_heads = 0;
  std::int32_t head_dim = 0;  // 64 or 128
  std::int32_t intermediate_size = 0;
  std::int32_t vocab_size = 0;
  bool has_head_norms = false;  // Qwen3: RMSNorm of every query and key head
  bool has_bias = false;        // Qwen2: bias of query, key and value
  bool is_tied = false;         // the embedding is the packed LM head
  float norm_epsilon = 0.0f;
};

// bfloat16 unless said otherwise; csrc/persistent/layout.h gives the packed layout, weight_map the
// offsets.
struct Weights {
  const void* packed = nullptr;
  const float* vectors = nullptr;   // norms and biases
  const void* embedding = nullptr;  // [vocab_size, hidden_size]; null if tied
  const void* cosines = nullptr;    // [positions, head_dim / 2], scaled as the model scales them
  const void* sines = nullptr;      // likewise
};

// Element offsets of every matrix and vector; in `packed` or `vectors`.
struct LayerMap {
  std::int64_t qkv, output, gate_up, down;  // packed; rows padded to 8 (gate_up: 16), columns to 64
  std::int64_t attention_norm, mlp_norm;    // vectors, [hidden_size]
  std::int64_t bias;                        // vectors, [(Hq + 2 Hkv) D]; -1 without
  std::int64_t head_norms;                  // vectors, [2, head_dim]: query, key; -1 without
};
struct WeightMap {
  std::vector<LayerMap> layers;
  std::int64_t head = 0;        // packed, [vocab_size padded to 8, hidden_size]
  std::int64_t final_norm = 0;  // vectors
  std::int64_t packed_size = 0;
  std::int64_t vectors_size = 0;
};
// Throws as build_program does.
WeightMap weight_map(const ModelShape& shape);

// ---- the program: what every block does, phase by phase (csrc/persistent/program.cpp)
enum class PhaseKind : std::int32_t {
  kEmbed,      // token embeddings into the residual
  kLoad,       // saved hidden rows into the residual
  kSave,       // residual into the saved hidden rows; the block's own part, no barrier behind it
  kQkv,        // query, key, value before norm and rotary embedding
  kRotary,     // their norm, where the model has one, and rotary embedding
  kAttention,  // tree attention over cache and new tokens; new keys and values into the cache
  kOutput,     // attention's output projection, added to the residual
  kGateUp,     // silu(gate) * up
  kDown,       // MLP's output projection, added to the residual
  kHead,       // final norm and LM head
  kNumKinds
};

// Blocks walk a range of phases; the rows that a block owns in a phase follow from the phase, the
// grid and the block alone (csrc/persistent/layout.h).
struct Phase {
  PhaseKind kind;
  std::int32_t layer;       // -1: embedding, head
  std::int32_t gate;        // bit of the pass's gates that keeps it; -1: always
  std::int32_t rows;        // of the packed matrix, padding included; 0: no product
  std::int32_t chunks;      // of 64 columns
  std::int32_t unit;        // rows are shared out in units of so many
  std::int64_t weights;     // of the packed matrix; -1
  std::int64_t input_norm;  // of the norm of a product's input, in Weights::vectors; -1
  std::int64_t bias;        // in Weights::vectors; -1
  std::int64_t head_norms;  // in Weights::vectors; -1
};
static_assert(sizeof(Phase) == 56, "no padding: tables are compared byte by byte");

struct PassRange {
  std::int32_t first = 0;
  std::int32_t last = 0;
};

// kSlim: all layers under the slim verifier's gates, residual saved at the end of the shared
// prefix. kPrefix: the layers up to there, saved, no head. kTail: from the saved rows to the
// logits. kFull: all of it.
enum class PassKind : std::int32_t { kSlim, kPrefix, kTail, kFull, kNumPasses };
inline constexpr int kNumPasses = static_cast<int>(PassKind::kNumPasses);

// Two bits per layer: 2 * layer attention, 2 * layer + 1 MLP. Data of a step: the table holds all
// layers, whatever the route.
inline constexpr int kGateWords = 2 * kMaxLayers / 64;
struct Gates {
  std::uint64_t words[kGateWords] = {};
};

struct Program {
  std::vector<Phase> phases;
  PassRange passes[kNumPasses];
};
// Throws std::invalid_argument for shapes that the engine does not take, naming the field.
Program build_program(const ModelShape& shape, int shared_prefix);

// Walks the program as every block of `grid` would, under each pass's gates: ring slots filled and
// used, arrivals and waits, ranges of bytes read and written. Returns what is wrong, empty if
// nothing: unequal counts, epochs that nobody reaches, overlapping writers, reads before writes.
std::string validate_program(const ModelShape& shape, const Program& program,
                             const Gates (&gates)[kNumPasses], int batch_size, int grid);

}  // namespace via::persistent
