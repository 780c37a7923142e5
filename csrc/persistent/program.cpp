// SPDX-License-Identifier: Apache-2.0
// The table of phases of a model: one list per kind of pass, one behind the other, all layers in
// each; which sublayers a pass runs is decided by its gates (docs/design.md, section 16).

#include <utility>

#include "persistent/layout.h"
#include "persistent/shape.h"

namespace via::persistent {
namespace {

// A phase without product: its rows, if it has any, are the block's hidden rows.
Phase plain(PhaseKind kind, int layer, int gate) {
  return {kind, layer, gate, 0, 0, kRowUnit, -1, -1, -1, -1};
}

Phase product(PhaseKind kind, int layer, int gate, int rows, int columns, int unit,
              std::int64_t weights) {
  return {kind, layer, gate, rows, columns / kChunk, unit, weights, -1, -1, -1};
}

class Builder {
 public:
  explicit Builder(const ModelShape& shape) : shape_(shape), map_(weight_map(shape)) {}

  void begin(PassKind pass) { range(pass).first = size(); }
  void end(PassKind pass) { range(pass).last = size(); }

  void embed() {
    Phase phase = plain(PhaseKind::kEmbed, -1, -1);
    if (shape_.is_tied) phase.weights = map_.head;
    add(phase);
  }
  void load() { add(plain(PhaseKind::kLoad, -1, -1)); }
  void save() { add(plain(PhaseKind::kSave, -1, -1)); }

  void layers(int first, int last) {
    for (int layer = first; layer < last; ++layer) {
      attention(layer);
      mlp(layer);
    }
  }

  void head() {
    Phase phase = product(PhaseKind::kHead, -1, -1, padded_to(shape_.vocab_size, kRowUnit),
                          shape_.hidden_size, kRowUnit, map_.head);
    phase.input_norm = map_.final_norm;
    add(phase);
  }

  Program take() { return std::move(program_); }

 private:
  void attention(int layer) {
    const LayerMap& at = map_.layers[static_cast<std::size_t>(layer)];
    const int gate = 2 * layer, width = shape_.num_heads * shape_.head_dim;
    Phase qkv = product(PhaseKind::kQkv, layer, gate,
                        (shape_.num_heads + 2 * shape_.num_kv_heads) * shape_.head_dim,
                        shape_.hidden_size, kRowUnit, at.qkv);
    qkv.input_norm = at.attention_norm;
    qkv.bias = at.bias;
    add(qkv);
    Phase rotary = plain(PhaseKind::kRotary, layer, gate);
    rotary.head_norms = at.head_norms;
    add(rotary);
    add(plain(PhaseKind::kAttention, layer, gate));
    add(product(PhaseKind::kOutput, layer, gate, shape_.hidden_size, padded_to(width, kChunk),
                kRowUnit, at.output));
  }

  void mlp(int layer) {
    const LayerMap& at = map_.layers[static_cast<std::size_t>(layer)];
    const int gate = 2 * layer + 1, width = shape_.intermediate_size;
    Phase gate_up = product(PhaseKind::kGateUp, layer, gate, 2 * padded_to(width, kRowUnit),
                            shape_.hidden_size, kPairUnit, at.gate_up);
    gate_up.input_norm = at.mlp_norm;
    add(gate_up);
    add(product(PhaseKind::kDown, layer, gate, shape_.hidden_size, padded_to(width, kChunk),
                kRowUnit, at.down));
  }

  void add(const Phase& phase) { program_.phases.push_back(phase); }
  PassRange& range(PassKind pass) { return program_.passes[static_cast<int>(pass)]; }
  std::int32_t size() const { return static_cast<std::int32_t>(program_.phases.size()); }

  ModelShape shape_;
  WeightMap map_;
  Program program_;
};

}  // namespace

Program build_program(const ModelShape& shape, int shared_prefix) {
  check_shape(shape);
  check_range("shared_prefix", shared_prefix, 0, shape.num_layers);
  Builder builder(shape);

  builder.begin(PassKind::kSlim);
  builder.embed();
  builder.layers(0, shared_prefix);
  builder.save();
  builder.layers(shared_prefix, shape.num_layers);
  builder.head();
  builder.end(PassKind::kSlim);

  builder.begin(PassKind::kPrefix);
  builder.embed();
  builder.layers(0, shared_prefix);
  builder.save();
  builder.end(PassKind::kPrefix);

  builder.begin(PassKind::kTail);
  builder.load();
  builder.layers(shared_prefix, shape.num_layers);
  builder.head();
  builder.end(PassKind::kTail);

  builder.begin(PassKind::kFull);
  builder.embed();
  builder.layers(0, shape.num_layers);
  builder.head();
  builder.end(PassKind::kFull);
  return builder.take();
}

}  // namespace via::persistent
