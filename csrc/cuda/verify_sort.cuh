// SPDX-License-Identifier: Apache-2.0
// Candidates of top-k and top-p in shared memory: packed so that one integer comparison gives the
// order of core/filters.h, logit descending then id ascending, and sorted by a bitonic network.
#pragma once

#include <cstdint>

#include "cuda/verify_row.cuh"

namespace via::cuda {

// Ascending with the value; -0 and +0 share a key, as they compare equal.
VIA_DEVICE std::uint32_t ordered_key(float value) {
  const auto bits = bits_as<std::uint32_t>(value + 0.0f);
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}
VIA_DEVICE float value_of_key(std::uint32_t key) {
  return bits_as<float>((key & 0x80000000u) != 0 ? key & 0x7fffffffu : ~key);
}

VIA_DEVICE std::uint64_t pack_candidate(float value, std::int32_t id) {
  return std::uint64_t{ordered_key(value)} << 32 | (0xffffffffu - static_cast<std::uint32_t>(id));
}
VIA_DEVICE float candidate_logit(std::uint64_t candidate) {
  return value_of_key(static_cast<std::uint32_t>(candidate >> 32));
}
VIA_DEVICE std::int32_t candidate_id(std::uint64_t candidate) {
  return static_cast<std::int32_t>(0xffffffffu - static_cast<std::uint32_t>(candidate));
}

// Sorts entries[0, count) in descending order; entries up to the next power of two are overwritten.
// Every thread of the block must call; there is a barrier before the first comparison and after the
// last.
VIA_DEVICE_CALL void sort_candidates(std::uint64_t* entries, int count) {
  int size = kThreads;
  while (size < count) size *= 2;
  for (int i = count + static_cast<int>(threadIdx.x); i < size; i += kThreads) entries[i] = 0;
  __syncthreads();
  for (int run = 2; run <= size; run *= 2) {
    for (int distance = run / 2; distance > 0; distance /= 2) {
      for (int i = static_cast<int>(threadIdx.x); i < size / 2; i += kThreads) {
        // The pair whose lower index has no bit at `distance`.
        const int low = 2 * i - (i & (distance - 1));
        const int high = low + distance;
        const bool descending = (low & run) == 0;
        const std::uint64_t a = entries[low], b = entries[high];
        if ((a < b) == descending) {
          entries[low] = b;
          entries[high] = a;
        }
      }
      __syncthreads();
    }
  }
}

}  // namespace via::cuda
