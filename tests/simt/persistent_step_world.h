// SPDX-License-Identifier: Apache-2.0
// A toy run for the persistent step: requests, caches, saved hidden rows, a drafter, and in place
// of the model's passes a function of verifier, row, position and token id. A pass writes its
// tokens' ids into caches and hidden rows, and the tail finds them there: rows that are moved
// wrongly, or not, show in what is decoded.
#pragma once

#include <cstdint>
#include <random>

#include "core/macros.h"
#include "persistent/step_args.cuh"
#include "persistent/step_calls.cuh"
#include "step_arrays.h"

namespace via::testing {

using persistent::PassInput;
using persistent::PassKind;
using persistent::StepLaunch;

inline std::mt19937_64 random_bits;
inline int uniform(int low, int high) {
  return low + static_cast<int>(random_bits() % static_cast<std::uint64_t>(high - low + 1));
}

VIA_HD std::uint32_t mix(std::uint32_t a, std::uint32_t b) {
  std::uint32_t x = a * 0x9e3779b1u ^ (b + 0x7f4a7c15u) * 0x85ebca6bu;
  x ^= x >> 15;
  x *= 0x2c1b3c6du;
  return x ^ x >> 13;
}

// The token that a verifier mostly wants behind a position; the slim one errs now and then.
VIA_HD int preferred(bool is_slim, int batch_idx, int position, int vocab_size) {
  const std::uint32_t draw = mix(batch_idx, position);
  const bool errs = is_slim && draw % 5 == 0;
  return static_cast<int>(mix(draw, errs ? 1 : 0) % static_cast<std::uint32_t>(vocab_size));
}

enum class Mode { kTwoTiers, kExactGreedy, kExactSample, kVia, kViaAudit };

// One side of the comparison: requests, rules, and what its steps read and write beside the model.
struct World {
  World(Mode mode, const StepParams& sizes, int vocab, bool samples, bool holds);

  StepParams& step() { return launch.step; }

