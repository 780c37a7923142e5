// SPDX-License-Identifier: Apache-2.0
// What the validator knows about every piece of the memory that blocks share. Host code only.
#pragma once

#include <vector>

#include "persistent/validate.h"

namespace via::persistent {

// An access: of which block, and at how many epochs it had arrived.
struct Access {
  std::int32_t block = -1;
  std::int32_t arrivals = -1;
};

struct Cell {
  std::int64_t tag = -1;
  Access writer;
  Access readers[2];  // since it was written: the last ones of two blocks
};

struct Table {
  std::int64_t columns = 0;
  std::int64_t cell = kRowUnit;  // columns
  std::int64_t zero_from = 0;    // columns behind are zero from the start
  std::int64_t row_cells = 0;
  int rows = 1;
  bool is_private = false;   // of each block
  bool is_consumed = false;  // what is written must be read
  std::vector<Cell> cells;
  std::int32_t last_write = -1;  // arrivals of the latest writer
  Event seen{};                  // a read that two blocks have made, nothing being written since
  int times_seen = 0;
  std::int32_t seen_waits = 0;
};

Table table_of(const Run& run, Memory memory);

}  // namespace via::persistent
