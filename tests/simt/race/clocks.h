// SPDX-License-Identifier: Apache-2.0
// Happens-before between the threads of a launch: exact vector clocks. They are cheap because the
// threads that leave a barrier share one immutable clock; what a thread learnt from __syncwarp
// since then lies in an array of 32.
#pragma once

#include <cstdint>
#include <memory>
#include <unordered_map>
#include <vector>

#include "race_hooks.h"

namespace via::simt {

using Clock = std::vector<std::uint32_t>;
using SharedClock = std::shared_ptr<const Clock>;

class Clocks {
 public:
  void begin_launch(unsigned threads);
  void begin_block(unsigned first, unsigned threads);

  // The running time of a thread; it moves on whenever others may learn of what was before.
  std::uint32_t now(unsigned thread) const { return threads_[thread].now; }
  // Does `thread` know of what `other` did at its time `time`?
  bool knows(unsigned thread, unsigned other, std::uint32_t time) const;
  unsigned threads() const { return static_cast<unsigned>(threads_.size()); }

  void join(const unsigned* ids, std::size_t count);  // barrier
  void fence(unsigned thread);
  // Atomics, by the rules of C++: release and acquire, and fences around relaxed ones.
  void write(unsigned thread, const void* location, Order order);
  void read(unsigned thread, const void* location, Order order);

  void proxy_fence(unsigned thread);
  // Is there a proxy fence between what `writer` did at `time` and now, by the writer (and `thread`
  // knows of it) or by `thread` itself?
  bool proxy_fenced(unsigned thread, unsigned writer, std::uint32_t time) const;

 private:
  struct Thread {
    SharedClock base;
    SharedClock released_by_fence;  // what relaxed writes after a fence publish
    SharedClock pending;            // what relaxed reads saw; a fence makes it known
    SharedClock last_acquired;      // spares the work of a spin loop that sees the same again
    SharedClock known_at_proxy_fence;
    std::vector<std::uint32_t> proxy_fences;  // own times, ascending
    std::uint32_t now = 1;
    std::uint32_t warp[32] = {};
    bool has_warp = false;
    unsigned first_of_warp = 0;
  };

  Clock snapshot(unsigned thread) const;
  void add_warp(Clock& clock, const Thread& thread) const;
  void acquire(Thread& thread, const SharedClock& clock);
  bool join_within_warp(const unsigned* ids, std::size_t count);

  std::vector<Thread> threads_;
  std::unordered_map<const void*, SharedClock> locations_;
};

}  // namespace via::simt
