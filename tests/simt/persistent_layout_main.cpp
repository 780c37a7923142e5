// SPDX-License-Identifier: Apache-2.0
// Properties of csrc/persistent/layout.h over many sizes: shares, packed weights, gate and up rows,
// sweeps. Integer arithmetic, no kernel. Host compilers only.

#include <algorithm>
#include <cstdint>
#include <vector>

#include "gpu_or_simt.h"
#include "persistent_program_mutants.h"

namespace via::persistent {
namespace {

using testing::Checker;

void check_shares(Random& random, Checker& checker) {
  for (int i = 0; i < 2000; ++i) {
    const int count = random.between(0, 3000), parts = random.between(1, 200);
    int next = 0, least = count, most = 0;
    for (int part = 0; part < parts; ++part) {
      const Share share = share_of(count, parts, part);
      checker.expect(share.first == next && share.last >= share.first, "share %d of %d in %d", part,
                     count, parts);
      next = share.last;
      least = std::min(least, share.last - share.first);
      most = std::max(most, share.last - share.first);
    }
    checker.expect(next == count, "%d in %d shares end at %d", count, parts, next);
    checker.expect(most - least <= 1, "%d in %d shares: %d and %d", count, parts, least, most);
  }
}

void check_packing(Random& random, Checker& checker) {
  for (int i = 0; i < 40; ++i) {
    const int rows = kRowUnit * random.between(1, 40), columns = kChunk * random.between(1, 6);
    std::vector<char> is_taken(static_cast<std::size_t>(rows) * columns, 0);
    for (int row = 0; row < rows; ++row) {
      for (int column = 0; column < columns; ++column) {
        const std::int64_t index = packed_index(row, column, rows);
        const bool is_inside = index >= 0 && index < std::int64_t{rows} * columns;
        checker.expect(is_inside && is_taken[static_cast<std::size_t>(index)]++ == 0,
                       "element %d, %d of %d rows", row, column, rows);
        const std::int64_t piece = packed_index(row, column / kPiece * kPiece, rows);
        checker.expect(piece % kPiece == 0 && index == piece + column % kPiece,
                       "piece of element %d, %d is apart", row, column);
      }
    }
    // Eight rows of one piece: one 16-byte bank group each. Rows of a unit: contiguous per chunk.
    const int unit = random.between(0, rows / kRowUnit - 1) * kRowUnit;
    for (int column = 0; column < columns; column += kPiece) {
      unsigned groups = 0;
      for (int row = unit; row < unit + kRowUnit; ++row) {
        const std::int64_t index = packed_index(row, column, rows);
        groups |= 1u << (index % kChunk / kPiece);
        checker.expect(index / kChunk == column / kChunk * rows + row, "row %d is elsewhere", row);
      }
      checker.expect(groups == 0xffu, "rows of unit %d meet in a bank", unit);
    }
  }
}

void check_gate_rows(Checker& checker) {
  for (int size = 1; size < 200; ++size) {
    const int rows = 2 * padded_to(size, kRowUnit);
    std::vector<int> features(static_cast<std::size_t>(rows), -1);
    for (int feature = 0; feature < size; ++feature) {
      const std::int64_t row = gate_row(feature);
      checker.expect(row >= 0 && row + kRowUnit < rows, "feature %d of %d", feature, size);
      for (const std::int64_t at : {row, row + kRowUnit}) {
        checker.expect(features[static_cast<std::size_t>(at)] < 0, "row %d twice", int(at));
        features[static_cast<std::size_t>(at)] = feature;
      }
      // Both rows lie in the same m16 tile, eight apart, and in the same unit of a block's share.
      checker.expect(row % 16 < kRowUnit && row / kPairUnit == (row + kRowUnit) / kPairUnit,
                     "gate row %d is in the upper half", int(row));
    }
  }
}

void check_sweeps(Random& random, Checker& checker) {
  for (int i = 0; i < 3000; ++i) {
    const int sweep_rows = 16 * random.between(1, 16), chunks = random.between(1, 300);
    const int rows = kRowUnit * random.between(1, 130), first = kRowUnit * random.between(0, 50);
    int next = first;
    for (int idx = 0; idx < sweep_count(rows, sweep_rows); ++idx) {
      const Sweep sweep = sweep_of(first, rows, chunks, sweep_rows, idx);
      checker.expect(sweep.first_row == next && sweep.rows > 0, "sweep %d begins at %d", idx,
                     sweep.first_row);
      next += sweep.rows;
      checker.expect(sweep.slot_chunks > 0 && sweep.slot_chunks <= kMaxSlotChunks &&
                         padded_to(sweep.rows, 16) * sweep.slot_chunks <= sweep_rows,
                     "%d rows x %d chunks in a slot of %d", sweep.rows, sweep.slot_chunks,
                     sweep_rows);
      checker.expect((sweep.slots - 1) * sweep.slot_chunks < chunks &&
                         sweep.slots * sweep.slot_chunks >= chunks,
                     "%d slots for %d chunks", sweep.slots, chunks);
    }
    checker.expect(next == first + rows, "sweeps of %d rows end at %d", rows, next - first);
  }
}

}  // namespace
}  // namespace via::persistent

int main() {
  using namespace via::persistent;
  via::testing::Checker checker;
  Random random(1);
  check_shares(random, checker);
  check_packing(random, checker);
  check_gate_rows(checker);
  check_sweeps(random, checker);
  return checker.status();
}
