// SPDX-License-Identifier: Apache-2.0
// The arena that holds device and shared memory in the race build, and what happened to every byte
// of it: last write, last read (or the set of concurrent reads), asynchronous copies under way.
#pragma once

#include <cstdint>
#include <map>
#include <unordered_map>
#include <vector>

#include "race/clocks.h"

namespace via::simt {

// Program counter of an access, or (top bit set) an index into the sites of primitives.
using Place = std::uint32_t;

enum AccessFlags : std::uint8_t { kPlain = 0, kAtomic = 1, kAsync = 2, kBulk = 4 };

struct Access {
  unsigned thread;
  Place place;
  bool write;
  std::uint8_t flags;
};

class Shadow {
 public:
  explicit Shadow(Clocks& clocks) : clocks_(clocks) {}

  void* allocate(std::size_t bytes);
  void release(void* pointer);
  void begin_launch();
  bool holds(const void* pointer) const {
    return arena_ != nullptr &&
           static_cast<std::size_t>(static_cast<const char*>(pointer) - arena_) < kArenaBytes;
  }

  // Checks the access against everything before it, then records it.
  void touch(const void* pointer, std::size_t bytes, const Access& access);
  void set_in_flight(const void* pointer, std::size_t bytes, bool on);
  // Bulk copies: ordinary writes before must have passed a proxy fence.
  void check_proxy(const void* pointer, std::size_t bytes, const Access& access);

 private:
  static constexpr std::size_t kArenaBytes = std::size_t{2} << 30;

  struct Cell {  // of one byte
    std::uint32_t write_time, write_place, read_time, read_place, readers;
    std::uint16_t write_thread, read_thread, launch;
    std::uint8_t write_flags, read_flags, allocated, in_flight;
  };
  static_assert(sizeof(Cell) == 32);

  struct Reader {
    unsigned thread;
    std::uint32_t time;
    Place place;
  };
  // Many readers: a time per thread, and the place of the last.
  struct Readers {
    std::vector<Reader> few;
    Clock dense;
    Place last_place = 0;
  };

  void create();
  Cell& fresh_cell(const char* byte, const Access& access);
  void check_readers(Cell& cell, const char* byte, const Access& access);
  void record_read(Cell& cell, const Access& access);
  bool same_as_before(const Cell& cell, const Access& access) const;

  Clocks& clocks_;
  char* arena_ = nullptr;
  Cell* cells_ = nullptr;
  std::size_t top_ = 4096;
  std::uint16_t launch_ = 1;
  std::vector<Readers> readers_;
  std::unordered_map<void*, std::size_t> sizes_;
  std::multimap<std::size_t, char*> free_;
};

// report.cpp: prints both accesses and ends the launch.
Place place_of(Site site);
[[noreturn]] void report_race(const char* kind, const void* pointer, const Access& access,
                              const Access& earlier);
[[noreturn]] void report_out_of_bounds(const void* pointer, std::size_t bytes,
                                       const Access& access);
void note_block(unsigned first_thread, unsigned linear_index);
void forget_blocks();

}  // namespace via::simt
