// SPDX-License-Identifier: Apache-2.0

#include "persistent/validate.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "persistent/shape.h"

namespace via::persistent {
namespace {

// Runs that a step may make; none of them has a pass twice.
const std::vector<PassKind> kSequences[] = {
    {PassKind::kSlim, PassKind::kPrefix, PassKind::kTail},
    {PassKind::kSlim, PassKind::kTail},
    {PassKind::kPrefix},
    {PassKind::kFull},
};

// Of a grid's events, those that are looked at together.
bool is_kept(const Event& event, bool checks_ring) {
  if (checks_ring) return event.kind == EventKind::kFill;
  return event.kind == EventKind::kRead || event.kind == EventKind::kWrite ||
         event.kind == EventKind::kArrive || event.kind == EventKind::kWait;
}

// Every row of the batch with as many tokens as fit; or few, none at all in one row.
TokenCounts counts_of(int batch_size, bool is_full) {
  TokenCounts counts{};
  const int most = kMaxTokens / batch_size;
  for (int row = 0; row < batch_size; ++row) {
    counts[static_cast<std::size_t>(row)] = is_full ? most : row == 2 ? 0 : 1 + 5 * row;
  }
  return counts;
}

std::string check_run(const Run& run, bool checks_ring) {
  std::vector<Events> blocks;
  for (int block = 0; block < run.grid; ++block) {
    const Events events = block_events(run, block);
    if (checks_ring) {
      const std::string text = check_ring(run, events, block);
      if (!text.empty()) return text;
    }
    Events kept;
    std::copy_if(events.begin(), events.end(), std::back_inserter(kept),
                 [&](const Event& event) { return is_kept(event, checks_ring); });
    blocks.push_back(std::move(kept));
  }
  if (checks_ring) return check_weights(run, blocks);
  const std::string text = check_barriers(blocks);
  return text.empty() ? check_memory(run, blocks) : text;
}

}  // namespace

const char* name_of(PassKind pass) {
  constexpr const char* kNames[] = {"slim", "prefix", "tail", "full"};
  return kNames[static_cast<int>(pass)];
}

const char* name_of(PhaseKind kind) {
  constexpr const char* kNames[] = {"embed",  "load",    "save", "qkv",  "rotary", "attention",
                                    "output", "gate_up", "down", "head", "unknown"};
  return kNames[static_cast<int>(kind)];
}

const char* name_of(Memory memory) {
  constexpr const char* kNames[] = {"normed", "square_sums", "qkv",      "query",    "key",
                                    "value",  "cache",       "attended", "features", "logits",
                                    "hidden", "slab",        "unknown"};
  return kNames[static_cast<int>(memory)];
}

std::string check_runs(const ModelShape& shape, const Program& program,
                       const Gates (&gates)[kNumPasses], int batch_size, int grid) {
  std::string text;
  for (const auto& passes : kSequences) {
    Run run{shape, &program, gates, passes, counts_of(batch_size, false), grid, kRingSizes[0]};
    for (const RingSize& ring : kRingSizes) {
      run.ring = ring;
      if (text.empty()) text = check_run(run, true);
    }
    for (const bool is_full : {false, true}) {
      run.counts = counts_of(batch_size, is_full);
      if (text.empty()) text = check_run(run, false);
    }
  }
  return text;
}

std::string validate_program(const ModelShape& shape, const Program& program,
                             const Gates (&gates)[kNumPasses], int batch_size, int grid) {
  check_shape(shape);
  check_range("batch_size", batch_size, 1, kMaxBatch);
  check_range("grid", grid, 1, kMaxGrid);
  std::string text = check_fields(shape, program);
  if (text.empty()) text = check_table(shape, program);
  if (text.empty()) text = check_gates(program, gates);
  return text.empty() ? check_runs(shape, program, gates, batch_size, grid) : text;
}

}  // namespace via::persistent
