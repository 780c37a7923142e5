// SPDX-License-Identifier: Apache-2.0
// What the blocks of a grid do in a sequence of passes, as lists of events, and the rules that the
// lists must keep. Host code only.
//
// Checked: the table against the model (order, gates, sizes, offsets); the weight ring (every
// filled slot used once and in order, none refilled too early, as many groups as the waits count);
// barriers (every block arrives at and waits for every epoch); and the memory that blocks share:
// nobody reads or writes what another block writes in the same epoch, nothing is read that this
// sequence of passes has not written for this phase's layer or norm, nothing is written for nobody.
// Not checked: what a phase computes, order between the threads of one block, the splits of
// attention (they meet through atomics inside their phase), which context positions are read,
// which saved hidden row belongs to which token, what a step does between passes, and that the
// kernel does what block_events says.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "persistent/layout.h"

namespace via::persistent {

// Of the weight ring, as csrc/persistent/tuning.cuh sets them per architecture.
struct RingSize {
  std::int32_t sweep_rows;
  std::int32_t slots;
};
inline constexpr RingSize kRingSizes[] = {{256, 4}, {128, 6}, {96, 3}};

// Buffers of the engine. Rows are live tokens, except kSquareSums: a block's. Where all accesses
// span all live tokens (kNormed, kFeatures, kLogits, kHidden, kSlab), row 0 stands for them.
enum class Memory : std::int32_t {
  kNormed,
  kSquareSums,
  kQkv,
  kQuery,
  kKey,
  kValue,
  kCache,  // new tokens of all layers side by side, keys and values as one
  kAttended,
  kFeatures,
  kLogits,
  kHidden,
  kSlab,  // shared memory: nobody else's
  kNumMemories
};
inline constexpr int kNumMemories = static_cast<int>(Memory::kNumMemories);
inline constexpr int kMaxGrid = 1024;
const char* name_of(Memory memory);
const char* name_of(PassKind pass);
const char* name_of(PhaseKind kind);

// Rows [first_row, last_row), elements [first, last) of each.
struct Region {
  Memory memory = Memory::kNormed;
  std::int32_t first_row = 0, last_row = 1;
  std::int64_t first = 0, last = 0;
};

enum class EventKind : std::int32_t {
  kArrive,  // number: epoch
  kWait,    // number: epoch
  kRead,    // number: tag that the data must have
  kWrite,   // number: tag of the data
  kPrime,   // a pass begins: items are counted from 0 again
  kFill,    // a group of copies; number: item of the ring
  kEmpty,   // a group without copies
  kAwait,   // number: newest groups that may still be under way
  kUse,     // number: item of the ring
  kFree,    // all threads have left its slot; number: item of the ring
};

struct Event {
  EventKind kind;
  std::int32_t phase;  // in the table; -1: none
  std::int64_t number;
  Region region;  // kRead, kWrite; kFill, kUse: rows and columns of the phase's matrix
};
using Events = std::vector<Event>;

// Tokens of each row of the batch.
using TokenCounts = std::array<int, kMaxBatch>;

struct Run {
  ModelShape shape;
  const Program* program = nullptr;
  const Gates* gates = nullptr;  // [kNumPasses]
  std::vector<PassKind> passes;  // one after the other
  TokenCounts counts{};
  int grid = 1;
  RingSize ring = kRingSizes[0];

  int tokens() const {
    int sum = 0;
    for (const int count : counts) sum += count;
    return sum;
  }
};

// What one block does. The fields of all phases must be sound (check_fields).
Events block_events(const Run& run, int block);

// All return what is wrong, empty if nothing.
std::string check_fields(const ModelShape& shape, const Program& program);  // in range
std::string check_table(const ModelShape& shape, const Program& program);   // as the model asks
std::string check_gates(const Program& program, const Gates (&gates)[kNumPasses]);
// check_ring to check_memory, for the sequences of passes that a step may make.
std::string check_runs(const ModelShape& shape, const Program& program,
                       const Gates (&gates)[kNumPasses], int batch_size, int grid);
std::string check_ring(const Run& run, const Events& events, int block);
// Every element of every product that runs is copied by one block. No pass twice in run.passes.
std::string check_weights(const Run& run, const std::vector<Events>& blocks);
std::string check_barriers(const std::vector<Events>& blocks);
std::string check_memory(const Run& run, const std::vector<Events>& blocks);

}  // namespace via::persistent
