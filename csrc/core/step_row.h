// SPDX-License-Identifier: Apache-2.0
// One row of a decoding step: what its requests hold, and the rules that end it.
#pragma once

#include <cmath>
#include <cstdint>

#include "core/macros.h"
#include "via/step.h"

namespace via {
VIA_CORE_BEGIN

// Tiers of committed tokens (docs/design.md, section 10).
inline constexpr std::uint8_t kTokenAccepted = 0;
inline constexpr std::uint8_t kTokenSlim = 1;
inline constexpr std::uint8_t kTokenFull = 2;

enum WalkField { kWalkPath, kWalkDecided, kWalkFinal, kWalkFull, kWalkFields };

struct StepRow {
  const StepParams& p;
  const int b;
  const int length;
  const int root;
  const int backlog;
  const bool active;

  VIA_HD StepRow(const StepParams& params, int batch_idx)
      : p(params),
        b(batch_idx),
        length(params.lengths[batch_idx]),
        root(length - 1),
        backlog(root - params.frontiers[batch_idx]),
        active(!params.finished[batch_idx]) {}

  // This row's part of an array with `width` columns.
  template <typename T>
  VIA_HD T* of(T* array, int width) const {
    return array + static_cast<std::int64_t>(b) * width;
  }

  VIA_HD void count(StepCounter counter, int amount) const {
    of(p.counters, kStepCounters)[counter] += amount;
  }

  VIA_HD std::int64_t draft_id(int node) const { return of(p.draft_ids, p.num_nodes)[node]; }

  // True if a node that can be kept hangs under row `row` (0 = the root).
  VIA_HD bool has_children(int row) const {
    const std::int32_t* const parents = of(p.block_parents, p.num_nodes + 1);
    for (int node = row; node < p.node_counts[b]; ++node) {
      if (parents[node + 1] == row) return true;
    }
    return false;
  }

  VIA_HD bool is_eos(std::int64_t token) const {
    for (int i = 0; i < p.num_eos; ++i) {
      if (p.eos_token_ids[i] == token) return true;
    }
    return false;
  }

  // How many of `count` new tokens behind `first` tokens end the request; 0 = it goes on.
  template <typename TokenAt>
  VIA_HD int cut(int first, int count, const TokenAt& token_at) const {
    const int remaining = p.max_new_tokens - (first - p.prompt_lens[b]);
    for (int i = 1; i <= count; ++i) {
      if (i >= remaining || is_eos(token_at(i - 1))) return i;
    }
    return 0;
  }

  VIA_HD bool held(int depth) const { return length - p.prompt_lens[b] + depth < p.min_new_tokens; }

  template <typename TokenAt, typename TierAt, typename LogprobAt>
  VIA_HD void append(int first, int count, const TokenAt& token_at, const TierAt& tier_at,
                     const LogprobAt& logprob_at) const {
    for (int i = 0; i < count; ++i) {
      of(p.tokens, p.capacity)[first + i] = token_at(i);
      of(p.tiers, p.capacity)[first + i] = tier_at(i);
      of(p.logprobs, p.capacity)[first + i] = logprob_at(i);
    }
    p.lengths[b] = first + count;
  }

  VIA_HD void set_overshoot(int position, float slim_logprob, float full_logprob) const {
    const float gap = expf(slim_logprob) - expf(full_logprob);
    of(p.overshoot, p.capacity)[position] = gap > 0.0f ? gap : 0.0f;
  }

  VIA_HD void set_words(bool full, bool prefix, int lead) const {
    std::int32_t* const words = of(p.words, kStepWords);
    words[kWordFull] = full;
    words[kWordPrefix] = prefix;
    words[kWordLead] = lead;
    words[kWordFinished] = p.finished[b];
    words[kWordLength] = p.lengths[b];
    words[kWordConfirmed] = p.confirmed[b];
  }
};

// The row that a walk stopped at.
VIA_HD int last_row(const std::int32_t* path, int count) {
  return count > 0 ? path[count - 1] + 1 : 0;
}

VIA_CORE_END
}  // namespace via
