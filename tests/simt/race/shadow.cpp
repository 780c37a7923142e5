// SPDX-License-Identifier: Apache-2.0
#include "race/shadow.h"

#include <sys/mman.h>

#include <algorithm>

namespace via::simt {
namespace {

// Between allocations, never allocated: what is just past an end is out of bounds.
constexpr std::size_t kGapBytes = 256;
constexpr std::size_t kAlignment = 1024;
constexpr std::size_t kFewReaders = 12;

void* reserve(std::size_t bytes) {
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) fail("memory", Site{}, "no address space for the race detector");
  return memory;
}

}  // namespace

void Shadow::create() {
  arena_ = static_cast<char*>(reserve(kArenaBytes));
  cells_ = static_cast<Cell*>(reserve(kArenaBytes * sizeof(Cell)));
}

void* Shadow::allocate(std::size_t bytes) {
  if (arena_ == nullptr) create();
  char* pointer = nullptr;
  const auto reusable = free_.find(bytes);
  if (reusable != free_.end()) {
    pointer = reusable->second;
    free_.erase(reusable);
  } else {
    top_ = (top_ + kAlignment - 1) & ~(kAlignment - 1);
    pointer = arena_ + top_;
    top_ += bytes + kGapBytes;
    if (top_ > kArenaBytes) fail("memory", Site{}, "the arena of the race detector is full");
  }
  sizes_[pointer] = bytes;
  Cell* cell = cells_ + (pointer - arena_);
  for (std::size_t i = 0; i < bytes; ++i) {
    cell[i] = Cell{};
    cell[i].allocated = 1;
  }
  return pointer;
}

void Shadow::release(void* pointer) {
  const std::size_t bytes = sizes_[pointer];
  sizes_.erase(pointer);
  Cell* cell = cells_ + (static_cast<char*>(pointer) - arena_);
  for (std::size_t i = 0; i < bytes; ++i) cell[i].allocated = 0;
  free_.emplace(bytes, static_cast<char*>(pointer));
}

void Shadow::set_allocated(const void* pointer, std::size_t bytes, bool on) {
  Cell* cell = cells_ + (static_cast<const char*>(pointer) - arena_);
  for (std::size_t i = 0; i < bytes; ++i) cell[i].allocated = on ? 1 : 0;
}

void Shadow::begin_launch() {
  ++launch_;
  readers_.clear();
  readers_.emplace_back();  // index 0 means none
}

// The cell, emptied if its contents are of an earlier launch: launches are in order.
Shadow::Cell& Shadow::fresh_cell(const char* byte, const Access&) {
  Cell& cell = cells_[byte - arena_];
  if (cell.launch != launch_) {
    const std::uint8_t allocated = cell.allocated;
    cell = Cell{};
    cell.allocated = allocated;
    cell.launch = launch_;
  }
  return cell;
}

void Shadow::check_readers(Cell& cell, const char* byte, const Access& access) {
  const auto check = [&](unsigned reader, std::uint32_t time, Place place, std::uint8_t flags) {
    if (!clocks_.knows(access.thread, reader, time)) {
      report_race("write after unordered read", byte, access, {reader, place, false, flags});
    }
  };
  if (cell.readers != 0) {
    Readers& all = readers_[cell.readers];
    for (const Reader& reader : all.few) check(reader.thread, reader.time, reader.place, kPlain);
    for (unsigned thread = 0; thread < all.dense.size(); ++thread) {
      if (all.dense[thread] != 0) check(thread, all.dense[thread], all.last_place, kPlain);
    }
    all = Readers{};
  } else if (cell.read_time != 0 && !(access.flags & cell.read_flags & kAtomic)) {
    check(cell.read_thread, cell.read_time, cell.read_place, cell.read_flags);
  }
  cell.read_time = 0;
  cell.readers = 0;
}

