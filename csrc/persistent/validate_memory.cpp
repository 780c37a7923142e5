// SPDX-License-Identifier: Apache-2.0
// Rules of the memory that blocks share. An access of a block lies between two of its waits; it is
// ordered before another block's if it was followed by an arrival at an epoch which that block has
// waited for. Blocks are replayed epoch by epoch over cells of 8 or more columns.

#include <string>

#include "persistent/validate_cells.h"
#include "persistent/validate_slots.h"

namespace via::persistent {
namespace {

bool is_read_by_anybody(const Cell& cell) {
  return cell.readers[0].block >= 0 || cell.readers[1].block >= 0;
}

std::string text_of(const Region& region) {
  return std::string(name_of(region.memory)) + " [" + std::to_string(region.first) + ", " +
         std::to_string(region.last) + ")";
}

class Replay {
 public:
  explicit Replay(const Run& run) : run_(run) {
    for (int i = 0; i < kNumMemories; ++i) tables_.push_back(table_of(run, static_cast<Memory>(i)));
  }

  std::string walk(const std::vector<Events>& blocks) {
    std::vector<std::size_t> next(blocks.size());
    std::vector<std::int32_t> arrivals(blocks.size());
    bool goes_on = true;
    for (waits_ = 0; goes_on; ++waits_) {
      goes_on = false;
      for (std::size_t block = 0; block < blocks.size(); ++block) {
        const Events& events = blocks[block];
        block_ = static_cast<int>(block);
        for (std::size_t& i = next[block]; i < events.size();) {
          const Event& event = events[i++];
          if (event.kind == EventKind::kArrive) ++arrivals[block];
          if (event.kind == EventKind::kWait) break;
          arrivals_ = arrivals[block];
          if (!apply(event)) return error_;
        }
        goes_on |= next[block] < events.size();
      }
    }
    const std::string text = missing();
    return text.empty() ? unread() : text;
  }

 private:
  bool apply(const Event& event) {
    const bool is_read = event.kind == EventKind::kRead;
    if (!is_read && event.kind != EventKind::kWrite) return true;
    const Region& region = event.region;
    Table& table = tables_[static_cast<std::size_t>(region.memory)];
    if (region.first_row < 0 || region.last_row > table.rows || region.first < 0 ||
        region.first > region.last || region.last > table.columns) {
      return fail(event, "is outside of the buffer");
    }
    if (region.first % table.cell != 0 ||
        (region.last % table.cell != 0 && region.last != table.columns)) {
      return fail(event, "cuts a unit of " + std::to_string(table.cell) + " in two");
    }
    if (!is_read && region.last > table.zero_from) return fail(event, "must stay zero");
    if (is_read && is_seen(table, event)) return true;
    const std::int64_t first = region.first / table.cell;
    const std::int64_t last = (region.last + table.cell - 1) / table.cell;
    for (int row = region.first_row; row < region.last_row; ++row) {
      for (std::int64_t i = first; i < last; ++i) {
        Cell& cell = table.cells[static_cast<std::size_t>(row * table.row_cells + i)];
        const bool is_zero = i * table.cell >= table.zero_from;
        if (!(is_read ? read(cell, event, is_zero) : write(table, cell, event))) return false;
      }
    }
    if (!is_read) {
      table.last_write = arrivals_;
      table.times_seen = 0;
    }
    return true;
  }

  // Every block reads the whole of an input: two stand for the rest, as long as nothing is written.
  bool is_seen(Table& table, const Event& event) {
    const Region &a = table.seen.region, &b = event.region;
    const bool is_same = table.times_seen > 0 && table.seen.number == event.number &&
                         table.seen_waits == waits_ && a.first_row == b.first_row &&
                         a.last_row == b.last_row && a.first == b.first && a.last == b.last;
    if (is_same && table.times_seen >= 2 && table.last_write < waits_) return true;
    table.times_seen = is_same ? table.times_seen + 1 : 1;
    table.seen = event;
    table.seen_waits = waits_;
    return false;
  }

  bool is_unordered(const Access& other) const {
    return other.block >= 0 && other.block != block_ && other.arrivals >= waits_;
  }

  bool read(Cell& cell, const Event& event, bool is_zero) {
    if (is_zero && cell.writer.block < 0) return true;
    if (cell.writer.block < 0) return fail(event, "was not written");
    if (is_unordered(cell.writer)) return fail(event, "is written in the same epoch", cell.writer);
    if (is_private(event) && cell.writer.block != block_) {
      return fail(event, "is another block's", cell.writer);
    }
    if (cell.tag != event.number) return fail(event, "holds the data of another layer or pass");
    note_reader(cell);
    return true;
  }

