// SPDX-License-Identifier: Apache-2.0
// Sizes of the buffers of csrc/include/via/persistent.h, in cells.

#include "persistent/validate_cells.h"

namespace via::persistent {

Table table_of(const Run& run, Memory memory) {
  const ModelShape& shape = run.shape;
  const std::int64_t dim = shape.head_dim, heads = shape.num_heads, kv_heads = shape.num_kv_heads;
  Table table;
  const auto set = [&](std::int64_t columns, std::int64_t cell, int rows, bool is_consumed) {
    table.columns = table.zero_from = columns;
    table.cell = cell;
    table.rows = rows;
    table.is_consumed = is_consumed;
  };
  const int tokens = run.tokens();
  switch (memory) {
    case Memory::kNormed: set(shape.hidden_size, kRowUnit, 1, true); break;
    case Memory::kSquareSums: set(tokens, kMaxTokens, run.grid, true); break;
    case Memory::kQkv: set((heads + 2 * kv_heads) * dim, kRowUnit, tokens, true); break;
    case Memory::kQuery: set(heads * dim, dim, tokens, true); break;
    case Memory::kKey:
    case Memory::kValue: set(kv_heads * dim, dim, tokens, true); break;
    case Memory::kCache: set(shape.num_layers * kv_heads * dim, dim, tokens, false); break;
    case Memory::kAttended: set(heads * dim, kChunk, tokens, true); break;
    case Memory::kFeatures:
      set(padded_to(shape.intermediate_size, kChunk), kRowUnit, 1, true);
      table.zero_from = padded_to(shape.intermediate_size, kRowUnit);
      break;
    case Memory::kLogits: set(shape.vocab_size, kRowUnit, 1, false); break;
    case Memory::kHidden:
    case Memory::kSlab:
      set(shape.hidden_size, kRowUnit, 1, false);
      table.is_private = true;
      break;
    case Memory::kNumMemories: break;
  }
  table.row_cells = (table.columns + table.cell - 1) / table.cell;
  table.cells.resize(static_cast<std::size_t>(table.row_cells) * table.rows);
  return table;
}

}  // namespace via::persistent
