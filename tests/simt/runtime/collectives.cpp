// SPDX-License-Identifier: Apache-2.0
// Warp collectives. Lanes meet by operation and mask; nothing is lock-step in between, so code that
// relies on lanes moving together fails here as it may on a GPU since sm_70.

#include "runtime/internal.h"

namespace via::simt {
namespace {

template <typename Visit>
void for_each_lane(unsigned mask, Visit visit) {
  for (; mask != 0; mask &= mask - 1) visit(static_cast<unsigned>(__builtin_ctz(mask)));
}

// Runs the collective that `caller` waits in, once all its lanes that still exist are there.
bool try_complete(Warp& warp, const Fiber& caller) {
  const CollectiveCall call = caller.call;
  const unsigned needed = call.mask & warp.live;
  if (needed == 0 || (warp.waiting & needed) != needed) return false;
  bool agreed = true;
  void* arguments[32] = {};
  unsigned ids[32], count = 0;
  for_each_lane(needed, [&](unsigned lane) {
    const Fiber& fiber = *warp.lanes[lane];
    agreed &= fiber.call.operation == call.operation && fiber.call.mask == call.mask;
    arguments[lane] = fiber.call.argument;
    ids[count++] = fiber.id;
  });
  if (!agreed) return false;
  if (call.operation != nullptr) {
    call.operation(call.mask, arguments);
  } else if (race_detector() != nullptr) {
    // Only __syncwarp orders memory; shuffles and votes promise nothing about it.
    race_detector()->join(ids, count);
  }
  ++stats.collectives;
  note_progress();
  warp.waiting &= ~needed;
  for_each_lane(needed, [&](unsigned lane) {
    Fiber* fiber = warp.lanes[lane];
    if (fiber == runtime().self) {
      fiber->state = State::kReady;
    } else {
      make_ready(fiber);
    }
  });
  return true;
}

void check_agreement(const Warp& warp, const Fiber& self, Site site) {
  const CollectiveCall& call = self.call;
  if (!(call.mask >> self.lane & 1u)) {
    fail("warp collective", site, "%s: calling lane %u is not in mask 0x%08x", call.name, self.lane,
         call.mask);
  }
  if (call.aligned && warp.live != ~0u) {
    fail("warp collective", site, "%s needs all 32 lanes, 0x%08x are left", call.name, warp.live);
  }
  for_each_lane(call.mask & warp.waiting, [&](unsigned lane) {
    const Fiber& other = *warp.lanes[lane];
    if (!(other.call.mask >> self.lane & 1u)) return;  // it does not wait for this lane
    if (other.call.operation != call.operation || other.call.mask != call.mask) {
      fail("warp divergence", site,
           "lane %u calls %s(mask 0x%08x), but lane %u waits in %s(mask 0x%08x) at %s:%d",
           self.lane, call.name, call.mask, lane, other.call.name, other.call.mask, other.site.file,
           other.site.line);
    }
    if (call.aligned && other.site.line != site.line) {
      fail("warp divergence", site, "%s from two places, the other is %s:%d", call.name,
           other.site.file, other.site.line);
    }
  });
}

}  // namespace

void collective(const CollectiveCall& call, Site site) {
  Fiber& self = *runtime().self;
  Warp& warp = *self.warp;
  self.call = call;
  self.site = site;
  self.waits_in = call.name;
  check_agreement(warp, self, site);
  warp.waiting |= 1u << self.lane;
  if (try_complete(warp, self)) return;
  self.state = State::kCollective;
  schedule();
}

void sync_warp(unsigned mask, Site site) {
  collective({nullptr, mask, nullptr, false, "__syncwarp"}, site);
}

void collectives_after_exit(Warp& warp, unsigned lane) {
  for (unsigned other = 0; other < 32; ++other) {
    if (!(warp.waiting >> other & 1u)) continue;
    const Fiber& fiber = *warp.lanes[other];
    if (fiber.call.mask >> lane & 1u) try_complete(warp, fiber);
  }
}

}  // namespace via::simt
