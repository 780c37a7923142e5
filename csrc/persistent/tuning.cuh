// SPDX-License-Identifier: Apache-2.0
// Sizes that the persistent kernel is compiled for (docs/design.md section 16): how the shared
// memory of a multiprocessor, which one block has to itself, is divided.
//
// Dynamic part: weight ring | residual slab of the hidden rows that the block owns | scratch, which
// belongs to the phase that runs. Scratch comes last: phases carve it as they need it.
// Bytes of the presets, D = 128: Large 128 KiB of weights, scratch 59.5 KiB, 36 KiB of slab;
// Medium 96, 47.4, 15; Small 36, 47.4, 11. A slab takes 256 bytes per hidden row: 32 rows of a
// model of 4096 on 128 multiprocessors.
#pragma once

#include <cstddef>

#include "cuda/tree_attention_args.cuh"
#include "persistent/layout.h"

namespace via::persistent {

// tree_attention with another number of slots: 256 threads, 32 query rows.
template <int kHeadDim, int kSlotCount>
struct AttentionShape : attention::Shape<BFloat16, kHeadDim, 2> {
  using Base = attention::Shape<BFloat16, kHeadDim, 2>;
  static constexpr int kSlots = kSlotCount;
  static constexpr std::size_t kLoadBytes = Base::kQueryBytes + kSlots * Base::kSlotBytes;
  static constexpr std::size_t kDynamicBytes =
      kLoadBytes > Base::kMergeBytes ? kLoadBytes : Base::kMergeBytes;
  static_assert(Base::kThreads == kThreads && kSlots >= 2, "the block of the persistent kernel");
};

constexpr std::size_t largest(std::size_t a, std::size_t b) { return a > b ? a : b; }

// At least sizeof(cuda::VerifyShared).
inline constexpr std::size_t kVerifyBytes = 48 * 1024 - 512;
// Static shared memory of the kernel, at most.
inline constexpr std::size_t kStaticBytes = 5 * 1024;

template <int kHeadDimOf, int kSweepRowsOf, int kRingSlotsOf, int kAttentionSlotsOf>
struct Tuning {
  static constexpr int kHeadDim = kHeadDimOf;
  static constexpr int kSweepRows = kSweepRowsOf;  // weight rows of a slot of one chunk
  static constexpr int kRingSlots = kRingSlotsOf;
  static constexpr int kAttentionSlots = kAttentionSlotsOf;
  using Attention = AttentionShape<kHeadDim, kAttentionSlots>;
  static_assert(kSweepRows % 16 == 0 && kSweepRows <= 256 && kRingSlots >= 2, "whole m16 tiles");

  static constexpr std::size_t kSlotBytes = std::size_t{kSweepRows} * kChunk * 2;
  static constexpr std::size_t kRingBytes = kRingSlots * kSlotBytes;

  // Activations: stages of 64 / kTokens chunks each, the same bytes whatever the bucket.
  static constexpr int kStages = 4;
  static constexpr std::size_t kStageBytes = std::size_t{kMaxTokens} * kChunk * 2;
  // Sums of the warps that share a tile's columns take the place of the stages.
  static constexpr std::size_t kReduceBytes = std::size_t{kWarps} * 16 * kMaxTokens * sizeof(float);
  static constexpr int kSquareParts = kThreads / 16;  // of the blocks, each summed by one thread
  static constexpr std::size_t kSquareBytes =
      std::size_t{kSquareParts} * kMaxTokens * sizeof(float);
  // Norm weights of the owned hidden rows, or the bias of two sweeps.
  static constexpr int kVectorFloats = 1024;
  static_assert(kVectorFloats >= 2 * kSweepRows, "bias of two sweeps");
  static constexpr int kUnitParts = kVectorFloats / kRowUnit * kMaxTokens;  // sums of squares
  static constexpr std::size_t kProductBytes =
      largest(kStages * kStageBytes, kReduceBytes) + kSquareBytes + kVectorFloats * sizeof(float);

  static constexpr std::size_t kScratchBytes =
      largest(kProductBytes, largest(Attention::kDynamicBytes, kVerifyBytes));

  static constexpr std::size_t slab_bytes(int slab_rows) {
    return static_cast<std::size_t>(slab_rows) * kMaxTokens * sizeof(float);
  }
  static constexpr std::size_t dynamic_bytes(int slab_rows) {
    return kRingBytes + slab_bytes(slab_rows) + kScratchBytes;
  }
  // Hidden rows that a block may own, with `opt_in` bytes of shared memory a block.
  static constexpr int most_slab_rows(std::size_t opt_in) {
    const std::size_t taken = dynamic_bytes(0) + kStaticBytes;
    if (opt_in < taken) return 0;
    const int fitting = static_cast<int>((opt_in - taken) / slab_bytes(1));
    return fitting < kVectorFloats ? fitting : kVectorFloats;
  }
};

// What a block may have after opting in, cudaDevAttrMaxSharedMemoryPerBlockOptin.
inline constexpr std::size_t kLargeBytes = 227 * 1024;   // sm_90, sm_100
inline constexpr std::size_t kMediumBytes = 163 * 1024;  // sm_80, sm_87
inline constexpr std::size_t kSmallBytes = 99 * 1024;    // sm_86, sm_89, sm_120

template <int kHeadDim>
using Large = Tuning<kHeadDim, 256, 4, 3>;
template <int kHeadDim>
using Medium = Tuning<kHeadDim, 128, 6, 2>;
// Three slots of 96 rows rather than two of 128: of the room beside scratch and 32 hidden rows.
template <int kHeadDim>
using Small = Tuning<kHeadDim, 96, 3, 2>;

static_assert(Large<128>::most_slab_rows(kLargeBytes) >= 120, "a model of 8192 on 78 processors");
static_assert(Medium<128>::most_slab_rows(kMediumBytes) >= 56, "5120 on 98 processors");
static_assert(Small<128>::most_slab_rows(kSmallBytes) >= 40, "4096 on 104, 5120 on 128");
static_assert(Large<64>::kScratchBytes <= Large<128>::kScratchBytes &&
                  Medium<64>::kScratchBytes <= Medium<128>::kScratchBytes,
              "smaller heads need no more");

// Whether code generated for compute capability `arch` (of PTX, 10 * major + minor) has a body for
// a preset made for `opt_in` bytes; 0: of a test, always. Code for sm_80 also runs on sm_86 and
// sm_89, and as PTX everywhere.
VIA_HD constexpr bool has_body(int arch, std::size_t opt_in) {
  if (arch == 0 || opt_in == 0) return true;  // host code: the simulation runs any preset
  if (arch >= 120) return opt_in == kSmallBytes;
  if (arch >= 90) return opt_in == kLargeBytes;
  return opt_in != kLargeBytes;
}
#if defined(__CUDA_ARCH__)
inline constexpr int kCompiledArch = __CUDA_ARCH__ / 10;
#else
inline constexpr int kCompiledArch = 0;
#endif

}  // namespace via::persistent