  // The latest readers of two blocks: whoever writes, the latest of the others is among them.
  void note_reader(Cell& cell) const {
    Access* oldest = &cell.readers[0];
    for (Access& reader : cell.readers) {
      if (reader.block == block_) {
        reader.arrivals = arrivals_;
        return;
      }
      if (reader.arrivals < oldest->arrivals) oldest = &reader;
    }
    *oldest = {block_, arrivals_};
  }

  bool write(const Table& table, Cell& cell, const Event& event) {
    if (is_unordered(cell.writer)) return fail(event, "is written in the same epoch", cell.writer);
    for (const Access& reader : cell.readers) {
      if (is_unordered(reader)) return fail(event, "is read in the same epoch", reader);
    }
    if (is_private(event) && cell.writer.block >= 0 && cell.writer.block != block_) {
      return fail(event, "is another block's", cell.writer);
    }
    if (table.is_consumed && cell.writer.block >= 0 && !is_read_by_anybody(cell)) {
      return fail(event, "is overwritten before anybody read it");
    }
    cell = Cell{};
    cell.tag = event.number;
    cell.writer = {block_, arrivals_};
    return true;
  }

  bool is_private(const Event& event) const {
    return tables_[static_cast<std::size_t>(event.region.memory)].is_private;
  }

  bool fail(const Event& event, const std::string& what, const Access& other = {}) {
    const Phase& phase = phase_of(run_, event.phase);
    error_ = "phase " + std::to_string(event.phase) + " (" + name_of(phase.kind) + "), block " +
             std::to_string(block_) + ": " + text_of(event.region) +
             (event.kind == EventKind::kRead ? ", read, " : ", written, ") + what;
    if (other.block >= 0) error_ += " (block " + std::to_string(other.block) + ")";
    return false;
  }

  std::string unread() const {
    for (int i = 0; i < kNumMemories; ++i) {
      const Table& table = tables_[static_cast<std::size_t>(i)];
      if (!table.is_consumed) continue;
      for (const Cell& cell : table.cells) {
        if (cell.writer.block >= 0 && !is_read_by_anybody(cell)) {
          return std::string(name_of(static_cast<Memory>(i))) + " is written and never read";
        }
      }
    }
    return "";
  }

  // What the passes are there for: logits, saved rows, keys and values in the cache.
  std::string missing() const {
    const auto pass_idx = static_cast<std::int64_t>(run_.passes.size()) - 1;
    const PassKind pass = run_.passes.back();
    if (pass != PassKind::kPrefix && !all_have(Memory::kLogits, pass_idx)) {
      return "logits are not written";
    }
    if ((pass == PassKind::kPrefix || pass == PassKind::kSlim) &&
        !all_have(Memory::kHidden, pass_idx)) {
      return "hidden is not written";
    }
    const Table& cache = tables_[static_cast<std::size_t>(Memory::kCache)];
    const PassRange& range = run_.program->passes[static_cast<int>(pass)];
    const std::int64_t heads = run_.shape.num_kv_heads;
    for (int i = range.first; i < range.last; ++i) {
      const Phase& phase = phase_of(run_, i);
      const bool is_open = gate_is_open(run_.gates[static_cast<int>(pass)], phase.gate);
      if (phase.kind != PhaseKind::kAttention || !is_open) continue;
      if (!has(cache, phase.layer * heads, (phase.layer + 1) * heads, pass_idx)) {
        return "cache of layer " + std::to_string(phase.layer) + " is not written";
      }
    }
    return "";
  }

  bool all_have(Memory memory, std::int64_t tag) const {
    const Table& table = tables_[static_cast<std::size_t>(memory)];
    return has(table, 0, table.row_cells, tag);
  }
  static bool has(const Table& table, std::int64_t first, std::int64_t last, std::int64_t tag) {
    for (int row = 0; row < table.rows; ++row) {
      for (std::int64_t i = first; i < last; ++i) {
        const Cell& cell = table.cells[static_cast<std::size_t>(row * table.row_cells + i)];
        if (cell.writer.block < 0 || cell.tag != tag) return false;
      }
    }
    return true;
  }

  const Run& run_;
  std::vector<Table> tables_;
  std::string error_;
  int block_ = 0;
  std::int32_t waits_ = 0, arrivals_ = 0;
};

}  // namespace

std::string check_memory(const Run& run, const std::vector<Events>& blocks) {
  return Replay(run).walk(blocks);
}

}  // namespace via::persistent
