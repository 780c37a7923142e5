// SPDX-License-Identifier: Apache-2.0
// The events of one block, phase by phase: what csrc/persistent/pass.cuh and the phases behind it
// do to the ring, to barriers and to the memory that blocks share.

#include <algorithm>
#include <utility>

#include "persistent/validate.h"
#include "persistent/validate_slots.h"

namespace via::persistent {
namespace {

constexpr std::int64_t kTagsPerPass = std::int64_t{1} << 40;
constexpr int kAttentionRows = 32;  // query rows of a unit of attention: tokens x heads of a group

class Recorder {
 public:
  Recorder(const Run& run, int block) : run_(run), shape_(run.shape), block_(block) {
    const Share share = share_of(shape_.hidden_size / kRowUnit, run.grid, block);
    first_hidden_ = share.first * kRowUnit;
    last_hidden_ = share.last * kRowUnit;
  }

  Events take() {
    for (const PassKind pass : run_.passes) {
      ++pass_idx_;
      walk(pass);
      if (pass == PassKind::kSlim || pass == PassKind::kPrefix) saved_by_ = pass_idx_;
    }
    return std::move(events_);
  }

 private:
  void walk(PassKind pass) {
    range_ = run_.program->passes[static_cast<int>(pass)];
    gates_ = &run_.gates[static_cast<int>(pass)];
    fills_ = uses_ = SlotCursor(run_, range_, *gates_, block_);
    add({EventKind::kPrime, -1, 0, {}});
    for (int i = 0; i < run_.ring.slots; ++i) fill();
    for (phase_idx_ = range_.first; phase_idx_ < range_.last; ++phase_idx_) {
      if (!gate_is_open(*gates_, phase().gate)) continue;
      record();
      if (phase().kind != PhaseKind::kSave) sync();
    }
  }

  const Phase& phase() const { return phase_of(run_, phase_idx_); }

  void record() {
    switch (phase().kind) {
      case PhaseKind::kEmbed: return set_residual();
      case PhaseKind::kLoad:
        access(EventKind::kRead, Memory::kHidden, saved_by_, first_hidden_, last_hidden_);
        return set_residual();
      case PhaseKind::kSave:
        access(EventKind::kRead, Memory::kSlab, 0, first_hidden_, last_hidden_);
        return access(EventKind::kWrite, Memory::kHidden, pass_idx_, first_hidden_, last_hidden_);
      case PhaseKind::kQkv: return qkv();
      case PhaseKind::kRotary: return rotary();
      case PhaseKind::kAttention: return attention();
      case PhaseKind::kOutput: return add_to_residual(Memory::kAttended, run_.tokens());
      case PhaseKind::kDown: return add_to_residual(Memory::kFeatures, 1);
      case PhaseKind::kGateUp: return gate_up();
      case PhaseKind::kHead: return head();
      case PhaseKind::kNumKinds: return;
    }
  }

  // ---- phases
  void set_residual() {
    access(EventKind::kWrite, Memory::kSlab, 0, first_hidden_, last_hidden_);
    publish(first_hidden_, last_hidden_);
  }

  // The residual times the weight of the norm that the next open product has, and its squares.
  void publish(int first, int last) {
    for (int idx = phase_idx_ + 1; idx < range_.last; ++idx) {
      const Phase& next = phase_of(run_, idx);
      if (next.input_norm < 0 || !gate_is_open(*gates_, next.gate)) continue;
      access(EventKind::kWrite, Memory::kNormed, tag_of(next.input_norm), first, last);
      add({EventKind::kWrite,
           phase_idx_,
           tag_of(next.input_norm),
           {Memory::kSquareSums, block_, block_ + 1, 0, run_.tokens()}});
      return;
    }
  }

  void read_normed() {
    const std::int64_t tag = tag_of(phase().input_norm);
    access(EventKind::kRead, Memory::kNormed, tag, 0, std::int64_t{phase().chunks} * kChunk);
    add({EventKind::kRead, phase_idx_, tag, {Memory::kSquareSums, 0, run_.grid, 0, run_.tokens()}});
  }

  void qkv() {
    const Share rows = use_weights();
    if (rows.first == rows.last) return;
    read_normed();
    add({EventKind::kWrite,
         phase_idx_,
         tag_of(phase().layer),
         {Memory::kQkv, 0, run_.tokens(), rows.first, rows.last}});
  }

  // A unit per token and head, dealt out in turn: which block has which does not matter.
  void rotary() {
    const int heads = shape_.num_heads + 2 * shape_.num_kv_heads;
    for (int unit = block_; unit < run_.tokens() * heads; unit += run_.grid) {
      const int token = unit / heads, head = unit % heads;
      head_access(EventKind::kRead, Memory::kQkv, token, head);
      const int key = head - shape_.num_heads, value = key - shape_.num_kv_heads;
      if (value >= 0) {
        head_access(EventKind::kWrite, Memory::kValue, token, value);
      } else if (key >= 0) {
        head_access(EventKind::kWrite, Memory::kKey, token, key);
      } else {
        head_access(EventKind::kWrite, Memory::kQuery, token, head);
      }
    }
  }