void Shadow::record_read(Cell& cell, const Access& access) {
  const std::uint32_t now = clocks_.now(access.thread);
  if (cell.readers != 0) {
    Readers& all = readers_[cell.readers];
    all.last_place = access.place;
    if (!all.dense.empty()) {
      all.dense[access.thread] = now;
      return;
    }
    for (Reader& reader : all.few) {
      if (reader.thread != access.thread) continue;
      reader.time = now;
      reader.place = access.place;
      return;
    }
    all.few.push_back({access.thread, now, access.place});
    if (all.few.size() > kFewReaders) {
      all.dense.assign(clocks_.threads(), 0);
      for (const Reader& reader : all.few) all.dense[reader.thread] = reader.time;
      all.few.clear();
    }
    return;
  }
  const bool replaces = cell.read_time == 0 || cell.read_thread == access.thread ||
                        clocks_.knows(access.thread, cell.read_thread, cell.read_time);
  if (!replaces && (access.flags & kAtomic)) return;  // of atomic loads one is kept
  if (replaces) {
    cell.read_time = now;
    cell.read_thread = static_cast<std::uint16_t>(access.thread);
    cell.read_place = access.place;
    cell.read_flags = access.flags;
  } else {
    cell.readers = static_cast<std::uint32_t>(readers_.size());
    readers_.emplace_back();
    readers_.back().few = {{cell.read_thread, cell.read_time, cell.read_place},
                           {access.thread, now, access.place}};
  }
}

// Most accesses repeat the last one to the cell, or were checked with the byte before.
bool Shadow::same_as_before(const Cell& cell, const Access& access) const {
  return !access.write && access.flags == kPlain && cell.read_flags == kPlain &&
         cell.readers == 0 && cell.read_thread == access.thread && cell.in_flight == 0 &&
         cell.read_time == clocks_.now(access.thread);
}

void Shadow::touch(const void* pointer, std::size_t bytes, const Access& access) {
  const char* begin = static_cast<const char*>(pointer);
  for (const char* byte = begin; byte != begin + bytes; ++byte) {
    Cell& cell = fresh_cell(byte, access);
    if (cell.allocated == 0) report_out_of_bounds(pointer, bytes, access);
    if (same_as_before(cell, access)) continue;
    const Access writer = {cell.write_thread, cell.write_place, true, cell.write_flags};
    if (cell.in_flight != 0) {
      report_race("access to memory that an asynchronous copy is writing", byte, access, writer);
    }
    const bool both_atomic = (access.flags & cell.write_flags & kAtomic) != 0;
    if (cell.write_time != 0 && !both_atomic &&
        !clocks_.knows(access.thread, cell.write_thread, cell.write_time)) {
      report_race(access.write ? "two unordered writes" : "read after unordered write", byte,
                  access, writer);
    }
    if (access.write) {
      check_readers(cell, byte, access);
      cell.write_time = clocks_.now(access.thread);
      cell.write_thread = static_cast<std::uint16_t>(access.thread);
      cell.write_place = access.place;
      cell.write_flags = access.flags;
    } else {
      record_read(cell, access);
    }
  }
}

void Shadow::set_in_flight(const void* pointer, std::size_t bytes, bool on) {
  Cell* cell = cells_ + (static_cast<const char*>(pointer) - arena_);
  for (std::size_t i = 0; i < bytes; ++i) cell[i].in_flight = on ? 1 : 0;
}

void Shadow::finish_bulk(const void* pointer, std::size_t bytes, const Access& access) {
  Cell* cell = cells_ + (static_cast<const char*>(pointer) - arena_);
  for (std::size_t i = 0; i < bytes; ++i) {
    cell[i].in_flight = 0;
    cell[i].read_time = 0;
    cell[i].readers = 0;
    cell[i].write_time = clocks_.now(access.thread);
    cell[i].write_thread = static_cast<std::uint16_t>(access.thread);
    cell[i].write_place = access.place;
    cell[i].write_flags = access.flags;
  }
}

void Shadow::check_proxy(const void* pointer, std::size_t bytes, const Access& access) {
  const char* begin = static_cast<const char*>(pointer);
  for (const char* byte = begin; byte != begin + bytes; ++byte) {
    const Cell& cell = fresh_cell(byte, access);
    if (cell.write_time == 0 || (cell.write_flags & kBulk) != 0) continue;
    if (!clocks_.proxy_fenced(access.thread, cell.write_thread, cell.write_time)) {
      report_race("no fence_proxy_async between an ordinary write and a bulk copy", byte, access,
                  {cell.write_thread, cell.write_place, true, cell.write_flags});
    }
  }
}

}  // namespace via::simt
