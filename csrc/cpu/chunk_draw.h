// SPDX-License-Identifier: Apache-2.0
// The final draw (core/residual.h InverseCdf) over a row held as chunk masses: whole chunks are
// passed by their mass, the chunk that holds the target is walked token by token.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "core/residual.h"
#include "cpu/kernels.h"

namespace via::cpu {

// `load_chunk(c)` fills weights[kChunk] and returns the factor that brings them to the scale of
// mass[c]. walk.target is u * sum of mass. Returns -1 if no token has mass.
template <typename LoadChunk>
std::int64_t draw_from_chunks(InverseCdf walk, const std::vector<double>& mass, std::int64_t size,
                              const float* weights, LoadChunk&& load_chunk) {
  std::int64_t last_chunk = -1;
  for (std::int64_t c = 0; c < static_cast<std::int64_t>(mass.size()); ++c) {
    if (mass[c] > 0.0) last_chunk = c;
  }
  for (std::int64_t c = 0; c <= last_chunk; ++c) {
    if (!(mass[c] > 0.0)) continue;
    if (c < last_chunk && walk.sum + mass[c] <= walk.target) {
      walk.sum += mass[c];
      continue;
    }
    const double factor = load_chunk(c);
    const std::int64_t begin = c * kChunk;
    const std::int64_t count = std::min(kChunk, size - begin);
    for (std::int64_t i = 0; i < count; ++i) {
      if (walk.step(begin + i, static_cast<double>(weights[i]) * factor)) return begin + i;
    }
  }
  return walk.last;
}

}  // namespace via::cpu
