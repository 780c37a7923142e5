// SPDX-License-Identifier: Apache-2.0
// Random models of the persistent engine, and what may be wrong with their programs and with the
// events of their blocks. Used by persistent_program_main.cpp.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "persistent/validate.h"

namespace via::persistent {

class Random {
 public:
  explicit Random(unsigned seed) : engine_(seed) {}
  int between(int least, int most) {
    return least + static_cast<int>(engine_() % static_cast<unsigned>(most - least + 1));
  }

 private:
  std::mt19937 engine_;
};

struct Case {
  ModelShape shape;
  Program program;
  Gates gates[kNumPasses];
  int batch_size = 1;
  int grid = 1;
};

// Everything open but some sublayers behind the shared prefix in the slim pass.
inline Case random_case(Random& random, int least_grid, int most_grid) {
  Case test;
  ModelShape& shape = test.shape;
  shape.hidden_size = kChunk * random.between(1, 5);
  shape.num_layers = random.between(1, 4);
  shape.num_kv_heads = random.between(1, 3);
  shape.num_heads = shape.num_kv_heads * random.between(1, 4);
  shape.head_dim = random.between(0, 1) == 0 ? 64 : 128;
  shape.intermediate_size = random.between(64, 400);
  shape.vocab_size = random.between(9, 900);
  shape.has_head_norms = random.between(0, 1) == 0;
  shape.has_bias = random.between(0, 1) == 0;
  shape.is_tied = random.between(0, 1) == 0;
  shape.norm_epsilon = 1e-6f;
  const int shared_prefix = random.between(0, shape.num_layers);
  test.program = build_program(shape, shared_prefix);
  for (Gates& gates : test.gates) std::fill(gates.words, gates.words + kGateWords, ~0ull);
  for (int gate = 2 * shared_prefix; gate < 2 * shape.num_layers; ++gate) {
    if (random.between(0, 2) == 0) {
      test.gates[static_cast<int>(PassKind::kSlim)].words[gate / 64] &= ~(1ull << (gate % 64));
    }
  }
  test.batch_size = random.between(1, kMaxBatch);
  test.grid = random.between(least_grid, most_grid);
  return test;
}

inline std::string check_without_table(const Case& test) {
  const std::string text = check_fields(test.shape, test.program);
  if (!text.empty()) return text;
  return check_runs(test.shape, test.program, test.gates, test.batch_size, test.grid);
}

// ---- programs
inline bool is_one_of(const Case& test, int phase_idx, PassKind pass) {
  const PassRange& range = test.program.passes[static_cast<int>(pass)];
  return phase_idx >= range.first && phase_idx < range.last;
}

// A phase that runs, of a kind that `wanted` takes, in the first pass that has one; -1: there is
// none.
template <class Wanted>
int find_phase(const Case& test, Random& random, Wanted wanted) {
  for (const PassKind pass : {PassKind::kFull, PassKind::kTail, PassKind::kSlim}) {
    std::vector<int> found;
    for (int i = 0; i < static_cast<int>(test.program.phases.size()); ++i) {
      if (!is_one_of(test, i, pass)) continue;
      if (wanted(test.program.phases[static_cast<std::size_t>(i)])) found.push_back(i);
    }
    if (!found.empty()) {
      return found[static_cast<std::size_t>(random.between(0, static_cast<int>(found.size()) - 1))];
    }
  }
  return -1;
}

inline int find_kind(const Case& test, Random& random, PhaseKind kind) {
  return find_phase(test, random, [&](const Phase& phase) { return phase.kind == kind; });
}
inline Phase& any_product(Case& test, Random& random) {
  const int idx = find_phase(test, random, [](const Phase& phase) { return phase.rows > 0; });
  return test.program.phases[static_cast<std::size_t>(idx)];
}

inline void drop(Case& test, int phase_idx) {
  test.program.phases.erase(test.program.phases.begin() + phase_idx);
  for (PassRange& range : test.program.passes) {
    if (range.first > phase_idx) --range.first;
    if (range.last > phase_idx) --range.last;
  }
}

// Not SAVE: its rows may be saved at any time before the next change.
inline void swap_neighbours(Case& test, Random& random) {
  const PassRange& range = test.program.passes[static_cast<int>(PassKind::kFull)];
  const int idx = random.between(range.first, range.last - 2);
  std::swap(test.program.phases[static_cast<std::size_t>(idx)],
            test.program.phases[static_cast<std::size_t>(idx + 1)]);
}

// One phase obeys the gate of another sublayer, which is closed.
inline void close_half_a_sublayer(Case& test, Random& random) {
  const int idx = find_phase(test, random, [](const Phase& phase) { return phase.gate >= 0; });
  Phase& phase = test.program.phases[static_cast<std::size_t>(idx)];
  phase.gate ^= 1;
  test.gates[static_cast<int>(PassKind::kFull)].words[phase.gate / 64] &=
      ~(1ull << (phase.gate % 64));
}

// ---- events
// All blocks in a full pass.
struct Trace {
  explicit Trace(const Case& test)
      : run{test.shape,   &test.program, test.gates,   {PassKind::kFull},
            {3, 0, 2, 1}, test.grid,     kRingSizes[2]} {
    for (int block = 0; block < run.grid; ++block) blocks.push_back(block_events(run, block));
  }