  // A unit per batch row, key head and 32 query rows; the first of a head stores the new tokens.
  void attention() {
    const int group = shape_.num_heads / shape_.num_kv_heads;
    int unit = 0, first_token = 0;
    for (const int count : run_.counts) {
      for (int head = 0; head < shape_.num_kv_heads; ++head) {
        for (int row = 0; row < count * group; row += kAttentionRows) {
          if (unit++ % run_.grid != block_) continue;
          attend(first_token, count, head, row, std::min(row + kAttentionRows, count * group));
        }
      }
      first_token += count;
    }
  }

  void attend(int first_token, int count, int head, int first_row, int last_row) {
    const int group = shape_.num_heads / shape_.num_kv_heads;
    for (int token = 0; token < count; ++token) {
      head_access(EventKind::kRead, Memory::kKey, first_token + token, head);
      head_access(EventKind::kRead, Memory::kValue, first_token + token, head);
      if (first_row == 0) {
        const int cached = phase().layer * shape_.num_kv_heads + head;
        head_access(EventKind::kWrite, Memory::kCache, first_token + token, cached);
      }
    }
    for (int row = first_row; row < last_row; ++row) {
      const int token = first_token + row / group, query = head * group + row % group;
      head_access(EventKind::kRead, Memory::kQuery, token, query);
      head_access(EventKind::kWrite, Memory::kAttended, token, query);
    }
  }

  void add_to_residual(Memory input, int rows) {
    const Share share = use_weights();
    if (share.first != share.last) {
      add({EventKind::kRead,
           phase_idx_,
           tag_of(phase().layer),
           {input, 0, rows, 0, std::int64_t{phase().chunks} * kChunk}});
    }
    access(EventKind::kRead, Memory::kSlab, 0, share.first, share.last);
    access(EventKind::kWrite, Memory::kSlab, 0, share.first, share.last);
    publish(share.first, share.last);
  }

  void gate_up() {
    const Share rows = use_weights();
    if (rows.first == rows.last) return;
    read_normed();
    access(EventKind::kWrite, Memory::kFeatures, tag_of(phase().layer), rows.first / 2,
           rows.last / 2);
  }

  void head() {
    const Share rows = use_weights();
    if (rows.first == rows.last) return;
    read_normed();
    access(EventKind::kWrite, Memory::kLogits, pass_idx_, rows.first,
           std::min(rows.last, shape_.vocab_size));
  }

  // ---- ring and barriers
  Share use_weights() {
    // A slot is left at the next one's barrier, and only then filled again; the last one of a sweep
    // at the end of the sweep.
    while (uses_.has_slot_of(phase_idx_)) {
      const std::int64_t item = uses_.taken();
      const bool begins_sweep = uses_.begins_sweep();
      add({EventKind::kAwait, phase_idx_, run_.ring.slots - (begins_sweep ? 1 : 2), {}});
      if (!begins_sweep) refill(item - 1);
      add({EventKind::kUse, phase_idx_, item, uses_.take()});
      if (!uses_.has_slot_of(phase_idx_) || uses_.begins_sweep()) refill(item);
    }
    return uses_.rows_of(phase());
  }

  void refill(std::int64_t item) {
    add({EventKind::kFree, phase_idx_, item, {}});
    fill();
  }

  // The next slot of the range, whatever the phase that runs; a group without copies at its end.
  void fill() {
    if (!fills_.has_slot()) return add({EventKind::kEmpty, -1, 0, {}});
    const int phase_idx = fills_.phase_idx();
    add({EventKind::kFill, phase_idx, fills_.taken(), fills_.take()});
  }

  void sync() {
    add({EventKind::kArrive, phase_idx_, ++epoch_, {}});
    add({EventKind::kWait, phase_idx_, epoch_, {}});
  }

  // Data of this pass only: a tag is a layer, the offset of a norm, or 0.
  std::int64_t tag_of(std::int64_t value) const { return pass_idx_ * kTagsPerPass + value; }

  void add(const Event& event) { events_.push_back(event); }
  // Of row 0, which stands for all; or of one head.
  void access(EventKind kind, Memory memory, std::int64_t tag, std::int64_t first,
              std::int64_t last) {
    if (first < last) add({kind, phase_idx_, tag, {memory, 0, 1, first, last}});
  }
  void head_access(EventKind kind, Memory memory, int token, int head) {
    const std::int64_t width = shape_.head_dim;
    const std::int64_t tag = memory == Memory::kCache ? pass_idx_ : tag_of(phase().layer);
    add({kind, phase_idx_, tag, {memory, token, token + 1, head * width, (head + 1) * width}});
  }

  const Run& run_;
  const ModelShape& shape_;
  int block_;
  int first_hidden_ = 0, last_hidden_ = 0;
  PassRange range_;
  const Gates* gates_ = nullptr;
  int phase_idx_ = 0;
  SlotCursor fills_, uses_;
  std::int64_t epoch_ = 0;
  int pass_idx_ = -1, saved_by_ = -1;  // in run.passes
  Events events_;
};

}  // namespace

Events block_events(const Run& run, int block) { return Recorder(run, block).take(); }

}  // namespace via::persistent
