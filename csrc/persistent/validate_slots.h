// SPDX-License-Identifier: Apache-2.0
// The slots of the weight ring that one block fills in a pass, in order: all slots of all sweeps of
// all open products, as csrc/persistent/weight_ring.cuh walks them. Host code only.
#pragma once

#include <algorithm>

#include "persistent/validate.h"

namespace via::persistent {

inline const Phase& phase_of(const Run& run, int phase_idx) {
  return run.program->phases[static_cast<std::size_t>(phase_idx)];
}

class SlotCursor {
 public:
  SlotCursor() = default;
  SlotCursor(const Run& run, const PassRange& range, const Gates& gates, int block)
      : run_(&run), gates_(&gates), block_(block), phase_idx_(range.first), last_(range.last) {
    skip();
  }

  bool has_slot() const { return phase_idx_ < last_; }
  bool has_slot_of(int phase_idx) const { return has_slot() && phase_idx_ == phase_idx; }
  bool begins_sweep() const { return slot_idx_ == 0; }
  int phase_idx() const { return phase_idx_; }
  std::int64_t taken() const { return taken_; }

  // Rows and columns of the slot, of the phase's matrix.
  Region take() {
    const Phase& phase = phase_of(*run_, phase_idx_);
    const Sweep sweep = sweep_now(phase);
    const int chunk = slot_idx_ * sweep.slot_chunks;
    const int chunks = std::min(sweep.slot_chunks, phase.chunks - chunk);
    Region region;
    region.first_row = sweep.first_row;
    region.last_row = sweep.first_row + sweep.rows;
    region.first = std::int64_t{chunk} * kChunk;
    region.last = std::int64_t{chunk + chunks} * kChunk;
    ++taken_;
    if (++slot_idx_ == sweep.slots) {
      slot_idx_ = 0;
      ++sweep_idx_;
      skip();
    }
    return region;
  }

  Share rows_of(const Phase& phase) const {
    const Share units = share_of(phase.rows / phase.unit, run_->grid, block_);
    return {units.first * phase.unit, units.last * phase.unit};
  }

 private:
  Sweep sweep_now(const Phase& phase) const {
    const Share rows = rows_of(phase);
    return sweep_of(rows.first, rows.last - rows.first, phase.chunks, run_->ring.sweep_rows,
                    sweep_idx_);
  }

  // To the next phase with a slot.
  void skip() {
    for (; phase_idx_ < last_; ++phase_idx_, sweep_idx_ = 0) {
      const Phase& phase = phase_of(*run_, phase_idx_);
      if (phase.rows == 0 || !gate_is_open(*gates_, phase.gate)) continue;
      const Share rows = rows_of(phase);
      if (sweep_idx_ < sweep_count(rows.last - rows.first, run_->ring.sweep_rows)) return;
    }
  }

  const Run* run_ = nullptr;
  const Gates* gates_ = nullptr;
  int block_ = 0;
  int phase_idx_ = 0, last_ = 0;
  int sweep_idx_ = 0, slot_idx_ = 0;
  std::int64_t taken_ = 0;
};

}  // namespace via::persistent
