// SPDX-License-Identifier: Apache-2.0
// The program of the persistent engine and its validator: many random models, grids and gates,
// which must be accepted, and programs and event lists with one thing wrong, which must be
// rejected. Integer arithmetic, no kernel. Host compilers only.

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "gpu_or_simt.h"
#include "persistent/tuning.cuh"
#include "persistent_program_mutants.h"

namespace via::persistent {
namespace {

using testing::Checker;

template <class Preset>
constexpr bool is_preset(const RingSize& ring) {
  return ring.sweep_rows == Preset::kSweepRows && ring.slots == Preset::kRingSlots;
}
static_assert(is_preset<Large<128>>(kRingSizes[0]) && is_preset<Medium<128>>(kRingSizes[1]) &&
                  is_preset<Small<128>>(kRingSizes[2]),
              "the validator's rings are the kernel's");

void check_valid_programs(Random& random, Checker& checker) {
  for (int i = 0; i < 60; ++i) {
    const Case test = random_case(random, 1, i % 4 == 0 ? 170 : 20);
    const std::string text =
        validate_program(test.shape, test.program, test.gates, test.batch_size, test.grid);
    checker.expect(text.empty(), "case %d, grid %d: %s", i, test.grid, text.c_str());
    std::int64_t used = 0;
    const PassRange& full = test.program.passes[static_cast<int>(PassKind::kFull)];
    for (int at = full.first; at < full.last; ++at) {
      const Phase& phase = test.program.phases[static_cast<std::size_t>(at)];
      used += std::int64_t{phase.rows} * phase.chunks * kChunk;
      const bool changes = phase.kind == PhaseKind::kOutput || phase.kind == PhaseKind::kDown;
      checker.expect(!changes || (phase.rows == test.shape.hidden_size && phase.unit == kRowUnit),
                     "phase %d has other owners", at);
    }
    checker.expect(used == weight_map(test.shape).packed_size, "case %d: weights of no phase", i);
  }
}

void check_large_model(Checker& checker) {
  const ModelShape shape{4096, 6, 32, 8, 128, 14336, 128256, false, false, false, 1e-5f};
  Gates gates[kNumPasses];
  for (Gates& gate : gates) std::fill(gate.words, gate.words + kGateWords, ~0ull);
  gates[static_cast<int>(PassKind::kSlim)].words[0] = ~0xf00ull;
  const std::string text = validate_program(shape, build_program(shape, 2), gates, 1, 132);
  checker.expect(text.empty(), "layers of 8B: %s", text.c_str());
}

// Rejected by the whole validator, and (unless only the table can tell) by the events alone.
template <class Mutate>
void expect_rejected(const std::string& what, Checker& checker, Mutate mutate,
                     bool shows_in_events = true) {
  for (unsigned seed = 1; seed <= 12; ++seed) {
    Random random(seed);
    Case test = random_case(random, 2, 24);
    mutate(test, random);
    const std::string text =
        validate_program(test.shape, test.program, test.gates, test.batch_size, test.grid);
    checker.expect(!text.empty(), "%s, seed %u: taken", what.c_str(), seed);
    if (shows_in_events) {
      checker.expect(!check_without_table(test).empty(), "%s, seed %u: not seen in events",
                     what.c_str(), seed);
    }
  }
}

void check_mutated_programs(Checker& checker) {
  for (int i = 0; i < static_cast<int>(PhaseKind::kNumKinds); ++i) {
    const auto kind = static_cast<PhaseKind>(i);
    expect_rejected(std::string("no ") + name_of(kind), checker, [&](Case& test, Random& random) {
      const int idx = find_kind(test, random, kind);
      if (idx >= 0) drop(test, idx);
      checker.expect(idx >= 0, "nothing to drop");
    });
  }
  expect_rejected("swapped phases", checker, swap_neighbours);
  expect_rejected("half a sublayer", checker, close_half_a_sublayer);
  expect_rejected("fewer rows", checker, [](Case& test, Random& random) {
    Phase& phase = any_product(test, random);
    phase.rows -= phase.unit;
  });
  expect_rejected("more rows", checker, [](Case& test, Random& random) {
    Phase& phase = any_product(test, random);
    phase.rows += phase.unit;
  });
  expect_rejected("fewer columns", checker,
                  [](Case& test, Random& random) { --any_product(test, random).chunks; });
  expect_rejected("more columns", checker,
                  [](Case& test, Random& random) { ++any_product(test, random).chunks; });
  expect_rejected("pairs cut in two", checker, [](Case& test, Random& random) {
    test.program.phases[find_kind(test, random, PhaseKind::kGateUp)].unit = kRowUnit;
  });
  expect_rejected("no layer", checker, [](Case& test, Random& random) {
    test.program.phases[find_kind(test, random, PhaseKind::kDown)].layer = test.shape.num_layers;
  });
  expect_rejected(
      "other weights", checker,
      [](Case& test, Random& random) { any_product(test, random).weights ^= kChunk; }, false);
  expect_rejected(
      "another norm", checker,
      [](Case& test, Random& random) {
        test.program.phases[find_kind(test, random, PhaseKind::kQkv)].input_norm ^= 4;
      },
      false);
  expect_rejected(
      "another full model", checker,
      [](Case& test, Random&) { test.gates[static_cast<int>(PassKind::kFull)].words[0] = 0; },
      false);
}

using Change = bool (*)(Trace& trace, Random& random);  // false: nothing there to change
struct EventMutant {
  const char* name;
  Change change;
};
const EventMutant kEventMutants[] = {
    {"no arrival", [](Trace& t, Random& r) { return erase_one(t, r, EventKind::kArrive); }},
    {"no wait", [](Trace& t, Random& r) { return erase_one(t, r, EventKind::kWait); }},
    {"no copies", [](Trace& t, Random& r) { return erase_one(t, r, EventKind::kFill); }},
    {"no use", [](Trace& t, Random& r) { return erase_one(t, r, EventKind::kUse); }},
    {"no barrier behind the use",
     [](Trace& t, Random& r) { return erase_one(t, r, EventKind::kFree); }},
    {"a barrier missing in one block",
     [](Trace& t, Random& r) {
       leave_out_epoch(t.any_block(r), r.between(1, t.epochs()));
       return true;
     }},
    {"a barrier missing in all blocks",
     [](Trace& t, Random& r) {
       const int epoch = r.between(1, t.epochs() - 1);  // nothing follows the last one
       for (Events& events : t.blocks) leave_out_epoch(events, epoch);
       return true;
     }},
    {"a group too few is waited for",
     [](Trace& t, Random& r) {
       int waits = 0;
       for (Event& event : t.any_block(r)) {
         if (event.kind != EventKind::kAwait) continue;
         ++event.number;
         ++waits;
       }
       return waits > 0;
     }},
    {"no empty groups at the end",
     [](Trace& t, Random& r) {
       Events& events = t.any_block(r);
       const auto is_empty = [](const Event& event) { return event.kind == EventKind::kEmpty; };
       const int used = find_event(events, r, EventKind::kUse);
       events.erase(std::remove_if(events.begin(), events.end(), is_empty), events.end());
       return used >= 0;
     }},
    {"one result is not written",
     [](Trace& t, Random& r) {
       Events& events = t.any_block(r);
       const int idx = find_event(events, r, [](const Event& event) {
         return event.kind == EventKind::kWrite && event.region.memory != Memory::kSlab;
       });
       if (idx >= 0) events.erase(events.begin() + idx);
       return idx >= 0;
     }},
    {"a read before the wait", [](Trace& t, Random& r) { return read_early(t.any_block(r), r); }},
    {"a write behind the arrival",
     [](Trace& t, Random& r) { return write_late(t.any_block(r), r); }},
    {"two writers", [](Trace& t, Random& r) { return write_twice(t, r); }},
};

void check_mutated_events(Checker& checker) {
  for (const EventMutant& mutant : kEventMutants) {
    int changed = 0;
    for (unsigned seed = 1; seed <= 12; ++seed) {
      Random random(seed);
      const Case test = random_case(random, 2, 8);
      Trace trace(test);
      checker.expect(trace.check().empty(), "unchanged, seed %u: %s", seed, trace.check().c_str());
      if (!mutant.change(trace, random)) continue;
      ++changed;
      checker.expect(!trace.check().empty(), "%s, seed %u: taken", mutant.name, seed);
    }
    checker.expect(changed >= 6, "%s: only %d times", mutant.name, changed);
  }
}

}  // namespace
}  // namespace via::persistent

int main() {
  using namespace via::persistent;
  via::testing::Checker checker;
  Random random(1);
  check_valid_programs(random, checker);
  check_large_model(checker);
  check_mutated_programs(checker);
  check_mutated_events(checker);
  return checker.status();
}
