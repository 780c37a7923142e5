// SPDX-License-Identifier: Apache-2.0
// The vectorised loops over one logits row, as a table per instruction set. A row is cut into
// chunks of kChunk tokens, always the same way, and partial results are merged in chunk order: a
// result depends neither on the number of threads nor on the instruction set.
#pragma once

#include <cstdint>

#include "via/types.h"

namespace via::cpu {

// Tokens per chunk: 8 KiB as float32, which stays in the first-level cache between two passes.
inline constexpr std::int64_t kChunk = 2048;
// Tokens per block maximum (top-k and top-p skip blocks by it).
inline constexpr std::int64_t kBlock = 128;
inline constexpr std::int64_t kBlocksPerChunk = kChunk / kBlock;

// Bins in which top-p counts mass.
inline constexpr int kNumBins = 2048;
inline constexpr float kBinsPerOrder = 16.0f;

// One row of logits, or of probabilities, as the caller holds it.
struct RowView {
  const void* data = nullptr;
  const std::uint32_t* allowed = nullptr;  // grammar bit words, or null
  std::int64_t size = 0;                   // V
  DType dtype = DType::kFloat32;
};

// Largest allowed value of a chunk, sum of 2^(l * scale - exponent) over it (core/softmax.h), and
// whether it holds a NaN at an allowed id.
struct ChunkStats {
  float max;
  bool has_nan;
  double sum;
  double exponent;
};

// Kept places in (logit descending, id ascending) order, as core/filters.h FilterCut.
struct Cut {
  float logit;
  std::int32_t last_id;
};

struct Kernels {
  // Maximum only: the sum is left 0.
  ChunkStats (*chunk_max)(const RowView& row, std::int64_t chunk_idx);
  // `reference` is an integer near max * scale of the row's first chunk: it lets other chunks do
  // with one pass. NaN = unknown.
  ChunkStats (*chunk_softmax)(const RowView& row, std::int64_t chunk_idx, float scale,
                              float reference);
  // bins[kChunk] = distance below `max` in 1 / kBinsPerOrder binary orders, at most kNumBins - 1;
  // tokens of one logit share a bin.
  void (*chunk_bins)(const RowView& row, std::int64_t chunk_idx, float max, float scale,
                     std::int32_t* bins);
  // First token of the chunk whose allowed logit equals `value`, or -1.
  std::int64_t (*find_first)(const RowView& row, std::int64_t chunk_idx, float value);
  // Maxima of the chunk's kBlocksPerChunk blocks; -inf past the end of the row.
  void (*block_max)(const RowView& row, std::int64_t chunk_idx, float* maxima);
  // values[kChunk] as float32; disallowed, NaN and past the end: -inf.
  void (*load_logits)(const RowView& row, std::int64_t chunk_idx, float* values);
  // values[kChunk] as float32; NaN, negative and past the end: 0. True if a NaN was seen.
  bool (*load_probs)(const RowView& row, std::int64_t chunk_idx, float* values);
  // weights[kChunk] = factor * 2^((l - max) * scale) of kept tokens, else 0; returns the sum.
  double (*chunk_weights)(const RowView& row, std::int64_t chunk_idx, float max, float scale,
                          Cut cut, float factor, float* weights);
  // rest[kChunk] = max(r - p, 0), and 0 at index `rejected` if that is in range; returns the sum.
  double (*chunk_residual)(const float* r, const float* p, std::int64_t rejected, float* rest);
};

namespace isa_base {
void fill_scan(Kernels& table);
void fill_weights(Kernels& table);
}  // namespace isa_base
namespace isa_v3 {
void fill_scan(Kernels& table);
void fill_weights(Kernels& table);
}  // namespace isa_v3
namespace isa_v4 {
void fill_scan(Kernels& table);
void fill_weights(Kernels& table);
}  // namespace isa_v4

// The table of the instruction set in use, chosen once by cpuid; VIA_EXT_CPU_ISA=base|v3|v4 forces
// one that the processor supports. cpu_isa() is its name: "base", "v3" or "v4".
const Kernels& kernels();
const char* cpu_isa();

inline std::int64_t num_chunks(std::int64_t size) { return (size + kChunk - 1) / kChunk; }

}  // namespace via::cpu
