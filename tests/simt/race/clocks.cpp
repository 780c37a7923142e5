// SPDX-License-Identifier: Apache-2.0
#include "race/clocks.h"

#include <algorithm>

namespace via::simt {
namespace {

void raise(Clock& clock, const Clock& other) {
  for (std::size_t i = 0; i < clock.size(); ++i) clock[i] = std::max(clock[i], other[i]);
}

SharedClock maximum(const SharedClock& a, const SharedClock& b) {
  if (a == nullptr || b == nullptr) return a == nullptr ? b : a;
  auto both = std::make_shared<Clock>(*a);
  raise(*both, *b);
  return both;
}

}  // namespace

void Clocks::begin_launch(unsigned threads) {
  const auto zero = std::make_shared<const Clock>(threads + 1, 0u);
  threads_.assign(threads + 1, Thread{});
  for (Thread& thread : threads_) thread.base = zero;
  locations_.clear();
}

void Clocks::begin_block(unsigned first, unsigned threads) {
  for (unsigned i = 0; i < threads; ++i) threads_[first + i].first_of_warp = first + (i & ~31u);
}

bool Clocks::knows(unsigned thread, unsigned other, std::uint32_t time) const {
  if (thread == other) return true;
  const Thread& own = threads_[thread];
  if ((*own.base)[other] >= time) return true;
  const unsigned lane = other - own.first_of_warp;  // huge if `other` is below the warp
  return own.has_warp && lane < 32 && own.warp[lane] >= time;
}

void Clocks::add_warp(Clock& clock, const Thread& thread) const {
  if (!thread.has_warp) return;
  const std::size_t lanes = std::min<std::size_t>(32, clock.size() - thread.first_of_warp);
  for (std::size_t lane = 0; lane < lanes; ++lane) {
    std::uint32_t& time = clock[thread.first_of_warp + lane];
    time = std::max(time, thread.warp[lane]);
  }
}

Clock Clocks::snapshot(unsigned thread) const {
  const Thread& own = threads_[thread];
  Clock clock = *own.base;
  add_warp(clock, own);
  clock[thread] = std::max(clock[thread], own.now);
  return clock;
}

// Threads of one warp that left the same block barrier last: only the small arrays change.
bool Clocks::join_within_warp(const unsigned* ids, std::size_t count) {
  const Thread& first = threads_[ids[0]];
  std::uint32_t warp[32] = {};
  for (std::size_t i = 0; i < count; ++i) {
    const Thread& thread = threads_[ids[i]];
    if (thread.first_of_warp != first.first_of_warp || thread.base != first.base) return false;
    if (thread.has_warp) {
      for (int lane = 0; lane < 32; ++lane) warp[lane] = std::max(warp[lane], thread.warp[lane]);
    }
    std::uint32_t& own = warp[ids[i] - thread.first_of_warp];
    own = std::max(own, thread.now);
  }
  for (std::size_t i = 0; i < count; ++i) {
    Thread& thread = threads_[ids[i]];
    std::copy(std::begin(warp), std::end(warp), std::begin(thread.warp));
    thread.has_warp = true;
    ++thread.now;
  }
  return true;
}

void Clocks::join(const unsigned* ids, std::size_t count) {
  if (count == 0 || join_within_warp(ids, count)) return;
  auto joint = std::make_shared<Clock>(*threads_[ids[0]].base);
  std::vector<const Clock*> seen = {threads_[ids[0]].base.get()};
  for (std::size_t i = 0; i < count; ++i) {
    const Thread& thread = threads_[ids[i]];
    if (std::find(seen.rbegin(), seen.rend(), thread.base.get()) == seen.rend()) {
      seen.push_back(thread.base.get());
      raise(*joint, *thread.base);
    }
    add_warp(*joint, thread);
    (*joint)[ids[i]] = std::max((*joint)[ids[i]], thread.now);
  }
  const SharedClock shared = joint;
  for (std::size_t i = 0; i < count; ++i) {
    Thread& thread = threads_[ids[i]];
    thread.base = shared;
    if (thread.has_warp) std::fill(std::begin(thread.warp), std::end(thread.warp), 0u);
    thread.has_warp = false;
    ++thread.now;
  }
}

void Clocks::acquire(Thread& thread, const SharedClock& clock) {
  if (clock == nullptr || clock == thread.last_acquired) return;
  thread.base = maximum(thread.base, clock);
  thread.last_acquired = clock;
}

void Clocks::fence(unsigned id) {
  Thread& thread = threads_[id];
  acquire(thread, thread.pending);
  thread.pending.reset();
  thread.released_by_fence = std::make_shared<const Clock>(snapshot(id));
  ++thread.now;
}

void Clocks::write(unsigned id, const void* location, Order order) {
  Thread& thread = threads_[id];
  SharedClock& published = locations_[location];
  // The old value is read too: a read-modify-write, and its predecessors stay published.
  if ((order & kAcquire) != 0) {
    acquire(thread, published);
  } else if (published != nullptr) {
    thread.pending = maximum(thread.pending, published);
  }
  if ((order & kRelease) != 0) {
    published = maximum(published, std::make_shared<const Clock>(snapshot(id)));
    ++thread.now;
  } else if (thread.released_by_fence != nullptr) {
    published = maximum(published, thread.released_by_fence);
  }
}

void Clocks::read(unsigned id, const void* location, Order order) {
  const auto found = locations_.find(location);
  if (found == locations_.end()) return;
  Thread& thread = threads_[id];
  if ((order & kAcquire) != 0) {
    acquire(thread, found->second);
  } else {
    thread.pending = maximum(thread.pending, found->second);
  }
}

SharedClock Clocks::knowledge(unsigned id) {
  const auto known = std::make_shared<const Clock>(snapshot(id));
  ++threads_[id].now;
  return known;
}

void Clocks::publish_copy(const SharedClock& clock, const void* location) {
  auto known = std::make_shared<Clock>(*clock);
  (*known)[engine()] = threads_[engine()].now++;
  SharedClock& published = locations_[location];
  published = maximum(published, known);
}

void Clocks::proxy_fence(unsigned id) {
  Thread& thread = threads_[id];
  thread.proxy_fences.push_back(thread.now);
  thread.known_at_proxy_fence = std::make_shared<const Clock>(snapshot(id));
  ++thread.now;
}

bool Clocks::proxy_fenced(unsigned id, unsigned writer, std::uint32_t time) const {
  const Thread& own = threads_[id];
  if (own.known_at_proxy_fence != nullptr && (*own.known_at_proxy_fence)[writer] >= time) {
    return true;
  }
  const std::vector<std::uint32_t>& fences = threads_[writer].proxy_fences;
  const auto next = std::lower_bound(fences.begin(), fences.end(), time);
  return next != fences.end() && knows(id, writer, *next);
}

}  // namespace via::simt
