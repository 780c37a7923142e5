// SPDX-License-Identifier: Apache-2.0
// Who owns what in the persistent step, and where it lies: integer arithmetic shared by the kernel,
// the program builder, its validator and the packer's tests (docs/design.md, section 16).
//
// Weights: W[k / 64][row / 8][8 rows x 128 bytes], the eight 16-byte pieces of a row exchanged by
// piece XOR row. A range of rows, in units of 8, is contiguous within each chunk of 64 columns, and
// eight rows of one piece lie in different banks for ldmatrix.
#pragma once

#include <cstdint>

#include "core/macros.h"
#include "via/persistent.h"

namespace via::persistent {
VIA_CORE_BEGIN

inline constexpr int kThreads = 256;
inline constexpr int kWarps = kThreads / 32;
inline constexpr int kRowUnit = 8;    // weight rows are shared out in these
inline constexpr int kPairUnit = 16;  // gate and up: 8 rows of one, then 8 of the other
inline constexpr int kChunk = 64;     // columns, 128 bytes of a row
inline constexpr int kPiece = 8;      // elements of 16 bytes
inline constexpr int kMaxSlotChunks = 8;

// Units [first, last) of `count` that belong to block `part` of `parts`: sizes differ by one. count
// * parts stays below 2^32: a division of 64 bits would cost every block some hundred clocks per
// phase.
struct Share {
  int first;
  int last;
};
VIA_HD Share share_of(int count, int parts, int part) {
  const auto before = [count, parts](int shares) {
    return static_cast<int>(static_cast<unsigned>(count) * static_cast<unsigned>(shares) /
                            static_cast<unsigned>(parts));
  };
  return {before(part), before(part + 1)};
}

// Element index in a packed matrix of `rows` rows (a multiple of kRowUnit).
VIA_HD std::int64_t packed_index(std::int64_t row, std::int64_t column, std::int64_t rows) {
  const std::int64_t chunk = column / kChunk, within = column % kChunk;
  const std::int64_t piece = within / kPiece ^ row % kRowUnit;
  return (chunk * rows + row) * kChunk + piece * kPiece + within % kPiece;
}

// Gate and up projections as one matrix: row 16 i + j is gate row 8 i + j, row 16 i + 8 + j the up
// row of the same feature, so that one thread of an m16 tile holds both.
VIA_HD std::int64_t gate_row(std::int64_t feature) {
  return feature / kRowUnit * kPairUnit + feature % kRowUnit;
}

// A block's rows of one product are read in sweeps of at most `sweep_rows` rows, each over all
// columns; a slot of the weight ring takes `slot_chunks` chunks of a sweep.
struct Sweep {
  int first_row;
  int rows;
  int slot_chunks;
  int slots;
};
VIA_HD int sweep_count(int rows, int sweep_rows) { return (rows + sweep_rows - 1) / sweep_rows; }
VIA_HD Sweep sweep_of(int first_row, int rows, int chunks, int sweep_rows, int sweep_idx) {
  Sweep sweep;
  sweep.first_row = first_row + sweep_idx * sweep_rows;
  const int left = rows - sweep_idx * sweep_rows;
  sweep.rows = left < sweep_rows ? left : sweep_rows;
  const int padded = (sweep.rows + 15) / 16 * 16;  // whole m16 tiles lie in the slot
  int most = sweep_rows / padded;
  most = most < kMaxSlotChunks ? most : kMaxSlotChunks;
  sweep.slot_chunks = most < chunks ? most : chunks;
  sweep.slots = (chunks + sweep.slot_chunks - 1) / sweep.slot_chunks;
  return sweep;
}

VIA_HD int padded_to(int count, int unit) { return (count + unit - 1) / unit * unit; }

VIA_HD bool gate_is_open(const Gates& gates, int gate) {
  return gate < 0 || (gates.words[gate / 64] >> (gate % 64) & 1u) != 0;
}

VIA_CORE_END
}  // namespace via::persistent
