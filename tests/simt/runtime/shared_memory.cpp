// SPDX-License-Identifier: Apache-2.0
// Device memory and shared memory. Red zones: poisoned for AddressSanitizer, filled with a pattern
// that is checked when the block ends, and not allocated as far as the race build knows.

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "runtime/internal.h"

namespace via::simt {
namespace {

constexpr std::size_t kDynamicAlignment = 1024;
// Room for the red zones that carve adds to what the launch asked for.
constexpr std::size_t kMaxCarves = 64;
constexpr std::size_t kSlack = 2 * kMaxCarves * kCarveGap;
constexpr unsigned char kPattern = 0xa5;
// Behind a static array, in builds that do not see an overflow themselves.
constexpr std::size_t kStaticGap = 64;

void* allocate(std::size_t bytes, std::size_t alignment) {
  if (race_detector() != nullptr) return race_detector()->allocate(bytes);
  void* pointer = nullptr;
  if (posix_memalign(&pointer, alignment, std::max<std::size_t>(bytes, 1)) != 0) {
    fail("memory", Site{}, "no memory for %zu bytes", bytes);
  }
  return pointer;
}

void release(void* pointer) {
  if (race_detector() != nullptr) {
    race_detector()->release(pointer);
  } else {
    std::free(pointer);
  }
}

std::size_t static_gap() { return VIA_SIMT_ASAN || race_detector() != nullptr ? 0 : kStaticGap; }

// Takes memory out of use, or back into use, for the builds that see an access at once.
void set_red_zone(const void* pointer, std::size_t bytes, bool on) {
  poison(pointer, bytes, on);
  if (race_detector() != nullptr) race_detector()->set_allocated(pointer, bytes, !on);
}

std::size_t overwritten_at(const unsigned char* begin, std::size_t bytes) {
  return static_cast<std::size_t>(
      std::find_if(begin, begin + bytes, [](unsigned char c) { return c != kPattern; }) - begin);
}

void check_gap(const Block& block, const Gap& gap) {
  poison(gap.begin, gap.bytes, false);
  const std::size_t at = overwritten_at(gap.begin, gap.bytes);
  if (at < gap.bytes) {
    fail("shared memory overflow", Site{},
         "red zone behind dynamic offset %td overwritten at +%zu, block %u",
         gap.begin - block.dynamic, at, block.index.x);
  }
}

}  // namespace

void poison([[maybe_unused]] const void* pointer, [[maybe_unused]] std::size_t bytes,
            [[maybe_unused]] bool on) {
#if VIA_SIMT_ASAN
  if (on) {
    ASAN_POISON_MEMORY_REGION(pointer, bytes);
  } else {
    ASAN_UNPOISON_MEMORY_REGION(pointer, bytes);
  }
#endif
}

void* device_alloc(std::size_t bytes) {
  void* pointer = allocate(bytes, 256);
  std::memset(pointer, 0xff, bytes);
  return pointer;
}

void device_free(void* pointer) {
  if (pointer != nullptr) release(pointer);
}

std::size_t dynamic_room() { return runtime().config.shared_bytes + kSlack; }

void create_shared(Block& block) {
  if (runtime().config.shared_bytes == 0) return;
  const std::size_t asked = runtime().config.shared_bytes;
  block.dynamic = static_cast<unsigned char*>(allocate(dynamic_room(), kDynamicAlignment));
  std::memset(block.dynamic, 0xff, asked);
  std::memset(block.dynamic + asked, kPattern, kSlack);
  set_red_zone(block.dynamic + asked, kSlack, true);
}

void* dynamic_shared() { return runtime().self->home->dynamic; }

void* static_shared(const void* key, std::size_t bytes) {
  StaticArray& array = runtime().self->home->statics[key];
  if (array.begin == nullptr) {
    array = {static_cast<unsigned char*>(allocate(bytes + static_gap(), 128)), bytes};
    std::memset(array.begin, 0xff, bytes);
    std::memset(array.begin + bytes, kPattern, static_gap());
  }
  return array.begin;
}

void shared_part(void* pointer, std::size_t bytes, std::size_t gap_bytes) {
  Block& block = *runtime().self->home;
  std::vector<Gap>& gaps = block.gaps;
  auto* part = static_cast<unsigned char*>(pointer);
  unsigned char* end = part + bytes;
  for (const Gap& gap : gaps) {
    if (gap.part == part && gap.begin == end) return;  // another thread carved the same
  }
  while (!gaps.empty() && gaps.back().part >= part) {
    check_gap(block, gaps.back());
    set_red_zone(gaps.back().begin, gaps.back().bytes, false);
    gaps.pop_back();
  }
  // What the launch must have given: without the red zones, which only exist here.
  const std::size_t needed =
      static_cast<std::size_t>(end - block.dynamic) - gaps.size() * kCarveGap;
  if (block.dynamic == nullptr || needed > runtime().config.shared_bytes) {
    fail("dynamic shared memory too small", Site{}, "carving needs %zu bytes, the launch gave %zu",
         needed, runtime().config.shared_bytes);
  }
  if (gaps.size() >= kMaxCarves) fail("carve", Site{}, "more than %zu parts", kMaxCarves);
  set_red_zone(part, bytes + gap_bytes, false);
  std::memset(part, 0xff, bytes);
  std::memset(end, kPattern, gap_bytes);
  set_red_zone(end, gap_bytes, true);
  gaps.push_back({part, end, gap_bytes});
}

void check_red_zones(const Block& block) {
  for (const Gap& gap : block.gaps) check_gap(block, gap);
  for (const auto& [key, array] : block.statics) {
    const std::size_t at = overwritten_at(array.begin + array.bytes, static_gap());
    if (at < static_gap()) {
      fail("shared memory overflow", Site{}, "behind a static array of %zu bytes, +%zu, block %u",
           array.bytes, at, block.index.x);
    }
  }
  if (block.dynamic != nullptr && block.gaps.empty()) {
    const unsigned char* end = block.dynamic + runtime().config.shared_bytes;
    poison(end, kSlack, false);
    if (overwritten_at(end, kSlack) < kSlack) {
      fail("shared memory overflow", Site{}, "behind dynamic shared memory, block %u",
           block.index.x);
    }
  }
}

void release_shared(Block& block) {
  if (block.dynamic != nullptr) {
    poison(block.dynamic, dynamic_room(), false);
    release(block.dynamic);
  }
  for (const auto& [key, array] : block.statics) release(array.begin);
}

}  // namespace via::simt