  StepLaunch launch;
  StepMemory memory;
  float* draft_probs = nullptr;
};

inline World::World(Mode mode, const StepParams& sizes, int vocab, bool samples, bool holds)
    : memory((launch.step = sizes, launch.step), mode >= Mode::kVia) {
  StepParams& step = launch.step;
  const int rows = step.batch_size;
  launch.notes_path = mode == Mode::kVia;

  const Rule full_rule = samples ? Rule::kSample : Rule::kGreedy;
  launch.slim.rule = mode >= Mode::kVia ? Rule::kRoute : full_rule;
  launch.full.rule = full_rule;
  launch.audit.rule = mode == Mode::kViaAudit ? Rule::kRoute : full_rule;
  for (VerifyParams* const call : {&launch.slim, &launch.full, &launch.audit}) {
    call->accept_threshold.value = 0.3f;
    call->escalate_threshold.value = 0.002f;
    call->filter.temperature.value = samples ? 0.8f : 0.0f;
    call->filter.top_k.value = samples ? 50 : 0;
    call->filter.top_p.value = 1.0f;
    call->num_threads = 1;
    if (samples) call->seed = persistent::int64_view(memory.take<std::int64_t>(rows), 1);
  }
  launch.audit.accept_threshold.value = 0.1f;
  launch.audit.escalate_threshold.value = 0.0f;
  if (mode == Mode::kExactSample) {
    launch.slim_rows = memory.take<float>(std::int64_t{rows} * (step.max_backlog + 1) * vocab);
    draft_probs = memory.take<float>(std::int64_t{rows} * step.num_nodes * vocab);
    for (VerifyParams* const call : {&launch.slim, &launch.full}) {
      call->draft_probs = {
          draft_probs, DType::kFloat32, {std::int64_t{step.num_nodes} * vocab, vocab, 0}};
      call->draft_vocab_size = vocab;
    }
  }
  std::int64_t* const eos = memory.take<std::int64_t>(1);
  eos[0] = preferred(false, 0, 11, vocab);
  step.eos_token_ids = eos;
  if (holds) {
    std::uint32_t* const words = memory.take<std::uint32_t>((vocab + 31) / 32);
    for (int w = 0; w < (vocab + 31) / 32; ++w) words[w] = ~0u;
    words[eos[0] / 32] &= ~(1u << eos[0] % 32);
    launch.held_words = words;
  }
}

// The same requests on both sides; some have ended.
inline void enter(World& found, World& wanted) {
  for (int b = 0; b < found.step().batch_size; ++b) {
    const int length = uniform(1, 4);
    const std::int64_t key = uniform(0, 1 << 30);
    const bool is_finished = uniform(0, 5) == 0;
    for (World* const world : {&found, &wanted}) {
      StepParams& p = world->step();
      const_cast<std::int32_t*>(p.prompt_lens)[b] = length;
      p.lengths[b] = p.confirmed[b] = p.kept[b] = length;
      p.frontiers[b] = length - 1;
      p.finished[b] = is_finished;
      for (int i = 0; i < length; ++i) p.tokens[b * p.capacity + i] = 1 + i;
      for (VerifyParams* const call :
           {&world->launch.slim, &world->launch.full, &world->launch.audit}) {
        if (call->seed.data == nullptr) continue;
        static_cast<std::int64_t*>(const_cast<void*>(call->seed.data))[b] = key;
      }
    }
  }
}

// A proposal for the next step: mostly what a verifier prefers, in part a tree.
inline void draft(World& found, World& wanted, int vocab_size, bool has_tree) {
  StepParams& p = found.step();
  for (int b = 0; b < p.batch_size; ++b) {
    const int count = uniform(0, 3) == 0 ? uniform(0, p.num_nodes) : p.num_nodes;
    std::vector<int> depth(p.num_nodes);
    const bool starts_wrong = has_tree && uniform(0, 3) > 0;  // the path leads past node 0
    for (int node = 0; node < p.num_nodes; ++node) {
      const bool branches = has_tree && uniform(0, 2) == 0;
      const int parent = starts_wrong && node == 1 ? -1
                         : branches                ? uniform(-1, node - 1)
                                                   : node - 1;
      depth[node] = parent < 0 ? 1 : depth[parent] + 1;
      const int position = p.lengths[b] - 2 + depth[node];
      const bool is_wrong = (starts_wrong && node == 0) || uniform(0, 7) == 0;
      const int id = is_wrong ? uniform(0, vocab_size - 1)
                              : preferred(uniform(0, 2) == 0, b, position, vocab_size);
      const std::int64_t at = std::int64_t{b} * p.num_nodes + node;
      for (World* const world : {&found, &wanted}) {
        const_cast<std::int64_t*>(world->step().draft_ids)[at] = id;
        const_cast<std::int32_t*>(world->step().draft_parents)[at] = parent;
        const_cast<std::int32_t*>(world->step().draft_counts)[b] = count;
        if (world->draft_probs == nullptr) continue;
        float* const probs = world->draft_probs + at * vocab_size;
        std::fill_n(probs, vocab_size, 0.3f / static_cast<float>(vocab_size));
        probs[id] += 0.7f;
      }
    }
  }
}

// Sizes and bookkeeping of a run by chance.
inline StepParams draw_sizes(Mode mode, int most_nodes, int most_backlog) {
  StepParams sizes;
  sizes.batch_size = uniform(1, 3);
  sizes.num_nodes = uniform(0, most_nodes);
  sizes.max_backlog = uniform(1, most_backlog);
  // Walks past the first node that fill the backlog: the audit's rows lie apart in the tail.
  if (mode == Mode::kExactSample) sizes.num_nodes = most_nodes;
  sizes.capacity = 64;
  sizes.tail_width = sizes.max_backlog + sizes.num_nodes + 2;
  sizes.max_new_tokens = uniform(8, 40);
  sizes.min_new_tokens = uniform(0, 12);
  sizes.num_eos = 1;
  sizes.has_slim = mode != Mode::kTwoTiers;
  if (mode == Mode::kExactGreedy) sizes.audit = StepAudit::kGreedy;
  if (mode == Mode::kExactSample || mode == Mode::kViaAudit) sizes.audit = StepAudit::kChain;
  const bool is_short = sizes.audit == StepAudit::kChain && uniform(0, 1) != 0;
  sizes.audit_nodes = sizes.max_backlog + (is_short ? 0 : sizes.num_nodes);
  return sizes;
}

// What both sides have in common, compared.
inline void expect_same_step(Checker& checker, World& found, World& wanted, int vocab_size) {
  expect_same_requests(checker, found.step(), wanted.step());
  const StepParams& p = wanted.step();
  const std::int64_t rows = p.max_backlog + 1;  // the last one is spare
  for (int b = 0; b < p.batch_size && found.launch.slim_rows != nullptr; ++b) {
    expect_equal<float>(checker, "slim_rows", found.launch.slim_rows + b * rows * vocab_size,
                        wanted.launch.slim_rows + b * rows * vocab_size, (rows - 1) * vocab_size);
  }
}

}  // namespace via::testing
