// SPDX-License-Identifier: Apache-2.0
// Philox4x32-10 (Salmon et al., SC 2011), stateless: a uniform is a function of (seed, position,
// column, purpose) and of nothing else, so a row's numbers do not depend on its batch.
//
// Word order, which every implementation must share:
//   key     = (seed bits 0..31, seed bits 32..63)
//   counter = (position bits 0..31, position bits 32..63, column, purpose)
//   ten rounds; round r uses key + r * (0x9E3779B9, 0xBB67AE85):
//     (c0, c1, c2, c3) <- (hi(M1 c2) ^ c1 ^ k0, lo(M1 c2), hi(M0 c0) ^ c3 ^ k1, lo(M0 c0))
//     with M0 = 0xD2511F53, M1 = 0xCD9E8D57
//   uniform = (first output word >> 8) * 2^-24, a float32 in [0, 1) with 24 random bits; exact.
// Negative seeds and positions count as their two's complement bits.
#pragma once

#include <cstdint>

#include "core/macros.h"

namespace via {
VIA_CORE_BEGIN

// Disjoint streams: acceptance coins, the final draw of a verify call, a drafter's own draws.
enum Purpose : std::uint32_t { kPurposeCoin = 0, kPurposeFinalDraw = 1, kPurposeDrafter = 2 };

struct PhiloxWords {
  std::uint32_t word[4];
};

VIA_HD PhiloxWords philox4x32_10(std::uint32_t key0, std::uint32_t key1, PhiloxWords counter) {
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t product0 = static_cast<std::uint64_t>(0xD2511F53u) * counter.word[0];
    const std::uint64_t product1 = static_cast<std::uint64_t>(0xCD9E8D57u) * counter.word[2];
    counter = {{static_cast<std::uint32_t>(product1 >> 32) ^ counter.word[1] ^ key0,
                static_cast<std::uint32_t>(product1),
                static_cast<std::uint32_t>(product0 >> 32) ^ counter.word[3] ^ key1,
                static_cast<std::uint32_t>(product0)}};
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return counter;
}

VIA_HD float philox_uniform(std::int64_t seed, std::int64_t position, std::uint32_t column,
                            std::uint32_t purpose) {
  const std::uint64_t key = static_cast<std::uint64_t>(seed);
  const std::uint64_t count = static_cast<std::uint64_t>(position);
  const PhiloxWords counter = {{static_cast<std::uint32_t>(count),
                                static_cast<std::uint32_t>(count >> 32), column, purpose}};
  const PhiloxWords random = philox4x32_10(static_cast<std::uint32_t>(key),
                                           static_cast<std::uint32_t>(key >> 32), counter);
  return static_cast<float>(random.word[0] >> 8) * 0x1p-24f;
}

// A uniform given by the caller, forced into [0, 1): NaN and negatives count as 0, values from 1 on
// as the largest float below 1. No token can then be drawn beyond the last one with mass.
VIA_HD float clamp_uniform(float uniform) {
  const float low = uniform > 0.0f ? uniform : 0.0f;
  return low < 1.0f ? low : 0x1.fffffep-1f;
}

VIA_CORE_END
}  // namespace via
