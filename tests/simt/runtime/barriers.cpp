// SPDX-License-Identifier: Apache-2.0
// Block barriers (with and without a vote), named barriers, the cooperative grid barrier.

#include <cstring>

#include "runtime/internal.h"

namespace via::simt {
namespace {

void complete(Barrier& barrier) {
  Runtime& rt = runtime();
  std::vector<Fiber*> threads;
  threads.swap(barrier.waiting);
  ++stats.barriers;
  note_progress();
  if (barrier.vote != Vote::kNone) {
    int votes = 0;
    const int all = static_cast<int>(threads.size());
    for (const Fiber* fiber : threads) votes += fiber->predicate != 0;
    for (Fiber* fiber : threads) {
      fiber->vote_result = barrier.vote == Vote::kCount ? votes
                           : barrier.vote == Vote::kAnd ? votes == all
                                                        : votes > 0;
    }
  }
  if (race_detector() != nullptr) {
    std::vector<unsigned> ids;
    for (const Fiber* fiber : threads) ids.push_back(fiber->id);
    race_detector()->join(ids.data(), ids.size());
  }
  for (Fiber* fiber : threads) {
    if (fiber != rt.self) make_ready(fiber);
  }
}

bool same_site(Site a, Site b) { return a.line == b.line && std::strcmp(a.file, b.file) == 0; }

// The first thread that waits stands for the others: they passed the same checks.
void check_agreement(const Barrier& barrier, const Fiber& self, int id, int expected, Vote vote,
                     bool named) {
  if (barrier.waiting.empty()) return;
  const Fiber& other = *barrier.waiting.front();
  if (!same_site(other.site, self.site) && (id == 0 || other.warp == self.warp)) {
    fail("divergent barrier", self.site, "%s here, but thread %u waits at %s:%d", self.waits_in,
         other.thread.x, other.site.file, other.site.line);
  }
  if ((named && barrier.expected != expected) || barrier.vote != vote) {
    fail("bad barrier", self.site, "barrier %d used with %d and with %d threads, or with two votes",
         id, barrier.expected, expected);
  }
}

}  // namespace

int barrier(int id, int threads, Vote vote, int predicate, Site site) {
  Fiber& self = *runtime().self;
  const bool named = threads >= 0;
  self.site = site;
  self.waits_in = named ? "bar.sync" : "__syncthreads";
  self.predicate = predicate;
  if (id < 0 || id > 15) fail("bad barrier", site, "barrier %d does not exist", id);
  if (named && (threads % 32 != 0 || threads == 0)) {
    fail("bad barrier", site, "%d threads are not a multiple of 32", threads);
  }
  Barrier& barrier = self.home->barriers[id];
  const int expected = named ? threads : static_cast<int>(self.home->live);
  check_agreement(barrier, self, id, expected, vote, named);
  barrier.vote = vote;
  barrier.expected = expected;
  barrier.waiting.push_back(&self);
  if (static_cast<int>(barrier.waiting.size()) == expected) {
    complete(barrier);
    preemption_point(2);
  } else {
    self.state = State::kBarrier;
    schedule();
  }
  return self.vote_result;
}

void barrier_after_exit(Block& block) {
  Barrier& barrier = block.barriers[0];
  if (!barrier.waiting.empty() && barrier.waiting.size() == block.live) complete(barrier);
}

void sync_grid(Site site) {
  Runtime& rt = runtime();
  if (!rt.config.cooperative) fail("grid.sync", site, "the launch was not cooperative");
  rt.self->site = site;
  rt.self->waits_in = "grid.sync";
  rt.grid_barrier.waiting.push_back(rt.self);
  if (rt.grid_barrier.waiting.size() == rt.live_fibers) {
    complete(rt.grid_barrier);
    preemption_point(2);
  } else {
    rt.self->state = State::kGrid;
    schedule();
  }
}

void fence(Scope) {
  if (race_detector() != nullptr) race_detector()->fence(runtime().self->id);
  preemption_point(8);
}

void atomic_before(void* pointer, unsigned bytes, Order order, bool write, Site site) {
  runtime().self->site = site;
  preemption_point(4);
  if (write) note_progress();
  if (race_detector() != nullptr) {
    race_detector()->atomic_before(runtime().self->id, pointer, bytes, order, write, site);
  }
}

void atomic_after(void* pointer, unsigned, Order order, bool write) {
  if (race_detector() != nullptr) {
    race_detector()->atomic_after(runtime().self->id, pointer, order, write);
  }
}

}  // namespace via::simt