  std::string check() const {
    for (std::size_t block = 0; block < blocks.size(); ++block) {
      const std::string text = check_ring(run, blocks[block], static_cast<int>(block));
      if (!text.empty()) return text;
    }
    std::string text = check_weights(run, blocks);
    if (text.empty()) text = check_barriers(blocks);
    return text.empty() ? check_memory(run, blocks) : text;
  }

  Events& any_block(Random& random) {
    return blocks[static_cast<std::size_t>(random.between(0, run.grid - 1))];
  }

  int epochs() const {
    return static_cast<int>(
        std::count_if(blocks[0].begin(), blocks[0].end(),
                      [](const Event& event) { return event.kind == EventKind::kArrive; }));
  }

  Run run;
  std::vector<Events> blocks;
};

// Index of a random event that `wanted` takes, or -1.
template <class Wanted>
int find_event(const Events& events, Random& random, Wanted wanted) {
  std::vector<int> found;
  for (std::size_t i = 0; i < events.size(); ++i) {
    if (wanted(events[i])) found.push_back(static_cast<int>(i));
  }
  if (found.empty()) return -1;
  return found[static_cast<std::size_t>(random.between(0, static_cast<int>(found.size()) - 1))];
}
inline int find_event(const Events& events, Random& random, EventKind kind) {
  return find_event(events, random, [&](const Event& event) { return event.kind == kind; });
}

inline bool erase_one(Trace& trace, Random& random, EventKind kind) {
  Events& events = trace.any_block(random);
  const int idx = find_event(events, random, kind);
  if (idx >= 0) events.erase(events.begin() + idx);
  return idx >= 0;
}

// The block passes by one barrier, and counts on as if it had not been there.
inline void leave_out_epoch(Events& events, std::int64_t epoch) {
  const auto is_sync = [](const Event& event) {
    return event.kind == EventKind::kArrive || event.kind == EventKind::kWait;
  };
  events.erase(
      std::remove_if(events.begin(), events.end(),
                     [&](const Event& event) { return is_sync(event) && event.number == epoch; }),
      events.end());
  for (Event& event : events) {
    if (is_sync(event) && event.number > epoch) --event.number;
  }
}

inline bool is_access(const Event& event, EventKind kind, Memory memory) {
  return event.kind == kind && event.region.memory == memory;
}

// What other blocks have published is read before the wait for them.
inline bool read_early(Events& events, Random& random) {
  const int read = find_event(events, random, [](const Event& event) {
    return is_access(event, EventKind::kRead, Memory::kNormed);
  });
  if (read < 0) return false;
  int wait = read;
  while (events[static_cast<std::size_t>(wait)].kind != EventKind::kWait) --wait;
  std::rotate(events.begin() + wait, events.begin() + wait + 1, events.begin() + read + 1);
  return true;
}

// The arrival that follows comes first.
inline bool write_late(Events& events, Random& random) {
  const int write = find_event(events, random, [](const Event& event) {
    return is_access(event, EventKind::kWrite, Memory::kNormed);
  });
  if (write < 0) return false;
  int arrival = write;
  while (events[static_cast<std::size_t>(arrival)].kind != EventKind::kArrive) ++arrival;
  std::rotate(events.begin() + write, events.begin() + arrival, events.begin() + arrival + 1);
  return true;
}

// A block repeats, at the same place in the pass, what another one writes.
inline bool write_twice(Trace& trace, Random& random) {
  const Events& from = trace.blocks[0];
  const int idx = find_event(from, random, [](const Event& event) {
    return event.kind == EventKind::kWrite && event.region.memory != Memory::kSlab;
  });
  if (idx < 0) return false;
  const Event write = from[static_cast<std::size_t>(idx)];
  Events& to = trace.blocks.back();
  const auto at = std::find_if(to.begin(), to.end(), [&](const Event& event) {
    return event.kind == EventKind::kArrive && event.phase == write.phase;
  });
  to.insert(at, write);
  return true;
}

}  // namespace via::persistent
