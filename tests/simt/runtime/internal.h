// SPDX-License-Identifier: Apache-2.0
// State of the simulation, shared by the files of this folder. One launch at a time.
#pragma once

#include <deque>
#include <map>
#include <string>
#include <vector>

#include "race_hooks.h"
#include "runtime.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#define VIA_SIMT_ASAN 1
#else
#define VIA_SIMT_ASAN 0
#endif

namespace via::simt {

struct Block;
struct Warp;

struct AsyncCopy {
  char* shared;
  const char* global;
  unsigned bytes, source_bytes;
  bool read_at_issue;
  char snapshot[16];
  Site site;
};

enum class State : std::uint8_t { kReady, kBarrier, kCollective, kGrid, kDone };

struct Fiber : ThreadIndex {
  void* stack_pointer = nullptr;
  char* stack = nullptr;
  std::size_t stack_bytes = 0;
  void* fake_stack = nullptr;  // of AddressSanitizer
  Block* home = nullptr;
  Warp* warp = nullptr;
  State state = State::kReady;
  unsigned id = 0;             // within the launch
  std::uint64_t priority = 0;  // pct: the highest runs
  Site site;                   // where it waits, and in what
  const char* waits_in = "start";
  int predicate = 0, vote_result = 0;
  CollectiveCall call{};
  std::vector<AsyncCopy> open_copies;
  std::deque<std::vector<AsyncCopy>> copy_groups;
};

struct Warp {
  Fiber* lanes[32]{};
  unsigned live = 0, waiting = 0;
};

struct Barrier {
  int expected = 0;
  Vote vote = Vote::kNone;
  std::vector<Fiber*> waiting;
};

struct Gap {
  unsigned char* begin;
  std::size_t bytes;
};

struct StaticArray {
  unsigned char* begin = nullptr;
  std::size_t bytes = 0;
};

struct Block {
  uint3 index{};
  unsigned live = 0;
  std::uint64_t priority = 0;
  unsigned char* dynamic = nullptr;
  std::vector<Warp> warps;
  std::vector<Fiber*> fibers;
  Barrier barriers[16];
  std::map<const void*, StaticArray> statics;
  std::vector<Gap> gaps;
};

struct Runtime {
  Fiber host;  // the caller of launch
  Fiber* self = &host;
  Fiber* exited = nullptr;  // on its stack we still are; goes back to the pool later
  std::vector<Fiber*> pool;
  std::vector<Fiber*> ready;
  std::deque<Fiber*> ready_fifo;
  std::vector<Block*> blocks;    // resident
  std::deque<unsigned> pending;  // blocks that have not started
  LaunchConfig config{};
  void (*body)(void*) = nullptr;
  void* argument = nullptr;
  unsigned live_fibers = 0, next_id = 0;
  Barrier grid_barrier;
  std::uint64_t random_state = 1;
  std::uint64_t lowest_priority = 0;
  unsigned priority_level = 0;  // pct: 0 block, 1 warp, 2 thread
  std::uint64_t spins_without_progress = 0;
  std::uint64_t clock_ns = 0;
  std::string error;  // set: the launch is being given up
};
Runtime& runtime();

// Fibers that ended may serve another block already.
inline bool belongs_to(const Fiber& fiber, const Block& block) {
  return fiber.home == &block && fiber.state != State::kDone;
}

// ---- random numbers (all from the seed) ----
std::uint64_t random_bits();
unsigned random_below(unsigned bound);

// ---- fiber.cpp ----
Fiber* take_fiber();
void give_back_fiber(Fiber* fiber);
void switch_to(Fiber* next, bool last_time);
void fiber_main();  // launch.cpp: what every fiber runs

// ---- scheduler.cpp ----
void make_ready(Fiber* fiber);
void schedule();  // the caller is blocked, ready again, or done
// Changes threads with probability 1 / one_in, under the random and pct schedules.
void preemption_point(unsigned one_in);
inline void note_progress() { runtime().spins_without_progress = 0; }

// ---- barriers.cpp, collectives.cpp, async_copy.cpp, bulk_copy.cpp: what a thread's end means ----
void barrier_after_exit(Block& block);
void collectives_after_exit(Warp& warp, unsigned lane);
void async_check_exit(Fiber& fiber);
void bulk_check_block_end(const Block& block);
void bulk_reset();

// ---- shared_memory.cpp ----
void poison(const void* pointer, std::size_t bytes, bool on);
void create_shared(Block& block);
void check_red_zones(const Block& block);
void release_shared(Block& block);
std::size_t dynamic_room();  // bytes behind Block::dynamic, red zones included

// ---- report.cpp ----
const std::string& waiting_threads();  // valid until the next call

}  // namespace via::simt
