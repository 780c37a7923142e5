// SPDX-License-Identifier: Apache-2.0
// Launches: blocks start (all at once, or a few resident at a time), threads end, errors unwind.

#include <sys/time.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <mutex>
#include <stdexcept>
#include <utility>

#include "runtime/internal.h"

namespace via::simt {

ThreadIndex* current = nullptr;
Stats stats;

Runtime& runtime() {
  static auto* instance = new Runtime;
  return *instance;
}

RaceDetector* race_detector() {
  static RaceDetector* const detector =
      make_race_detector != nullptr ? make_race_detector() : nullptr;
  return detector;
}

namespace {

constexpr unsigned kMaxThreads = 1024;
constexpr std::size_t kMaxSharedBytes = 227 * 1024;  // sm_90
// Set while a kernel runs; the switches seen by the last signal.
volatile std::sig_atomic_t in_kernel = 0;
std::uint64_t switches_seen = 0;

void on_watchdog(int) {
  if (in_kernel != 0 && stats.switches == switches_seen) {
    std::fprintf(stderr,
                 "\n==SIMT-ERROR== one thread ran %u s without a yield (a loop without "
                 "prim::spin?)\n%s",
                 options().watchdog_s, waiting_threads().c_str());
    _exit(kErrorStatus);
  }
  switches_seen = stats.switches;
}

void start_watchdog() {
  static bool started = false;
  if (started || options().throw_on_error) return;
  started = true;
  std::signal(SIGVTALRM, on_watchdog);
  const timeval period = {static_cast<time_t>(options().watchdog_s), 0};
  const itimerval interval = {period, period};
  setitimer(ITIMER_VIRTUAL, &interval, nullptr);
}

unsigned volume(dim3 size) { return size.x * size.y * size.z; }

uint3 unravel(unsigned linear, dim3 size) {
  return {linear % size.x, linear / size.x % size.y, linear / (size.x * size.y)};
}

void start_block(unsigned linear) {
  Runtime& rt = runtime();
  const unsigned threads = volume(rt.config.block);
  auto* block = new Block;
  rt.blocks.push_back(block);
  block->index = unravel(linear, rt.config.grid);
  block->live = threads;
  block->priority = random_bits();
  block->warps.resize((threads + 31) / 32);
  create_shared(*block);
  std::uint64_t warp_priority = 0;
  for (unsigned t = 0; t < threads; ++t) {
    if (t % 32 == 0) warp_priority = random_bits();
    Fiber* fiber = take_fiber();
    fiber->thread = unravel(t, rt.config.block);
    fiber->block = block->index;
    fiber->block_dim = rt.config.block;
    fiber->grid_dim = rt.config.grid;
    fiber->lane = t % 32;
    fiber->id = rt.next_id++;
    fiber->home = block;
    fiber->warp = &block->warps[t / 32];
    fiber->warp->lanes[fiber->lane] = fiber;
    fiber->warp->live |= 1u << fiber->lane;
    const std::uint64_t group = rt.priority_level == 0   ? block->priority
                                : rt.priority_level == 1 ? warp_priority
                                                         : random_bits();
    // Nearly equal within the group, in random order.
    fiber->priority = ((group >> 1 | 1ull << 40) & ~0xffffull) + random_below(0xffff);
    block->fibers.push_back(fiber);
    ++rt.live_fibers;
  }
  if (race_detector() != nullptr) {
    race_detector()->begin_block(block->fibers.front()->id, threads, linear);
  }
  for (Fiber* fiber : block->fibers) make_ready(fiber);
}

void start_next_block() {
  std::deque<unsigned>& pending = runtime().pending;
  if (pending.empty()) return;
  const bool in_order = options().schedule == Schedule::kFifo;
  const unsigned at = in_order ? 0 : random_below(static_cast<unsigned>(pending.size()));
  const unsigned linear = pending[at];
  pending.erase(pending.begin() + at);
  start_block(linear);
}

void end_block(Block* block) {
  bulk_check_block_end(*block);
  check_red_zones(*block);
  release_shared(*block);
  std::vector<Block*>& blocks = runtime().blocks;
  blocks.erase(std::find(blocks.begin(), blocks.end(), block));
  delete block;
}

// After an error: nothing runs on, nothing is checked, all memory goes back.
[[noreturn]] void give_up() {
  Runtime& rt = runtime();
  for (Block* block : rt.blocks) {
    for (Fiber* fiber : block->fibers) {
      if (belongs_to(*fiber, *block)) give_back_fiber(fiber);
    }
    release_shared(*block);
    delete block;
  }
  rt.blocks.clear();
  throw std::runtime_error(std::exchange(rt.error, {}));
}

void check(const LaunchConfig& config) {
  const unsigned threads = volume(config.block);
  if (threads == 0 || threads > kMaxThreads || volume(config.grid) == 0) {
    fail("launch", Site{}, "%u blocks of %u threads", volume(config.grid), threads);
  }
  if (config.shared_bytes > kMaxSharedBytes) {
    fail("launch", Site{}, "%zu bytes of dynamic shared memory", config.shared_bytes);
  }
}

void reset(const LaunchConfig& config) {
  Runtime& rt = runtime();
  rt.random_state = options().seed * 0x9e3779b97f4a7c15ull + 0x1234567;
  for (int i = 0; i < 8; ++i) random_bits();
  rt.priority_level = random_below(3);
  rt.lowest_priority = 1ull << 39;
  rt.live_fibers = rt.next_id = 0;
  rt.spins_without_progress = 0;
  rt.grid_barrier = Barrier{};
  rt.ready.clear();
  rt.ready_fifo.clear();
  rt.pending.clear();
  bulk_reset();
  for (unsigned linear = 0; linear < volume(config.grid); ++linear) rt.pending.push_back(linear);
}

}  // namespace

void fiber_main() {
  Runtime& rt = runtime();
  rt.body(rt.argument);
  Fiber* self = rt.self;
  async_check_exit(*self);
  Block* block = self->home;
  self->state = State::kDone;
  self->warp->live &= ~(1u << self->lane);
  --block->live;
  --rt.live_fibers;
  note_progress();
  barrier_after_exit(*block);
  collectives_after_exit(*self->warp, self->lane);
  if (block->live == 0) {
    end_block(block);
    start_next_block();
  }
  if (rt.exited != nullptr) give_back_fiber(rt.exited);
  rt.exited = self;
  schedule();
}

void launch_raw(void (*body)(void*), void* argument, const LaunchConfig& config) {
  static std::mutex one_at_a_time;
  const std::lock_guard<std::mutex> lock(one_at_a_time);
  Runtime& rt = runtime();
  rt.config = config;
  rt.body = body;
  rt.argument = argument;
  check(config);
  start_watchdog();
  reset(config);
  const unsigned blocks = volume(config.grid);
  if (race_detector() != nullptr) race_detector()->begin_launch(blocks * volume(config.block));
  const unsigned resident = std::max(1u, options().resident_blocks);
  for (unsigned i = 0; i < (config.cooperative ? blocks : std::min(blocks, resident)); ++i) {
    start_next_block();
  }
  in_kernel = 1;
  rt.host.state = State::kReady;
  schedule();
  in_kernel = 0;
  current = nullptr;
  if (rt.exited != nullptr) give_back_fiber(std::exchange(rt.exited, nullptr));
  if (!rt.error.empty()) give_up();
  rt.config.name = nullptr;
}

}  // namespace via::simt
