// SPDX-License-Identifier: Apache-2.0
// Which fiber runs next: the four orders, spin loops, and random changes of thread.

#include <algorithm>

#include "runtime/internal.h"

namespace via::simt {
namespace {

// Above every demoted priority.
constexpr std::uint64_t kNormalPriority = 1ull << 40;
constexpr std::uint64_t kTimePerSpinNs = 20;

bool lower_priority(const Fiber* a, const Fiber* b) { return a->priority < b->priority; }

Fiber* pick() {
  Runtime& rt = runtime();
  if (options().schedule == Schedule::kFifo) {
    if (rt.ready_fifo.empty()) return nullptr;
    Fiber* first = rt.ready_fifo.front();
    rt.ready_fifo.pop_front();
    return first;
  }
  if (rt.ready.empty()) return nullptr;
  if (options().schedule == Schedule::kPct) {
    std::pop_heap(rt.ready.begin(), rt.ready.end(), lower_priority);
  } else if (options().schedule == Schedule::kRandom) {
    std::swap(rt.ready[random_below(static_cast<unsigned>(rt.ready.size()))], rt.ready.back());
  }
  Fiber* picked = rt.ready.back();
  rt.ready.pop_back();
  return picked;
}

}  // namespace

// xorshift64*
std::uint64_t random_bits() {
  std::uint64_t& state = runtime().random_state;
  state ^= state << 13;
  state ^= state >> 7;
  state ^= state << 17;
  return state * 2685821657736338717ull;
}

unsigned random_below(unsigned bound) {
  return static_cast<unsigned>((random_bits() >> 33) % bound);
}

void make_ready(Fiber* fiber) {
  Runtime& rt = runtime();
  fiber->state = State::kReady;
  if (options().schedule == Schedule::kFifo) {
    rt.ready_fifo.push_back(fiber);
    return;
  }
  rt.ready.push_back(fiber);
  if (options().schedule == Schedule::kPct) {
    std::push_heap(rt.ready.begin(), rt.ready.end(), lower_priority);
  }
}

void schedule() {
  Runtime& rt = runtime();
  Fiber* self = rt.self;
  Fiber* next = pick();
  if (next == nullptr) {
    if (rt.live_fibers != 0) {
      fail("deadlock", self->site, "all remaining threads wait:\n%s", waiting_threads().c_str());
    }
    next = &rt.host;
  }
  if (next != self) switch_to(next, self->state == State::kDone);
}

void preemption_point(unsigned one_in) {
  Runtime& rt = runtime();
  const Schedule order = options().schedule;
  if (rt.self == &rt.host || order == Schedule::kFifo || order == Schedule::kLifo) return;
  if (random_below(one_in) != 0) return;
  if (order == Schedule::kPct) {
    rt.self->priority =
        random_below(4) != 0 ? random_bits() >> 1 | kNormalPriority : --rt.lowest_priority;
  }
  make_ready(rt.self);
  schedule();
}

void yield_spin(Site site) {
  Runtime& rt = runtime();
  rt.self->site = site;
  rt.self->waits_in = "spin loop";
  rt.clock_ns += kTimePerSpinNs;
  if (++rt.spins_without_progress > options().spin_limit) {
    fail("livelock", site, "spin loops make no progress:\n%s", waiting_threads().c_str());
  }
  if (options().schedule == Schedule::kPct) rt.self->priority = --rt.lowest_priority;
  if (options().schedule == Schedule::kLifo) {
    // The last to run again, or it would keep the others from what it waits for.
    rt.self->state = State::kReady;
    rt.ready.insert(rt.ready.begin(), rt.self);
  } else {
    make_ready(rt.self);
  }
  schedule();
}

std::uint64_t timer_ns() { return ++runtime().clock_ns; }

void preempt_at_access() {
  // About one access in 48: enough to reach odd orders, cheap enough for every test.
  if (options().preempt) preemption_point(48);
}

unsigned running_thread() {
  const Runtime& rt = runtime();
  return rt.self == &rt.host ? kNoThread : rt.self->id;
}

}  // namespace via::simt
