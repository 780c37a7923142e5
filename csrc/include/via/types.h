// SPDX-License-Identifier: Apache-2.0
// The vocabulary of the C++ interface: dtypes, tensor views, tiers, status bits.
// Plain data only: no Torch, no Python, no ownership. A view borrows memory for one call.
#pragma once

#include <cstdint>

namespace via {

// At most 127 nodes below the root, so that root + nodes fit 128 rows (two 64-bit ancestor words).
inline constexpr int kMaxNodes = 127;

enum class DType : std::int32_t {
  kFloat32 = 0,
  kFloat16 = 1,
  kBFloat16 = 2,
  kInt32 = 3,
  kInt64 = 4
};

// Where a call runs. kCuda needs a build with CUDA.
enum class Device : std::int32_t { kCpu = 0, kCuda = 1 };

// The acceptance rules of verify. kRoute: ratios and three-way routing; kGreedy: the child equal
// to the argmax; kSample: lossless acceptance.
enum class Rule : std::int32_t { kRoute = 0, kGreedy = 1, kSample = 2 };

// Route of one node. kTierNone marks "no node here".
enum Tier : std::uint8_t {
  kTierAccept = 0,
  kTierRegenerate = 1,
  kTierEscalate = 2,
  kTierNone = 255
};

// Bit flags of Verification.status, or-ed per batch row.
enum Status : std::int32_t {
  kStatusNan = 1,        // NaN in a logits row that was used
  kStatusTokenId = 2,    // token id outside the vocabulary
  kStatusNoMass = 4,     // no token left with positive mass
  kStatusTree = 8,       // malformed tree, treated as no nodes
  kStatusParameter = 16  // per-row parameter out of range: row greedy, nothing accepted
};

// Borrowed read-only tensor. Sizes live in the params struct that holds it. `stride` counts
// elements, outermost dimension first; the last dimension is contiguous and has no entry.
// data == nullptr means "argument not given".
struct TensorView {
  const void* data = nullptr;
  DType dtype = DType::kFloat32;
  std::int64_t stride[3] = {0, 0, 0};
};

// A number for all rows, or one number per batch row: `data` (length B, unit stride) wins if set.
struct FloatParam {
  const float* data = nullptr;
  float value = 0.0f;
};
struct IntParam {
  const std::int32_t* data = nullptr;
  std::int32_t value = 0;
};

// The calibrated router, packed: bias and kRouterFeatures weights of the models draft, slim and
// bonus, then their limits as log-odds. Weights are finite; a limit may be infinite.
inline constexpr int kRouterFeatures = 7;
inline constexpr int kRouterWeights = 1 + kRouterFeatures;
inline constexpr int kRouterSize = 3 * kRouterWeights + 3;
struct RouterParam {
  const float* data = nullptr;  // [kRouterSize], or [B, kRouterSize]; wins over `values` if set
  std::int64_t stride = 0;      // elements from request to request; 0 = one router for all
  float values[kRouterSize] = {};
};

}  // namespace via
