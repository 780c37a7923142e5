// SPDX-License-Identifier: Apache-2.0
// cp.async: the destination holds NaN, and is poisoned, until the issuing thread waits. The data is
// read at issue or at the wait, by chance: both are allowed.

#include <cstring>

#include "runtime/internal.h"

namespace via::simt {
namespace {

// Reads every byte, so that AddressSanitizer checks the range at issue.
void check_readable(const char* begin, unsigned bytes) {
  const volatile char* byte = begin;
  for (unsigned i = 0; i < bytes; ++i) static_cast<void>(byte[i]);
}

RaceDetector::Copy as_race_copy(const AsyncCopy& copy) {
  return {copy.shared, copy.bytes, copy.global, copy.source_bytes, false, copy.site};
}

void complete(Fiber& self, const AsyncCopy& copy) {
  poison(copy.shared, copy.bytes, false);
  std::memcpy(copy.shared, copy.read_at_issue ? copy.snapshot : copy.global, copy.source_bytes);
  std::memset(copy.shared + copy.source_bytes, 0, copy.bytes - copy.source_bytes);
  if (race_detector() != nullptr) race_detector()->copy_end(self.id, as_race_copy(copy));
}

}  // namespace

void async_copy(void* shared, const void* global, unsigned bytes, unsigned source_bytes,
                Site site) {
  Fiber& self = *runtime().self;
  ++stats.async_copies;
  self.site = site;
  const auto low_bits = reinterpret_cast<std::uintptr_t>(shared) |
                        (source_bytes != 0 ? reinterpret_cast<std::uintptr_t>(global) : 0);
  if (low_bits % bytes != 0) {
    fail("misaligned", site, "cp.async of %u bytes from %p to %p", bytes, global, shared);
  }
  AsyncCopy copy{static_cast<char*>(shared),
                 static_cast<const char*>(global),
                 bytes,
                 source_bytes,
                 random_below(2) == 0,
                 {},
                 site};
  check_readable(copy.global, source_bytes);
  check_readable(copy.shared, bytes);
  if (copy.read_at_issue) std::memcpy(copy.snapshot, copy.global, source_bytes);
  if (race_detector() != nullptr) race_detector()->copy_begin(self.id, as_race_copy(copy));
  std::memset(copy.shared, 0xff, bytes);
  poison(copy.shared, bytes, true);
  self.open_copies.push_back(copy);
}

void async_commit() {
  Fiber& self = *runtime().self;
  self.copy_groups.emplace_back();
  self.copy_groups.back().swap(self.open_copies);
}

void async_wait(unsigned groups_left) {
  Fiber& self = *runtime().self;
  while (self.copy_groups.size() > groups_left) {
    for (const AsyncCopy& copy : self.copy_groups.front()) complete(self, copy);
    self.copy_groups.pop_front();
  }
  preemption_point(2);
}

void async_check_exit(Fiber& fiber) {
  if (!fiber.open_copies.empty()) {
    fail("cp.async", fiber.open_copies.front().site, "the thread ends with uncommitted copies");
  }
  for (const auto& group : fiber.copy_groups) {
    if (!group.empty()) {
      fail("cp.async", group.front().site, "the thread ends with a group that it never waited for");
    }
  }
}

}  // namespace via::simt
