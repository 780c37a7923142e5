// SPDX-License-Identifier: Apache-2.0
// Rules of the weight ring and of the barriers.

#include <algorithm>
#include <string>

#include "persistent/validate.h"
#include "persistent/validate_slots.h"

namespace via::persistent {
namespace {

bool same(const Region& a, const Region& b) {
  return a.first_row == b.first_row && a.last_row == b.last_row && a.first == b.first &&
         a.last == b.last;
}

// Rows are padded to whole m16 tiles.
bool fits(const RingSize& ring, const Region& region) {
  const std::int64_t rows = padded_to(region.last_row - region.first_row, 16);
  return rows * (region.last - region.first) <= std::int64_t{ring.sweep_rows} * kChunk;
}

std::string number(std::int64_t value) { return std::to_string(value); }

}  // namespace

std::string check_ring(const Run& run, const Events& events, int block) {
  const int slots = run.ring.slots;
  std::vector<const Event*> items;   // of this pass, filled so far
  std::vector<std::int64_t> groups;  // of each item
  std::int64_t committed = 0, complete = 0, used = 0, freed = 0;
  const auto fail = [&](const Event& event, const std::string& what) {
    return "block " + number(block) + ", phase " + number(event.phase) + ": item " +
           number(event.number) + " " + what;
  };
  for (const Event& event : events) {
    const auto filled = static_cast<std::int64_t>(items.size());
    switch (event.kind) {
      case EventKind::kPrime:
        if (filled != freed) return fail(event, "is left in the ring at the start of a pass");
        items.clear();
        groups.clear();
        used = freed = 0;
        break;
      case EventKind::kEmpty: ++committed; break;
      case EventKind::kFill:
        if (event.number != filled) return fail(event, "is filled out of order");
        if (filled - slots >= freed) return fail(event, "is filled while its slot is in use");
        if (!fits(run.ring, event.region)) return fail(event, "is larger than its slot");
        items.push_back(&event);
        groups.push_back(committed++);
        break;
      case EventKind::kAwait: complete = std::max(complete, committed - event.number); break;
      case EventKind::kFree:
        if (event.number != freed || freed >= used) return fail(event, "is left and not in use");
        ++freed;
        break;
      case EventKind::kUse: {
        if (event.number != used) return fail(event, "is used out of order");
        if (used >= filled) return fail(event, "is used and was never filled");
        const auto item = static_cast<std::size_t>(used);
        if (items[item]->phase != event.phase || !same(items[item]->region, event.region)) {
          return fail(event, "holds weights of phase " + number(items[item]->phase));
        }
        if (groups[item] >= complete) {
          return fail(event, "is used while its copies may be under way");
        }
        ++used;
        break;
      }
      case EventKind::kArrive:
      case EventKind::kWait:
      case EventKind::kRead:
      case EventKind::kWrite: break;
    }
  }
  if (static_cast<std::int64_t>(items.size()) != freed) {
    return "block " + number(block) + ": " +
           number(static_cast<std::int64_t>(items.size()) - freed) + " filled slots are never used";
  }
  return "";
}

std::string check_weights(const Run& run, const std::vector<Events>& blocks) {
  // Blocks in order copy a matrix from its first row to its last, sweep by sweep.
  struct Place {
    std::int64_t row = 0, sweep_end = 0, column = 0;
  };
  std::vector<Place> places(run.program->phases.size());
  for (const Events& events : blocks) {
    for (const Event& event : events) {
      if (event.kind != EventKind::kFill) continue;
      Place& place = places[static_cast<std::size_t>(event.phase)];
      const Region& region = event.region;
      const bool begins = place.column == 0;
      if (region.first_row != place.row || region.first != place.column ||
          (!begins && region.last_row != place.sweep_end)) {
        return "phase " + number(event.phase) + ": weights of row " + number(region.first_row) +
               " are copied twice or in part";
      }
      place.sweep_end = region.last_row;
      place.column = region.last;
      if (region.last == std::int64_t{phase_of(run, event.phase).chunks} * kChunk) {
        place = {region.last_row, 0, 0};
      }
    }
  }
  for (std::size_t i = 0; i < places.size(); ++i) {
    const bool is_whole = places[i].column == 0 && places[i].row == run.program->phases[i].rows;
    const bool is_untouched = places[i].column == 0 && places[i].row == 0;
    if (!is_whole && !is_untouched) {
      return "phase " + std::to_string(i) + ": weights from row " + number(places[i].row) +
             " on are not copied";
    }
  }
  return "";
}

std::string check_barriers(const std::vector<Events>& blocks) {
  std::int64_t most = 0, least = -1;
  std::size_t first_least = 0;
  for (std::size_t block = 0; block < blocks.size(); ++block) {
    std::int64_t arrivals = 0, waits = 0;
    const std::string name = "block " + std::to_string(block);
    for (const Event& event : blocks[block]) {
      if (event.kind == EventKind::kArrive) {
        if (event.number != arrivals + 1 || waits != arrivals) {
          return name + ": arrives at epoch " + number(event.number) + " after " +
                 number(arrivals) + " arrivals and " + number(waits) + " waits";
        }
        ++arrivals;
      } else if (event.kind == EventKind::kWait) {
        if (event.number != waits + 1 || event.number != arrivals) {
          return name + ": waits for epoch " + number(event.number) + " after " + number(arrivals) +
                 " arrivals and " + number(waits) + " waits";
        }
        ++waits;
      }
    }
    if (arrivals != waits) {
      return name + ": arrives " + number(arrivals) + " times and waits " + number(waits);
    }
    most = std::max(most, arrivals);
    if (least < 0 || arrivals < least) {
      least = arrivals;
      first_least = block;
    }
  }
  if (least < most && !blocks.empty()) {
    return "epoch " + number(least + 1) + " is never reached: block " +
           std::to_string(first_least) + " arrives " + number(least) + " times, others " +
           number(most);
  }
  return "";
}

}  // namespace via::persistent
